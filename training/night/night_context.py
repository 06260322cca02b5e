"""One night's run: its settings and tools, and what its steps have made so far.

A step takes the night, reads the products of the steps before it, and returns its own, which `nightly.py`
puts in its place. What a dry run cannot see raises `WouldRun` where it is opened.
"""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.tables import TABLES as TABLE_SPECS
from recsys.evaluation.asked_moments import AskedMoments
from recsys.evaluation.drift import Drift
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.report_context import Check
from recsys.storage.engines.scratch_parts import PartsPlace, UnfinishedWork, unfinished
from recsys.storage.files import hash_file, hash_json
from recsys.storage.processors import processors
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import StageResult, StageRunner, stage_and_key
from recsys.storage.stages.cost import MachineTime, machine_time, processor_seconds
from recsys.storage.workspace import Workspace
from recsys.training.moment_parts import MomentParts
from recsys.training.night.gate import Decision
from recsys.training.night.inputs import Inputs
from recsys.training.night.products import ChampionResult, Encoded, Fitted, RankingData, Recipe
from recsys.training.night.release_findings import ReleaseCheck

SHARES = {"encoder": 0.25, "sources": 0.40, "tuning": 0.10, "ranker": 0.20}
"""How budget_minutes is divided (assumed; the report shows what each part really took). What is
left over is for validation, features and evaluation, which take what they take."""


@dataclass(repr=False, eq=False)
class Night:
    """One night's run.

    A product is there once its step is done; asked for earlier, it is an AttributeError.
    """

    config: RecsysConfig
    workspace: Workspace
    runner: StageRunner
    reporter: Reporter
    until: int | None = None
    """Only events strictly before this count (µs); None means all."""
    place: PartsPlace | None = None
    """Where parts of fits are made and sources asked about many moments; None for threads of this
    process."""
    began: float = field(default_factory=time.monotonic)
    processor_began: float = field(default_factory=processor_seconds)
    machine_began: MachineTime = field(default_factory=machine_time)
    alarms: list[str] = field(default_factory=list)

    drained: StageResult[Path] | None = None
    """The service's log up to now; None where the service has written nothing."""
    tables: StageResult[Path] = field(init=False)
    data_checks: list[Check] = field(default_factory=list)
    """What the checks of the tables found, failed or passed."""
    served_parity: list[Check] = field(default_factory=list)
    """Batch against online features of served rows; empty where nothing could be compared."""
    live: dict[str, Any] | None = None
    """What the lists that were shown led to; None where nothing was."""
    data: Inputs = field(init=False)
    encoded: Encoded = field(init=False)
    recipe: Recipe = field(init=False)

    released: Fitted = field(init=False)
    """The recipe's sources fitted on everything known."""
    learned: StageResult[RankingData] = field(init=False)
    """Groups of the ranker's windows."""
    tested: StageResult[RankingData] = field(init=False)
    """Groups of the test windows."""
    rankers: StageResult[Path] = field(init=False)
    """The judged ranker and its ablations."""
    lists: StageResult[list[RankedLists]] = field(init=False)
    """Every system's lists at the test moments, the main one's first."""
    masked: StageResult[tuple[Truth, list[RankedLists]]] = field(init=False)
    """Lists over masked cold items, the main one's first."""

    state: StageResult[Path] = field(init=False)
    """The online state's snapshot."""
    served: StageResult[Path] = field(init=False)
    """The ranker that is released."""
    bundle: StageResult[Path] = field(init=False)

    champion: ChampionResult | None = field(init=False)
    """The champion on the same test moments; None without one."""
    asked: AskedMoments = field(init=False)
    """The test moments with all that lists at them are measured by."""
    evaluation: Evaluation = field(init=False)
    leak_checks: list[Check] = field(init=False)
    trial: ReleaseCheck = field(init=False)
    drifted: list[Drift] = field(init=False)
    decision: Decision = field(init=False)
    page: Path = field(init=False)
    version: int = field(init=False)

    @cached_property
    def workers(self) -> int:
        """Threads to use: the processors this process may run on."""
        return processors()

    @cached_property
    def registry(self) -> Registry:
        """Of the workspace."""
        return Registry(self.config)

    def beside(self, **changed: Any) -> "Night":
        """The same run with other settings or products; what is said and spent stays tonight's."""
        side = copy.copy(self)
        vars(side).update(changed)
        return side

    def budget(self, part: str) -> float:
        """Seconds that a part of the night may take."""
        return SHARES[part] * self.config.budget_minutes * 60

    def section(self, name: str) -> dict[str, Any]:
        """A config section as stage input. Tables' files and a model's folder are told by what they hold:
        a workspace that is moved with its data, or mounted elsewhere, makes nothing again."""
        section: dict[str, Any] = getattr(self.config, name).model_dump(mode="json")
        if name == "data" and self.config.data.connection is None:
            section = {key: value for key, value in section.items() if key not in TABLE_SPECS}
        if name == "encoder":
            if section["teacher"] is None:
                del section["teacher"]  # so that an encoder made before there was the setting stays
            for key in section.keys() & {"model", "teacher"}:
                if (model := Path(section[key]).expanduser()).is_dir():
                    section[key] = _content_of(model)
        return section

    @contextmanager
    def asking(self, out: Path) -> Iterator[MomentParts | None]:
        """Where a stage asks sources about its moments, as `elsewhere`; None for threads of this process.

        Args:
            out: the folder that the stage fills.
        """
        with self.elsewhere(out) as work:
            yield None if work is None else MomentParts(*work)

    @contextmanager
    def elsewhere(self, out: Path) -> Iterator[UnfinishedWork | None]:
        """Where a stage makes parts of its output; None for this process. What is finished stays when the
        stage fails, and is found by its next try.

        Args:
            out: the folder that the stage fills.
        """
        if self.place is None:
            yield None
            return
        with unfinished(self.place.scratch, stage_and_key(out)) as folder:
            yield UnfinishedWork(self.place, folder)

    def alarm(self, text: str) -> None:
        """Something the analyst must see first; also a warning on the terminal."""
        self.alarms.append(redacted(text))
        self.reporter.warn(text)


@cache
def _content_of(folder: Path) -> str:
    """SHA-256 of the files of a folder, once per run."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return hash_json({file.name: hash_file(file) for file in files})[:16]
