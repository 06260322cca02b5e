"""What every stage of a night is given: config, workspace, runner, reporter and the clock."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.config import RecsysConfig
from recsys.evaluation.report_context import Check
from recsys.storage.processors import processors
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.stages.cost import processor_seconds
from recsys.storage.workspace import Workspace

SHARES = {"encoder": 0.25, "sources": 0.40, "tuning": 0.10, "ranker": 0.20}
"""How budget_minutes is divided (assumed; the report shows what each part really took). What is
left over is for validation, features and evaluation, which take what they take."""


@dataclass
class Night:
    """One night's run."""

    config: RecsysConfig
    workspace: Workspace
    runner: StageRunner
    reporter: Reporter
    until: int | None = None
    """Only events strictly before this count (µs); None means all."""
    began: float = field(default_factory=time.monotonic)
    processor_began: float = field(default_factory=processor_seconds)
    alarms: list[str] = field(default_factory=list)
    served_parity: list[Check] = field(default_factory=list)
    """Batch against online features of served rows; empty where nothing could be compared."""
    live: dict[str, Any] | None = None
    """What the lists that were shown led to; None where nothing was."""
    data_checks: list[Check] = field(default_factory=list)
    """What the checks of the tables found, failed or passed."""

    @cached_property
    def workers(self) -> int:
        """Threads to use: the processors this process may run on."""
        return processors()

    def budget(self, part: str) -> float:
        """Seconds that a part of the night may take."""
        return SHARES[part] * self.config.budget_minutes * 60

    def section(self, name: str) -> dict[str, Any]:
        """A config section as stage input."""
        section: dict[str, Any] = getattr(self.config, name).model_dump(mode="json")
        return section

    def alarm(self, text: str) -> None:
        """Something the analyst must see first; also a warning on the terminal."""
        self.alarms.append(redacted(text))
        self.reporter.warn(text)
