"""Ingestion: the caller's files and the service's log in, checked and numbered tables out.

Written into one folder, aside first, then renamed:

    items.parquet             vocabulary order: row number = item_index; texts never null
    events.parquet            sorted by (timestamp, position), with item_index and user_index
    user_vocabulary.parquet   users of events and impressions; row number = user_index
    impressions.parquet       optional; sorted likewise, lists also as item_indices
    users.parquet             optional; attributes by user_id
    quarantine/*.parquet      rows that broke a rule, as they were, with rule, file and row
    summary.json              what was read, set aside and found out

The same input gives the same bytes. Nothing is loaded into Python: DuckDB streams and spills.
"""

import shutil
import tempfile
import time as clock
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
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
from recsys.ingestion.tables.event_types import types_of
from recsys.ingestion.tables.events import (
    from_files,
    make_users,
    stage_events,
    write_events,
)
from recsys.ingestion.tables.impression_rows import (
    stage_impressions,
    stage_users,
    vocabulary_ids,
    write_impressions,
    write_users,
)
from recsys.ingestion.tables.items import stage_items, write_items
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
from recsys.ingestion.tables.table_ingest import TableIngest
from recsys.storage.eventlog.retention import NO_LIMITS, Retention
from recsys.storage.file_systems import is_remote
from recsys.storage.files import atomic_folder, write_json

ITEMS_FILE = "items.parquet"
EVENTS_FILE = "events.parquet"
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

    Returns:
        The content of summary.json.

    Raises:
        UsageError: a table is not where the config says.
        DataRefused: a table cannot be used; the message says file, column, rule and counts.
    """
    moment = clock.time_ns() // 1000 if now is None else now
    with _scratch(out_dir) as scratch:
        places = _open(config, drained, scratch)
        with atomic_folder(out_dir, "the tables") as aside, engine(scratch) as duck:
            _forget(duck, drained, forgotten or set(), opted_out)
            summary = _write(
                duck, config, places, previous_vocabulary, aside, scratch, moment, limits
            )
            write_json(aside / SUMMARY_FILE, summary)
    return summary


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


def _write(
    duck: DuckEngine,
    config: RecsysConfig,
    places: TablePlaces,
    previous: Path | None,
    out: Path,
    scratch: Path,
    now: int,
    limits: Retention,
) -> dict[str, Any]:
    """Stage, settle and write table after table; the summary."""
    if previous is not None and not previous.is_file():
        raise UsageError("there is no earlier vocabulary here", where=str(previous))
    parts = {
        table: TableIngest(duck, source.table, source, places.log.get(table), scratch)
        for table, source in places.files.items()
    }
    parts["events"].since = limits.events
    if "impressions" in parts:
        parts["impressions"].since = limits.impressions
    limit, set_aside = config.data.quarantine_limit, out / QUARANTINE
    items, events = parts["items"], parts["events"]
    accepted = {"items": stage_items(items, previous)}
    items.settle(set_aside, limit)
    write_items(items, out / ITEMS_FILE)
    accepted["events"] = stage_events(events, now)
    events.settle(set_aside, limit)
    _require_events(events, accepted["events"])
    summaries = {"items": items.summary(accepted["items"])}
    summaries["events"] = events.summary(accepted["events"])
    users_of = [events.accepted]
    impressions = parts.get("impressions")
    if impressions is not None:
        accepted["impressions"] = stage_impressions(impressions, now)
        impressions.settle(set_aside, limit)
        summaries["impressions"] = impressions.summary(accepted["impressions"])
        users_of.append(impressions.accepted)
    log_base = max(from_files(part) for part in (events, impressions) if part is not None)
    users = make_users(duck, users_of, out / USER_VOCABULARY_FILE)
    if impressions is not None:
        ids = vocabulary_ids(out / ITEMS_FILE)
        write_impressions(impressions, out / IMPRESSIONS_FILE, ids, log_base, limits.sessions)
    if "users" in parts:
        accepted["users"] = stage_users(parts["users"], config.privacy.least_people)
        parts["users"].settle(set_aside, limit)
        summaries["users"] = parts["users"].summary(accepted["users"])
        write_users(parts["users"], out / USERS_FILE)
    positions = {"files": from_files(events), "log_base": log_base}
    write_events(events, out / EVENTS_FILE, log_base)
    return {
        "schema_version": SCHEMA_VERSION,
        "tables": summaries,
        "items": accepted["items"],
        "users": users,
        "events": accepted["events"],
        "positions": positions,
        "item_attributes": [a.name for a in items.attributes],
        "user_attributes": [a.name for a in parts["users"].attributes] if "users" in parts else [],
        **_describe(duck, config, out / EVENTS_FILE),
    }


def _require_events(events: TableIngest, accepted: int) -> None:
    if accepted == 0:
        raise DataRefused(
            "no event is left after checking the rules",
            where=events.files.where,
            found=", ".join(f"{rule}: {n:,}" for rule, n in events.rejected.items()) or "no rows",
            fix="see the rules; unknown items point to an items table of another export",
        )


def _describe(duck: DuckEngine, config: RecsysConfig, events: Path) -> dict[str, Any]:
    """Time range, resolution and event types of the events written."""
    source = f"read_parquet({quote(str(events))})"
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
