"""A newer state snapshot between two nights: the current one with the log behind it folded in.

What a service keeps in memory since its snapshot grows with every event; over a newer snapshot it begins
anew. A night makes one from its tables; in between `recsys snapshot` does, from cron.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.log_record import USER
from recsys.features.published_state import PublishedState, publish_state
from recsys.features.state import OnlineState
from recsys.operations.open_release import state_folder
from recsys.storage.eventlog import EventLog, written_log
from recsys.storage.files import atomic_write
from recsys.storage.workspace import Workspace
from recsys.told_attributes import ToldAttributes

CHUNK: Final = 20_000
"""Records read and folded at a time; bounds memory."""


@dataclass(frozen=True)
class MadeSnapshot:
    """What making a snapshot did."""

    folder: Path
    records: int
    """Of the log, folded since the snapshot before."""
    position: int
    published: PublishedState | None
    """Where a store is configured."""


def make_snapshot(config: RecsysConfig) -> MadeSnapshot:
    """Fold the log into the current snapshot, let services use the outcome, and publish it.

    Where the log holds nothing new, the current snapshot is published if the store lacks it.

    Raises:
        RecsysError: no night has finished yet.
        WorkspaceBusy: a run is at work.
        LogReplaced: the log does not continue what the snapshot holds of it.
    """
    workspace = Workspace(config.workspace_path)
    with workspace.lock(), written_log(config) as log:
        folder = state_folder(config)
        state = OnlineState.open(folder)
        records = 0 if log is None else _fold(log, state)
        if records:
            folder = workspace.state / f"{folder.name.partition('.')[0]}.{state.log_position}"
            state.save(folder)
            atomic_write(workspace.current_state, json.dumps({"snapshot": folder.name}))
            workspace.remove_old_snapshots()
        published = publish_state(config, folder)
        return MadeSnapshot(folder, records, state.log_position, published)


def _fold(log: EventLog, state: OnlineState) -> int:
    """Bring a state to the log's end; how many records there were."""
    if state.log_mark.position > 0:
        log.expect(state.log_mark)
    log.require_kept(max(state.log_position, 0))
    told, records = ToldAttributes(state.log_position), 0
    while chunk := log.read(max(state.log_position, 0), CHUNK):
        told.take(chunk)
        state.apply([record for record in chunk if record.kind != USER])
        state.log_position = chunk[-1].position
        records += len(chunk)
    if records:
        state.log_mark = log.mark(state.log_position)
        state.take_attributes(told.all())
    return records
