"""What the outputs of a night take until the next one.

Compressed are the fits, the groups and the masked lists: a second night reads some of them, none is
mapped by a service. Fits that took next to nothing are dropped, for they are made again as quickly, and
so are those of the ranker's windows, which nobody reads while the groups made from them are kept.
"""

import json
from pathlib import Path
from typing import Any, Final

from recsys.retrieval.source_kinds import is_warm, own_code
from recsys.storage.files import DiskFull
from recsys.storage.stages.identity import MARKER
from recsys.storage.stages.rest import DROPPED, put_to_rest
from recsys.training.night.night_context import Night

FITS: Final = "source-"
"""Beginning of the names of the stages that fit a source."""
RESTING: Final = ("groups-ranker", "groups-test", "masked-items")
QUICK: Final = 0.02
"""Share of the sources' budget: a fit that took less is dropped (assumed; of the demonstration's 180 s
this is 3.6 s, which EASE and the sequence model alone exceed)."""


def rest_until_tomorrow(night: Night) -> int:
    """Compress or drop what is kept for later nights; returns the bytes freed.

    Call it when everything of tonight is registered and shared.
    """
    freed = 0
    for stage in sorted(night.workspace.stages.iterdir()):
        if not stage.name.startswith(FITS) and stage.name not in RESTING:
            continue
        for marker in sorted(stage.glob(f"*/{MARKER}")):
            told = json.loads(marker.read_text(encoding="utf-8"))
            if told.get(DROPPED):
                continue
            try:
                freed += put_to_rest(marker.parent, drop=_is_spent(night, marker.parent, told))
            except DiskFull:
                return freed  # everything is registered; there is no room for a second form
    return freed


def _is_spent(night: Night, output: Path, told: dict[str, Any]) -> bool:
    """Whether an output is a fit that nobody will read, or that is made again faster than it is worth
    its room.

    Not one that later fits start from (those of the ranker's windows leave out masked items, which other
    windows do not), nor one that shares its bytes with the champion's artifact.
    """
    source = output.parent.name.removeprefix(FITS)
    if not output.parent.name.startswith(FITS) or own_code(source) is not None:
        return False
    if any(file.lstat().st_nlink > 1 for file in output.rglob("*") if file.is_file()):
        return False
    if told["inputs"].get("masked"):
        return True
    return not is_warm(source) and float(told["seconds"]) <= QUICK * night.budget("sources")
