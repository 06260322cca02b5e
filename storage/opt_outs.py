"""Who does not want to be learned from: served as somebody new, and in no table of a night.

What such a person does is still taken in, so that their own data can be given to them and the wish
can be taken back. A wish comes by the command line (`work/opted_out.json`: ids and times, readable by
its owner only) or by the service, through the log; whatever was said last counts. Each night writes
what the log says into the file, so that it outlives the log.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.api import to_microseconds, to_time
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.log_record import LogMark, LogRecord
from recsys.storage.eventlog import EventLog, written_log
from recsys.storage.eventlog.drain import FORGETS_FILE, OPT_OUTS_FILE
from recsys.storage.files import write_json
from recsys.storage.user_times import read_user_times
from recsys.storage.watched_file import LOOK_SECONDS, WatchedFile
from recsys.storage.workspace import Workspace

TAKEN_BACK: Final = "taken_back"
"""In the file, beside `users`: wishes that were taken back, and when."""


class Wish(NamedTuple):
    """What a person said last."""

    at: int
    """µs UTC."""
    out: bool
    """Whether nothing may be learned from them; else it was taken back."""


def wishes(workspace: Workspace) -> dict[str, Wish]:
    """What the workspace's file says of each person.

    Raises:
        RecsysError: the file is damaged; reading on would learn from people against their wish.
    """
    back = _read(workspace, TAKEN_BACK).items()
    out = _read(workspace, "users").items()
    return {user: Wish(_us(at), False) for user, at in back} | {
        user: Wish(_us(at), True) for user, at in out
    }


def opted_out(workspace: Workspace) -> dict[str, str]:
    """{user id: time of the wish}

    Raises:
        RecsysError: the list is damaged; reading on would learn from people against their wish.
    """
    return {user: _iso(wish.at) for user, wish in wishes(workspace).items() if wish.out}


def wish_of(record: LogRecord) -> tuple[str, Wish]:
    """The person and the wish of a record of the log."""
    payload = record.payload
    return str(payload[c.USER_ID]), Wish(int(payload[c.TIMESTAMP]), bool(payload[c.OPTED_OUT]))


def latest(listed: Mapping[str, Wish], said: Iterable[tuple[str, Wish]]) -> dict[str, Wish]:
    """What counts of the file's wishes and of others, in their order."""
    found = dict(listed)
    for user, wish in said:
        if user not in found or wish.at >= found[user].at:
            found[user] = wish
    return found


def all_wishes(config: RecsysConfig) -> dict[str, Wish]:
    """What counts by file and log."""
    with written_log(config) as log:
        return _counted(config, log)


def _counted(config: RecsysConfig, log: EventLog | None) -> dict[str, Wish]:
    listed = wishes(Workspace(config.workspace_path))
    return listed if log is None else latest(listed, map(wish_of, log.opt_outs()))


def unread_people(config: RecsysConfig, known: LogMark) -> frozenset[str]:
    """Of whom nothing that is kept may be read for an answer: who opted out, and who was forgotten by the log
    after what a state holds of it. The next state is without them; lists made over this one must be too.

    Args:
        config: of the workspace.
        known: up to where the state holds the log.

    Raises:
        RecsysError: the list of wishes, or the log, cannot be read.
    """
    with written_log(config) as log:
        unread = {user for user, wish in _counted(config, log).items() if wish.out}
        if log is not None:
            since = known.position if known.identity == log.identity else -1
            unread |= {str(r.payload[c.USER_ID]) for r in log.tombstones() if r.position > since}
    return frozenset(unread)


def opt_out(workspace: Workspace, user_id: str, now: int) -> None:
    """Note a wish; the first time stays."""
    known = wishes(workspace)
    if user_id not in known or not known[user_id].out:
        _write(workspace, known | {user_id: Wish(now, True)})


def opt_in(workspace: Workspace, user_id: str, now: int) -> None:
    """Take a wish back."""
    _write(workspace, wishes(workspace) | {user_id: Wish(now, False)})


def forget_wish(workspace: Workspace, user_id: str) -> bool:
    """Keep nothing of a person's wishes; whether there was one."""
    known = wishes(workspace)
    found = known.pop(user_id, None)
    if found is not None:
        _write(workspace, known)
    return found is not None and found.out


def keep_wishes(workspace: Workspace, drained: Path | None, *, write: bool = True) -> set[str]:
    """Bring the file up to what a whole export of the log says; who is not to be learned from.

    A wish of somebody who was forgotten after it goes: nothing is left to learn.
    """
    listed = wishes(workspace)
    said = [] if drained is None else _exported(drained)
    counted = latest(listed, said)
    for user, at in [] if drained is None else _forgotten(drained):
        if user in counted and counted[user].at < at:
            del counted[user]
    # Taken back is worth a line only where the log says otherwise.
    asked = {user for user, wish in said if wish.out}
    counted = {user: wish for user, wish in counted.items() if wish.out or user in asked}
    if write and counted != listed:
        _write(workspace, counted)
    return {user for user, wish in counted.items() if wish.out}


def _exported(drained: Path) -> list[tuple[str, Wish]]:
    file = drained / OPT_OUTS_FILE
    rows = pq.read_table(file).sort_by(c.POSITION).to_pylist() if file.exists() else []
    return [(r[c.USER_ID], Wish(to_microseconds(r[c.TIMESTAMP]), r[c.OPTED_OUT])) for r in rows]


def _forgotten(drained: Path) -> list[tuple[str, int]]:
    file = drained / FORGETS_FILE
    rows = pq.read_table(file).to_pylist() if file.exists() else []
    return [(r[c.USER_ID], to_microseconds(r[c.RECEIVED_AT])) for r in rows]


def _read(workspace: Workspace, list_name: str) -> dict[str, str]:
    return read_user_times(
        workspace.opt_outs,
        "users who opted out",
        "restore it from a copy; without it they would be learned from against their wish",
        list_name,
    )


def _write(workspace: Workspace, known: Mapping[str, Wish]) -> None:
    more = {user for user, wish in known.items() if wish.out} - opted_out(workspace).keys()
    out = {user: _iso(wish.at) for user, wish in known.items() if wish.out}
    back = {user: _iso(wish.at) for user, wish in known.items() if not wish.out}
    workspace.folder(".")
    write_json(workspace.opt_outs, {"users": out, TAKEN_BACK: back}, mode=0o600)
    if more:
        # What learned from the person is not gone on from: the next fits start from scratch.
        workspace.warm_starts.unlink(missing_ok=True)


def _us(text: str) -> int:
    return to_microseconds(datetime.fromisoformat(text).astimezone(UTC))


def _iso(at: int) -> str:
    return to_time(at).isoformat()


class OptOutList:
    """The file as a service asks it, read again when it has changed; a list that cannot be read leaves
    the one that was read before.

    Args:
        workspace: whose list.
        every: seconds between two looks at the file.
    """

    def __init__(self, workspace: Workspace, every: float = LOOK_SECONDS) -> None:
        self._file = WatchedFile(
            workspace.opt_outs, partial(wishes, workspace), wishes(workspace), every
        )

    def __contains__(self, user_id: object) -> bool:
        wish = self.get(str(user_id))
        return wish is not None and wish.out

    def get(self, user_id: str) -> Wish | None:
        """What the file says of a person now."""
        return self._file.now().get(user_id)
