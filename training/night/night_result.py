"""What a night came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
