"""Ingestion: the caller's files and the service's log in, checked and numbered tables out.

Written into one folder, aside first, then renamed:

    items.parquet             vocabulary order: row number = item_index; texts never null
    events/*.parquet          by the calendar, sorted by (timestamp, position), with item_index and
                              user_index; see `event_partitions`
    user_vocabulary.parquet   users of events and impressions; row number = user_index
    impressions.parquet       optional; sorted likewise, lists also as item_indices
    users.parquet             optional; attributes by user_id
    quarantine/*.parquet      rows that broke a rule, as they were, with rule, file and row
    summary.json              what was read, set aside and found out
    events.json, events_set_aside.parquet   what a later ingestion needs to build upon this one

The same input gives the same bytes. Nothing is loaded into Python: DuckDB streams and spills.
"""

import shutil
import tempfile
import time as clock
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig, SqlTable
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.data_schemas.tables import (
    EVENTS,
    IMPRESSIONS,
    ITEMS,
    SCHEMA_VERSION,
    USER_INDEX,
    USERS,
    Table,
)
from recsys.ingestion.tables.duck import DuckEngine, engine, quote
from recsys.ingestion.tables.event_partitions import event_files, relation
from recsys.ingestion.tables.event_types import types_of
from recsys.ingestion.tables.event_writing import (
    can_be_kept,
    write_aside,
    write_events,
    write_state,
)
from recsys.ingestion.tables.events import from_files, make_users, stage_events
from recsys.ingestion.tables.impression_rows import (
    stage_impressions,
    stage_users,
    vocabulary_ids,
    write_impressions,
    write_users,
)
from recsys.ingestion.tables.items import stage_items, write_items
from recsys.ingestion.tables.kept_events import Basis, KeptEvents, KnownInputs, basis_of, keep
from recsys.ingestion.tables.readers import (
    Source,
    connection_label,
    drained_files,
    find_files,
    from_connection,
    log_table,
    open_source,
)
from recsys.ingestion.tables.remote_files import open_remote
from recsys.ingestion.tables.resolution import Resolution, detect_resolution, sampled_users
from recsys.ingestion.tables.sql_tables import in_order, open_query
from recsys.ingestion.tables.table_ingest import StartAgain, TableIngest
from recsys.storage.eventlog.retention import NO_LIMITS, Retention
from recsys.storage.file_systems import is_remote
from recsys.storage.files import atomic_folder, write_json

ITEMS_FILE = "items.parquet"
IMPRESSIONS_FILE = "impressions.parquet"
USERS_FILE = "users.parquet"
USER_VOCABULARY_FILE = "user_vocabulary.parquet"
SUMMARY_FILE = "summary.json"
QUARANTINE = "quarantine"
FORGETS = "forgets"
"""Table of the log's export that names forgotten users."""


@dataclass(frozen=True)
class TablePlaces:
    """Where each table comes from, as checked before any row is read."""

    files: dict[str, Source]
    log: dict[str, Source]


def ingest(
    config: RecsysConfig,
    out_dir: Path,
    previous_vocabulary: Path | None = None,
    drained: Path | None = None,
    forgotten: set[str] | None = None,
    *,
    opted_out: Set[str] = frozenset(),
    limits: Retention = NO_LIMITS,
    now: int | None = None,
    known: KnownInputs | None = None,
) -> dict[str, Any]:
    """Check and number the tables of a config and write them into `out_dir`, replacing it.

    Args:
        config: names the tables (`data:`) and what events mean (`events:`).
        out_dir: folder to write; absent or complete, never half.
        previous_vocabulary: an earlier run's items.parquet; its items keep their places.
        drained: whole export of the service's log since its start (events, items, impressions,
            forgets); None without a service. Rows that break a rule there are set aside and
            counted but do not stop the run: nobody could correct them.
        forgotten: users of whom nothing may be kept, besides those the log names.
        opted_out: users who do not want to be learned from: none of their rows is taken in.
        limits: times before which rows are too old to be kept.
        now: moment (µs) after which a timestamp lies in the future; the wall clock when absent.
        known: what identifies the events' files, and an earlier ingestion: of what did not change since,
            its events are taken. The tables are those of an ingestion without it, byte for byte.

    Returns:
        The content of summary.json.

    Raises:
        UsageError: a table is not where the config says.
        DataRefused: a table cannot be used; the message says file, column, rule and counts.
    """
    moment = clock.time_ns() // 1000 if now is None else now
    if previous_vocabulary is not None and not previous_vocabulary.is_file():
        raise UsageError("there is no earlier vocabulary here", where=str(previous_vocabulary))
    for attempt in (known, known and replace(known, earlier=None)):
        with _scratch(out_dir) as scratch, suppress(StartAgain):
            places = _open(config, drained, scratch)
            with atomic_folder(out_dir, "the tables") as aside, engine(scratch) as duck:
                _forget(duck, drained, forgotten or set(), opted_out)
                job = _Job(duck, config, aside, scratch, moment, limits, attempt)
                summary = job.write(places, previous_vocabulary)
                write_json(aside / SUMMARY_FILE, summary)
            return summary
    raise AssertionError("without an earlier ingestion there is nothing to start again from")


@contextmanager
def _scratch(out_dir: Path) -> Iterator[Path]:
    """A folder for the database and what it spills, on the disk of the output."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.scratch-", dir=out_dir.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _open(config: RecsysConfig, drained: Path | None, scratch: Path) -> TablePlaces:
    """Find every table and read its schema; refuses before any row is read."""
    files: dict[str, Source] = {}
    log: dict[str, Source] = {}
    for table in (ITEMS, EVENTS, IMPRESSIONS, USERS):
        place = getattr(config.data, table.name)
        found = drained_files(drained, table) if drained is not None else []
        if found:
            source = open_source(found, log_table(table))
            if source.rows:
                log[table.name] = source
        if place is not None:
            files[table.name] = _open_files(config, place, table, scratch)
            _refuse_empty(files[table.name], log.get(table.name))
    for table in (IMPRESSIONS, USERS):
        if table.name in log and table.name not in files:
            files[table.name] = _nothing(table, log[table.name], scratch)
    return TablePlaces(files, log)


def _open_files(config: RecsysConfig, place: str | SqlTable, table: Table, scratch: Path) -> Source:
    url = config.data.connection
    if url is not None:
        copy = from_connection(url, place, table, scratch)
        ordered = in_order([copy], scratch, table) if isinstance(place, SqlTable) else [copy]
        return open_source(ordered, table, [connection_label(url, place)])
    if isinstance(place, SqlTable):
        return open_query(config, place, table, scratch)
    if is_remote(place):
        return open_remote(place, table, scratch)
    return open_source(find_files(place, config.path("."), table), table)


def _refuse_empty(source: Source, log: Source | None) -> None:
    if source.rows == 0 and log is None and source.table in (ITEMS, EVENTS):
        raise DataRefused(
            f"the {source.table.name} table is empty",
            where=source.where,
            found="0 rows",
            expected="at least one row",
            fix="fill the table and run again",
        )


def _nothing(table: Table, log: Source, scratch: Path) -> Source:
    """An empty table of files, for one that only the log holds."""
    empty = scratch / f"no-{table.name}.parquet"
    pq.write_table(pq.read_schema(log.files[0]).empty_table(), empty)
    return open_source([empty], table, ["the service's log"])


def _forget(
    duck: DuckEngine, drained: Path | None, forgotten: set[str], opted_out: Set[str]
) -> None:
    """The table `forgotten`: until when nothing of a user may be kept; null means ever."""
    duck.run(f"CREATE TABLE forgotten ({c.USER_ID} VARCHAR, until_time BIGINT, until_place BIGINT)")
    log = sorted(drained.rglob(f"{FORGETS}*.parquet")) if drained is not None else []
    for file in log:
        duck.run(
            f"INSERT INTO forgotten SELECT {c.USER_ID}, epoch_us(CAST({c.RECEIVED_AT} AS"
            f" TIMESTAMPTZ)), {c.POSITION} FROM read_parquet({quote(str(file))})"
        )
    named = {str(row[0]) for row in duck.rows(f"SELECT DISTINCT {c.USER_ID} FROM forgotten")}
    for user in sorted((forgotten - named) | opted_out):
        duck.run(f"INSERT INTO forgotten VALUES ({quote(user)}, NULL, NULL)")


@dataclass(frozen=True)
class _Job:
    """One ingestion at work."""

    duck: DuckEngine
    config: RecsysConfig
    out: Path
    scratch: Path
    now: int
    limits: Retention
    known: KnownInputs | None

    def write(self, places: TablePlaces, previous: Path | None) -> dict[str, Any]:
        """Stage, settle and write table after table; the summary."""
        parts = {
            table: TableIngest(self.duck, source.table, source, places.log.get(table), self.scratch)
            for table, source in places.files.items()
        }
        parts["events"].since = self.limits.events
        items, events, impressions = parts["items"], parts["events"], parts.get("impressions")
        accepted = {"items": stage_items(items, previous)}
        self._settle(items)
        write_items(items, self.out / ITEMS_FILE)
        basis = basis_of(events, self.now)
        kept = keep(events, self.known, basis, QUARANTINE)
        accepted["events"] = stage_events(events, self.now, kept)
        self._settle(events)
        _require_events(events, accepted["events"])
        if impressions is not None:
            impressions.since = self.limits.impressions
            accepted["impressions"] = stage_impressions(impressions, self.now)
            self._settle(impressions)
        of_files = from_files(events, kept)
        log_base = max(of_files, from_files(impressions) if impressions else 0)
        users = make_users(
            self.duck,
            kept.first_events() if kept else events.accepted,
            impressions.accepted if impressions else None,
            self.out / USER_VOCABULARY_FILE,
        )
        if impressions is not None:
            ids = vocabulary_ids(self.out / ITEMS_FILE)
            file = self.out / IMPRESSIONS_FILE
            write_impressions(impressions, file, ids, log_base, self.limits.sessions)
        if "users" in parts:
            accepted["users"] = self._users(parts["users"])
        positions = {"files": of_files, "log_base": log_base}
        found = self._events(events, kept, basis)
        return {
            "schema_version": SCHEMA_VERSION,
            "tables": {table: part.summary(accepted[table]) for table, part in parts.items()},
            "items": accepted["items"],
            "users": users,
            "events": accepted["events"],
            "positions": positions,
            "item_attributes": [a.name for a in items.attributes],
            "user_attributes": [a.name for a in parts["users"].attributes]
            if "users" in parts
            else [],
            **found,
        }

    def _settle(self, part: TableIngest) -> None:
        part.settle(self.out / QUARANTINE, self.config.data.quarantine_limit)

    def _users(self, part: TableIngest) -> int:
        """Check and write attributes of users; of how many."""
        count = stage_users(part, self.config.privacy.least_people)
        self._settle(part)
        write_users(part, self.out / USERS_FILE)
        return count

    def _events(self, events: TableIngest, kept: KeptEvents | None, basis: Basis) -> dict[str, Any]:
        """Write the events and what a later ingestion needs; what is found out about them."""
        to_be_kept = self.known if can_be_kept(events, self.known) else None
        if to_be_kept is not None:
            write_aside(events, self.out, to_be_kept)
        facts = write_events(events, self.out, self.known, kept)
        found = _describe(self.duck, self.config, relation(event_files(self.out)))
        if to_be_kept is not None:
            write_state(events, to_be_kept, basis, facts, list(found["event_types"]), self.out)
        return found


def _require_events(events: TableIngest, accepted: int) -> None:
    if accepted == 0:
        raise DataRefused(
            "no event is left after checking the rules",
            where=events.files.where,
            found=", ".join(f"{rule}: {n:,}" for rule, n in events.rejected.items()) or "no rows",
            fix="see the rules; unknown items point to an items table of another export",
        )


def _describe(duck: DuckEngine, config: RecsysConfig, source: str) -> dict[str, Any]:
    """Time range, resolution and event types of the events written, the rows of an SQL relation."""
    first, last, total = duck.rows(
        f"SELECT epoch_us(min({c.TIMESTAMP})), epoch_us(max({c.TIMESTAMP})), count(*) FROM {source}"
    )[0]
    resolution = _resolution(duck, source, total)
    return {
        "time": {"first": _iso(first), "last": _iso(last), "first_us": first, "last_us": last},
        "resolution": resolution._asdict(),
        **types_of(duck, config, source),
    }


def _resolution(duck: DuckEngine, source: str, events: int) -> Resolution:
    """Of the users that `detect_resolution` looks at; the others are not read into memory."""
    every = sampled_users(events)
    where = f" WHERE {USER_INDEX} % {every} = 0" if every > 1 else ""
    query = f"SELECT {USER_INDEX}, epoch_us({c.TIMESTAMP}) AS time FROM {source}"
    table = duck.arrow(query + where)
    if not len(table):
        table = duck.arrow(query)
    user = table[USER_INDEX].to_numpy().astype(np.int32)
    return detect_resolution(user, table["time"].to_numpy(), every)


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")
