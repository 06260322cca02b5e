"""What a workspace knows of its log: how far it was read, and what a former log left.

The snapshot in use and every kept export say of which log they hold how much. Where a log was
replaced on purpose (`recsys log adopt`), `log/adopted/` holds what had been drained of the former
one, so that no night trains without it.
"""

import contextlib
import json
from pathlib import Path
from typing import Final, NamedTuple

from recsys.data_schemas.columns import USER_ID
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.log_record import LogMark
from recsys.storage.eventlog.log import EventLog
from recsys.storage.eventlog.open_log import log_address, never_written, open_log
from recsys.storage.eventlog.standing import LogReplaced
from recsys.storage.user_rows import without_users
from recsys.storage.workspace import STATE_MARKER, Workspace

ADOPTED_FILE: Final = "adopted.json"
DRAIN: Final = "drain"
"""Stage that exports the log."""
ROWS: Final = 2
"""Of what a row of the drained tables holds; another number makes nights read the whole log again."""
_MARKER: Final = "stage.json"


class Adopted(NamedTuple):
    """Drained tables that stand for the beginning of the log: what former logs left, and days that were
    dropped."""

    folder: Path
    until: int
    """Their last position; of the log in use what lies behind it counts."""


class Export(NamedTuple):
    """A kept export of the log."""

    folder: Path
    mark: LogMark
    made_of: tuple[int, ...] = ()
    """What its rows hold, and the log's revision when it was made; nothing where it was not kept."""


def marks(workspace: Workspace) -> list[LogMark]:
    """Up to where the log was read: by the snapshot in use and by each export that is kept."""
    found = [export.mark for export in exports(workspace)]
    current = workspace.current_snapshot()
    with contextlib.suppress(OSError, ValueError, KeyError):
        meta = json.loads((current / STATE_MARKER).read_text(encoding="utf-8")) if current else {}
        identity, witness = meta.get("log") or ("", None)
        found.append(LogMark(identity, int(meta["log_position"]), witness))
    return [mark for mark in found if mark.position > 0]


def exports(workspace: Workspace) -> list[Export]:
    """The exports of the log that are kept, the longest last."""
    found = []
    for marker in (workspace.path / "stages" / DRAIN).glob(f"*/{_MARKER}"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            facts = json.loads(marker.read_text(encoding="utf-8"))["facts"]
            log = facts.get("log") or {"identity": "", "witness": None}
            mark = LogMark(log["identity"], int(facts["until"]), log["witness"])
            found.append(Export(marker.parent, mark, tuple(facts.get("made_of", ()))))
    return sorted(found, key=lambda export: (export.mark.position, str(export.folder)))


def read_adopted(workspace: Workspace) -> Adopted | None:
    """What lies outside the log; None where the log was never replaced and no day was dropped."""
    folder = workspace.adopted
    try:
        until = json.loads((folder / ADOPTED_FILE).read_text(encoding="utf-8"))["until"]
    except FileNotFoundError:
        return None
    return Adopted(folder, int(until))


def drained_before(workspace: Workspace, log: EventLog, adopted: Adopted | None) -> Adopted | None:
    """What need not be read from the log again: the longest export that is kept, where no record that it
    holds was changed since, else what lies outside the log."""
    made_of, identity = (ROWS, log.revision()), log.identity
    for export in reversed(exports(workspace)):
        if export.made_of == made_of and export.mark.identity == identity:
            return Adopted(export.folder, export.mark.position)
    return adopted


def purge_adopted(log: EventLog, adopted: Adopted | None) -> int:
    """Take persons who asked to be forgotten since out of what former logs left; how many rows."""
    if adopted is None:
        return 0
    forgotten = {str(stone.payload[USER_ID]) for stone in log.tombstones()}
    files = sorted(adopted.folder.glob("*.parquet"))
    return sum(without_users(f, forgotten) for f in files if f.name != "forgets.parquet")


def standing_lines(config: RecsysConfig) -> list[str]:
    """What the log says of itself, in lines; nothing is changed.

    Raises:
        LogReplaced: it is not the one that was read.
    """
    address, known = log_address(config), marks(Workspace(config.workspace_path))
    require_log(address, known)
    if never_written(address):
        return ["the service has written nothing yet"]
    with open_log(address) as log:
        log.verify()
        for mark in known:
            log.expect(mark)
        read = max((mark.position for mark in known), default=0)
        return [
            f"log {log.identity}",
            f"  last position:  {log.last_position()}",
            f"  read up to:     {read}",
            "  it continues what was read from it",
        ]


def require_log(address: str, known: list[LogMark]) -> None:
    """Nothing, where nothing was ever read from a log that is not there.

    Raises:
        LogReplaced: the log's file is gone.
    """
    if known and never_written(address):
        raise LogReplaced(
            "the log is gone",
            where=address,
            found="no file",
            expected=f"the log of which {max(mark.position for mark in known)} positions were read",
            fix="bring the file back; if a new log is to begin, run `recsys log adopt -c …`",
        )
