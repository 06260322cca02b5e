"""What a night says of itself to Prometheus: a file for node_exporter's textfile collector.

A night is over before anybody could ask it, so it leaves `work/log/night.prom` behind.
"""

import re
import time
from pathlib import Path
from typing import Final

from recsys.operations.notify import Outcome
from recsys.storage.files import atomic_write
from recsys.storage.workspace import Workspace
from recsys.training.night.usage import Usage

FILE: Final = "night.prom"
OUTCOMES: Final[tuple[Outcome, ...]] = ("promoted", "challenger", "refused", "failed")
ENDED: Final = "recsys_night_ended_timestamp_seconds"
PROMOTED: Final = "recsys_champion_promoted_timestamp_seconds"
OUTCOME: Final = "recsys_night_outcome"
HELP: Final = {
    ENDED: "When the last night ended",
    PROMOTED: "When a night last promoted a version",
    OUTCOME: "1 for the outcome of the last night",
    "recsys_night_seconds": "What the last night took",
    "recsys_night_processor_seconds": "Processor time of the last night",
    "recsys_night_gpu_seconds": "Time for which the last night held a GPU",
    "recsys_night_written_bytes": "Written by the last night's stages",
    "recsys_workspace_bytes": "Of the whole workspace after the last night",
}
"""Every metric of the file; all are gauges."""


def write_night_metrics(workspace: Workspace, outcome: Outcome, usage: Usage | None) -> Path:
    """Write how a night ended; what is not known of this one (a failed night's cost) is left out."""
    path = workspace.log / FILE
    now = time.time()
    values: dict[str, float | None] = {
        ENDED: now,
        PROMOTED: now if outcome == "promoted" else _promoted_before(path),
    }
    if usage is not None:
        values |= {
            "recsys_night_seconds": usage.seconds,
            "recsys_night_processor_seconds": usage.processor_seconds,
            "recsys_night_gpu_seconds": usage.gpu_seconds,
            "recsys_night_written_bytes": float(usage.written_bytes),
            "recsys_workspace_bytes": float(usage.workspace_bytes),
        }
    lines = [
        line
        for name, value in values.items()
        if value is not None
        for line in (*_head(name), f"{name} {value:.3f}")
    ]
    lines += _head(OUTCOME)
    lines += [f'{OUTCOME}{{outcome="{one}"}} {int(one == outcome)}' for one in OUTCOMES]
    atomic_write(path, "\n".join([*lines, ""]))
    return path


def _head(name: str) -> tuple[str, str]:
    return f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"


def _promoted_before(path: Path) -> float | None:
    try:
        found = re.search(rf"^{PROMOTED} (\S+)$", path.read_text(encoding="utf-8"), re.M)
    except OSError:
        return None
    return None if found is None else float(found[1])
