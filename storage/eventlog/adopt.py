"""Taking another log in the place of the one that was read so far, on purpose and without loss; and
letting days go that were drained.

What was drained of the former log is kept beside the new one, and the new one's records are numbered
behind it: for every reader it is one log that goes on. Dropped days are kept in the same place.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import EVENT, IMPRESSION, LogMark
from recsys.storage.eventlog.drain import export, keep_until
from recsys.storage.eventlog.known import (
    ADOPTED_FILE,
    Export,
    exports,
    marks,
    read_adopted,
)
from recsys.storage.eventlog.log import EventLog
from recsys.storage.eventlog.open_log import log_address, never_written, open_log
from recsys.storage.eventlog.standing import LogReplaced
from recsys.storage.files import atomic_folder, write_json
from recsys.storage.workspace import LOG_FILE, Workspace

CHUNK = 20_000
"""Records compared at a time; bounds memory."""
TABLES = ("events", "impressions", "items", "users", "forgets", "opt_outs")


@dataclass(frozen=True)
class Adoption:
    """What adopting a log did."""

    needed: bool
    """False where the log continues what was read anyway, and nothing was done."""
    until: int = 0
    """The last position of the former log."""
    shared: int = 0
    """Records that the new log has in common with the former one."""
    renumbered: int = 0
    """Records of the new log that were given positions behind `until`."""
    kept: str = ""
    """Where the former log's records come from."""


def adopt_log(
    config: RecsysConfig, former: str | None = None, *, without_drained: bool = False
) -> Adoption:
    """Let the config's log take the place of the one that was read so far.

    Args:
        former: address of the former log, where it can still be read: what was not drained of it
            is taken along.
        without_drained: go on where what was drained is no longer kept.

    Raises:
        UsageError: the former log is not the one that was read, or what was drained of it is no
            longer kept.
        WorkspaceBusy: a night is at work.
    """
    workspace = Workspace(config.workspace_path)
    with workspace.lock(), open_log(log_address(config)) as log:
        known = marks(workspace)
        if _continues(log, known):
            return Adoption(needed=False)
        if former is None:
            former = _own_file(config, known)
        kept: Path | None
        if former is not None:
            kept, until, source = _drain_former(workspace, former, known)
        else:
            kept, until, source = _last_export(workspace, known, without_drained)
        shared = _shared(log, kept, until)
        _keep(workspace, kept, until)
        names = {mark.identity: mark.position for mark in known}
        renumbered = log.take_over(shared, until, {name: until for name in names if name})
        return Adoption(True, until, shared, renumbered, source)


def _continues(log: EventLog, known: list[LogMark]) -> bool:
    try:
        for mark in known:
            log.expect(mark)
    except LogReplaced:
        return False
    return True


def _own_file(config: RecsysConfig, known: list[LogMark]) -> str | None:
    """The workspace's own log, where the config names another by now and it is the former one."""
    own = str(config.workspace_path / "log" / LOG_FILE)
    if config.serving.log is None or never_written(own):
        return None
    with open_log(own) as log:
        return own if _continues(log, known) else None


def _drain_former(
    workspace: Workspace, address: str, known: list[LogMark]
) -> tuple[Path, int, str]:
    """Export a former log whole; (folder, last position, where from)."""
    if never_written(address):
        raise UsageError("there is no log here", where="--from", found=address)
    aside = workspace.log / "former"
    with open_log(address) as log:
        if not _continues(log, known):
            raise UsageError(
                "this is not the log that was read so far",
                where="--from",
                found=f"log {log.identity}, last position {log.last_position()}",
                expected=", ".join(f"log {m.identity} up to {m.position}" for m in known),
            )
        until = log.last_position()
        with atomic_folder(aside, "the former log") as folder:
            export(log, 0, until, folder, earlier=read_adopted(workspace))
    return aside, until, "the former log"


def _last_export(
    workspace: Workspace, known: list[LogMark], without: bool
) -> tuple[Path | None, int, str]:
    """The longest export that is kept; (folder, last position read, where from)."""
    until = max(mark.position for mark in known)
    found: list[Export] = exports(workspace)
    if found and found[-1].mark.position >= until:
        return found[-1].folder, until, "what was drained of it"
    adopted = read_adopted(workspace)
    if adopted is not None and adopted.until >= until:
        return adopted.folder, until, "what was drained of it"
    if not without:
        raise UsageError(
            "what was drained of the former log is no longer kept, so that nights would train "
            "without it",
            where=str(workspace.path / "stages" / "drain"),
            found=f"an export up to position {found[-1].mark.position}" if found else "none",
            expected=f"one up to position {until}",
            fix="name the former log with --from, or go on without with --without-drained",
        )
    return found[-1].folder if found else None, until, "nothing: it is no longer kept"


def _shared(log: EventLog, folder: Path | None, until: int) -> int:
    """The last position at which the log has the very record that was drained from there."""
    if folder is None:
        return 0
    positions, keys = _drained_keys(folder)
    shared, after = 0, 0
    while after < until and (records := log.read(after, CHUNK)):
        after = records[-1].position
        for record in records:
            name = {EVENT: c.EVENT_ID, IMPRESSION: c.IMPRESSION_ID}.get(record.kind)
            place = int(np.searchsorted(positions, record.position))
            if name is None or place >= len(positions) or positions[place] != record.position:
                continue
            if keys[place].as_py() == record.payload.get(name):
                shared = record.position
    return shared


def _drained_keys(folder: Path) -> tuple[Any, Any]:
    """(positions int64[n] ascending, ids) of the drained events and impressions."""
    parts = []
    for table, name in (("events", c.EVENT_ID), ("impressions", c.IMPRESSION_ID)):
        found = pq.read_table(folder / f"{table}.parquet", columns=[c.POSITION, name])
        parts.append(found.rename_columns([c.POSITION, c.EVENT_ID]))
    whole = pa.concat_tables(parts).sort_by(c.POSITION)
    return whole[c.POSITION].to_numpy(), whole[c.EVENT_ID].combine_chunks()


def drop_drained(
    workspace: Workspace, log: EventLog, drained: Path, mark: LogMark, before: int
) -> int:
    """Let days of the log go that were drained, once what they held lies outside of it.

    Args:
        workspace: keeps what they held.
        log: the log.
        drained: the tables of an export.
        mark: up to where it goes.
        before: days that ended before this moment (µs) go.

    Returns:
        The last position that went; 0 where none did.

    Raises:
        LogUnavailable: somebody else holds them just now; nothing went.
    """
    log.expect(mark)
    until = log.droppable(before, mark.position)
    if until <= log.dropped:
        return 0
    adopted = read_adopted(workspace)
    # Where a night was killed in between they lie there already.
    if adopted is None or adopted.until < until:
        with atomic_folder(workspace.adopted, "days that leave the log") as folder:
            keep_until(drained, until, folder)
            write_json(folder / ADOPTED_FILE, {"until": until})
    log.drop(until)
    return until


def _keep(workspace: Workspace, kept: Path | None, until: int) -> None:
    """Put the drained tables where every later export takes them in."""
    with atomic_folder(workspace.adopted, "what was drained of the former log") as folder:
        for file in [kept / f"{table}.parquet" for table in TABLES] if kept is not None else []:
            # What an earlier version did not write may be absent.
            if file.exists() or file.stem not in ("opt_outs", "users"):
                shutil.copyfile(file, folder / file.name)
        write_json(folder / ADOPTED_FILE, {"until": until})
    former = workspace.log / "former"
    if former.is_dir():
        shutil.rmtree(former)


def describe(adoption: Adoption) -> str:
    """What adopting did, in some lines."""
    if not adoption.needed:
        return "nothing to do: the log continues what was read from it"
    return (
        f"the log was adopted; the former one ended at position {adoption.until}\n"
        f"  of the former log: {adoption.kept}\n"
        f"  in common:         {adoption.shared} positions\n"
        f"  numbered behind:   {adoption.renumbered} records\n"
        "Start the services again: they follow from there."
    )


def as_json(adoption: Adoption) -> str:
    """The same for programs."""
    return json.dumps(adoption.__dict__, indent=2)
