"""What a night came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.storage.stages import StageResult
from recsys.training.night.gate import Decision
from recsys.training.night.usage import Usage


@dataclass(frozen=True)
class NightResult:
    """What a night came to."""

    version: int | None
    """Registered version; None in a dry run."""
    decision: Decision | None
    report: Path | None
    metrics: Mapping[str, Mapping[str, Any]]
    """System → metric → value, low, high."""
    unchanged: bool
    """Whether no stage had anything to do."""
    lines: list[str]
    usage: Usage | None = None
    """What it took."""
    cut_short: tuple[str, ...] = ()
    """What time ended, a sentence each; see `training.night.less_done`."""

    @classmethod
    def foreseen(cls, results: Sequence[StageResult[Any]], *further: str) -> "NightResult":
        """Of a dry run: what each stage would do, as far as it can see."""
        lines = [
            f"{r.name}: {'unchanged' if r.skipped else 'would run because ' + r.reason}"
            for r in results
        ]
        unchanged = all(r.skipped for r in results)
        return cls(None, None, None, {}, unchanged, [*lines, *(f"… {why}" for why in further)])
