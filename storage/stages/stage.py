"""One stage: what it reads, how it makes its output, how the output is opened; and what it left.

The code that decides an output is named by the stage beside the module that makes it, which is always in. A
test walks the imports of these modules and fails where one is neither named nor known to decide nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, cast

from recsys.storage.stages.rest import is_dropped, wake

T = TypeVar("T")
Facts = Mapping[str, Any]
Make = Callable[[Path], Facts | None]
_OURS = "recsys."


class WouldRun(Exception):
    """A dry run asks for the output of a stage that it does not run."""

    def __init__(self, name: str) -> None:
        super().__init__(f"what follows depends on the output of {name}")


class _Unmade(dict[str, Any]):
    """The facts of a stage that a dry run does not run: asking for one ends it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def _would_run(self, *_: object) -> NoReturn:
        raise WouldRun(self._name)

    __getitem__ = __iter__ = __len__ = __contains__ = get = items = keys = values = _would_run


@dataclass(frozen=True)
class StageResult(Generic[T]):
    """What a stage left and what it cost."""

    name: str
    key: str
    path: Path
    """The output folder; in a dry run of a stage that would run, it does not exist."""
    facts: Facts
    """What making it returned; in a dry run of a stage that would run, asking raises `WouldRun`."""
    skipped: bool
    """Whether a kept output was used (in a dry run: would be used)."""
    reason: str
    seconds: float = 0.0
    """Of the run that made the output, also when skipped now; without the stages run inside it."""
    peak_mb: float = 0.0
    bytes: int = 0
    opens: "Callable[[StageResult[Any]], T]" = field(
        default=cast(Any, lambda result: result.folder), repr=False, compare=False
    )
    made_again: Callable[[], None] | None = field(default=None, repr=False, compare=False)
    """Makes the files once more; None where they were made just now."""

    @classmethod
    def planned(cls, stage: "Stage[T]", key: str, path: Path, reason: str) -> "StageResult[T]":
        """Of a stage that is yet to run."""
        facts = _Unmade(stage.name)
        return cls(stage.name, key, path, facts, skipped=False, reason=reason, opens=stage.opens)

    @property
    def made(self) -> bool:
        """Whether there is an output: always, but in a dry run."""
        return not isinstance(self.facts, _Unmade)

    def open(self) -> T:
        """What the stage is for, opened anew: for what is large and wanted once.

        Raises:
            WouldRun: in a dry run, where the stage would run.
        """
        return self.opens(self)

    @cached_property
    def product(self) -> T:
        """What the stage is for, opened once."""
        return self.open()

    @property
    def folder(self) -> Path:
        """The output folder, with what rested since an earlier night made whole again.

        Raises:
            WouldRun: in a dry run, where the stage would run.
        """
        if not self.made:
            raise WouldRun(self.name)
        if is_dropped(self.path):
            assert self.made_again is not None  # only a runner gives a dropped output
            self.made_again()
            return self.path
        try:
            wake(self.path)
        except (OSError, ValueError):
            if self.made_again is None:
                raise
            self.made_again()
        return self.path

    @property
    def cost(self) -> dict[str, float]:
        """Numbers of this night for MLflow: a skipped stage cost nothing."""
        if self.skipped:
            return {"seconds": 0.0, "peak_mb": 0.0, "bytes": 0.0}
        return {"seconds": self.seconds, "peak_mb": self.peak_mb, "bytes": float(self.bytes)}


def folder(result: StageResult[Any]) -> Path:
    """Opens a stage whose output is its folder."""
    return result.folder


def facts(result: StageResult[Any]) -> Facts:
    """Opens a stage whose output is its facts."""
    return result.facts


@dataclass(frozen=True)
class Stage(Generic[T]):
    """What a runner runs, or finds done.

    Forgetting a person removes the outputs that are `personal`, so only models and pages without persons
    may say no.
    """

    name: str
    """Also of the folder of its outputs."""
    reads: Mapping[str, Any]
    """JSON-able: keys of earlier stages, hashes of data, config sections. No path of this machine."""
    makes: Make
    """Fills an empty folder and returns its facts."""
    opens: Callable[[StageResult[Any]], T] = field(default=cast(Any, folder))
    """The output as later steps want it; its folder, unless said otherwise."""
    code: tuple[str, ...] = ()
    """Modules and packages whose source decides the output, beside the one that makes it."""
    personal: bool = True
    """Whether the output holds rows about persons (even by number)."""
    resumable: bool = False
    """Whether making it may find what a killed run of the same key left."""
    usable: Callable[[Facts], bool] | None = None
    """Told the facts of a kept output, whether it may be used again; one that holds a failure is made anew."""

    @property
    def deciding(self) -> Iterator[str]:
        """The code that decides the output, each part once."""
        makes = self.makes.func if isinstance(self.makes, partial) else self.makes
        own = str(getattr(makes, "__module__", ""))
        yield from dict.fromkeys([*self.code, *([own] if own.startswith(_OURS) else [])])
