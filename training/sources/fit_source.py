"""Which sources suit the data, and fitting them.

Every fit sees only the interactions it is given: the caller cuts them at the moment it needs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final, NamedTuple

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.features.interactions import Interactions
from recsys.features.protocols import RecallSource
from recsys.retrieval.fitted_source import FittableSource, Room, SourceInputs
from recsys.retrieval.source_kinds import cheapest_first, shipped, source_class
from recsys.storage.engines.engine import EngineFailed
from recsys.storage.engines.scratch_parts import UnfinishedWork
from recsys.storage.files import is_disk_full

log = logging.getLogger(__name__)

FITS: Final = "fits the data and the budget"
OWN: Final = "your own, named in sources.own"


class SourceFailed(RecsysError):
    """One source could not be fitted; the others can go on without it.

    Args:
        name: of the source.
        error: what stopped it.
    """

    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        self.why = " ".join(f"{type(error).__name__}: {error}".split())[:300].strip(" :")
        super().__init__(
            f"the source “{name}” could not be fitted",
            where="sources",
            found=self.why,
            fix="correct what stops it, or leave it out of sources.use",
        )


@contextmanager
def failing_as(name: str) -> Iterator[None]:
    """Whatever stops a source inside becomes `SourceFailed`; not what is wrong with the config (a
    `UsageError`), nor a full disk or an engine that is lost, which stop everything."""
    try:
        yield
    except (SourceFailed, UsageError, EngineFailed):
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        raise SourceFailed(name, error) from error


class Applicable(NamedTuple):
    """Whether a source is tried on this data."""

    name: str
    kept: bool
    reason: str


def applicable_sources(
    interactions: Interactions,
    inputs: SourceInputs,
    use: tuple[str, ...] | None,
    memory_bytes: float,
    budget_seconds: float,
    own: Sequence[str] = (),
) -> list[Applicable]:
    """Each source with the reason why it is tried or not, cheapest first.

    One that is always there is kept whatever the data.

    Args:
        interactions: events to fit on.
        inputs: catalogue, texts and vectors.
        use: configured names; None for all that fit.
        memory_bytes: that a fit may take.
        budget_seconds: that one fit may take.
        own: names of a user's own, which need not be in `use`.
    """
    room = Room(memory_bytes, budget_seconds)
    asked = [(kind, use, FITS) for kind in shipped().values()]
    asked += [(source_class(name), None, OWN) for name in own]
    return [_applicable(kind, interactions, inputs, use, room, why) for kind, use, why in asked]


def _applicable(
    kind: type[FittableSource],
    interactions: Interactions,
    inputs: SourceInputs,
    use: tuple[str, ...] | None,
    room: Room,
    why: str,
) -> Applicable:
    if kind.always:
        return Applicable(kind.name, True, f"always there, {kind.always}")
    if use is not None and kind.name not in use:
        return Applicable(kind.name, False, "not in sources.use")
    problem = kind.applies(interactions, inputs, room)
    return Applicable(kind.name, problem is None, problem or why)


def fit_sources(
    interactions: Interactions,
    inputs: SourceInputs,
    plan: Mapping[str, Mapping[str, float]],
    *,
    seed: int,
    workers: int,
    previous: Mapping[str, RecallSource] | None = None,
    elsewhere: UnfinishedWork | None = None,
) -> dict[str, RecallSource]:
    """Fit the planned sources (name → params) on all given interactions, cheapest first.

    Args:
        interactions: events to fit on, all before the cut.
        inputs: catalogue, texts and vectors.
        plan: source → its params.
        seed: of the draws.
        workers: threads.
        previous: sources of an earlier cut: those that can continue from their earlier weights do,
            the others start afresh.
        elsewhere: where parts of fits are made; None for this process.

    Raises:
        UsageError: a name or a param that does not exist.
    """
    fitted: dict[str, RecallSource] = {}
    for name in cheapest_first(plan):
        started = perf_counter()
        fitted[name] = fit_one(
            name, interactions, inputs, plan[name], seed=seed, workers=workers,
            previous=(previous or {}).get(name), elsewhere=elsewhere,
        )  # fmt: skip
        log.info("source %s fitted in %.1f s", name, perf_counter() - started)
    return fitted


def fit_one(
    name: str,
    interactions: Interactions,
    inputs: SourceInputs,
    params: Mapping[str, float],
    *,
    seed: int,
    workers: int,
    previous: RecallSource | None = None,
    elsewhere: UnfinishedWork | None = None,
) -> RecallSource:
    """Fit one source by name.

    Args:
        name: of the source.
        interactions: events to fit on, all before the cut.
        inputs: catalogue, texts and text vectors.
        params: by name, of `Params`; those absent have their defaults.
        seed: of the draws; the same seed gives the same source.
        workers: threads.
        previous: the fit of an earlier cut to go on from, where the source can.
        elsewhere: where parts of the fit are made, where the source has such; None for this process.
    """
    kind = source_class(name)
    more: dict[str, Any] = {"previous": previous} if kind.warm else {}
    if kind.in_parts:
        more["elsewhere"] = elsewhere
    return kind.fit(interactions, inputs, params, seed=seed, workers=workers, **more)
