"""The tables looked through for leaks before anything is learned from them; a column that knows what comes
is left out of the tables that the rest of the night reads."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.evaluation.data_leaks.examine import examine
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.leaky_columns import ITEMS
from recsys.evaluation.data_leaks.logged_data import NEVER, LoggedData
from recsys.evaluation.report_context import Check
from recsys.features.ids import IdIndex
from recsys.features.impressions import Impressions
from recsys.features.interactions import Longs
from recsys.features.on_disk import empty
from recsys.ingestion.tables.event_partitions import event_files
from recsys.ingestion.tables.ingest import ITEMS_FILE, USERS_FILE
from recsys.ingestion.tables.load import Tables, impression_ids, load_tables
from recsys.storage.files import link_tree
from recsys.storage.stages import Stage, StageResult, facts
from recsys.storage.stages.identity import MARKER
from recsys.training.night.inputs import SHOWN, TABLES, tables_folder, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.read_data import graded

FILES = {ITEMS: ITEMS_FILE, "users": USERS_FILE}
STANDARD = (c.DESCRIPTION, c.TAGS, c.CATEGORY, c.CREATED_AT)
"""Columns that every items table has: left out, they are there and empty."""


def leave_out_leaks(night: Night) -> StageResult[Path]:
    """The tables without the columns that know what comes: the same stage where there is none.

    What every check found goes to `night.data_checks`, from where the gate and the page take it.
    """
    tables = night.tables
    found = night.runner.run(
        Stage(
            "leaks",
            {"tables": tables.key, "events": night.section("events"), "until": night.until},
            lambda _: _facts(_leaks_of(tables.product, night)),
            facts,
            code=(
                *SHOWN,
                "recsys.evaluation.data_leaks",
                "recsys.features",
                "recsys.ingestion.tables",
                "recsys.training.night.read_data",
            ),
            personal=False,
        )
    ).product
    night.data_checks = [Check(*check) for check in found["checks"]]
    for check in night.data_checks:
        if not check.passed:
            night.reporter.say(f"leaks: {check.outcome}: {check.name}: not so, {check.detail}")
    columns = found["left out"]
    if not columns:
        return tables
    return night.runner.run(
        Stage(
            "tables",
            {**_inputs_of(tables), "tables": tables.key, "left out": columns},
            lambda out: _write_without(tables.product, out / TABLES, columns),
            tables_folder,
            code=("recsys.features.on_disk",),
        )
    )


def _inputs_of(stage: StageResult[Path]) -> dict[str, Any]:
    """What a kept stage was made from, so that a stage made of it says what is different."""
    marker = json.loads((stage.folder / MARKER).read_text(encoding="utf-8"))
    return dict(marker["inputs"])


def _leaks_of(folder: Path, night: Night) -> list[Finding]:
    return find_leaks(load_tables(folder, night.config), folder, night.config, night.until)


def find_leaks(
    tables: Tables, folder: Path, config: RecsysConfig, until: int | None = None
) -> list[Finding]:
    """What every check finds in ingested tables of a folder, of events before a time (µs)."""
    return examine(logged_data(tables, folder, config, until))


def logged_data(
    tables: Tables, folder: Path, config: RecsysConfig, until: int | None = None
) -> LoggedData:
    """Ingested tables as the checks read them."""
    events, _ = graded(tables.interactions, tables.meaning)
    shown = tables.impressions
    named = any(len(ids) > ids.null_count for ids in _read(folder, c.EVENT_ID))
    listed = None if shown is None else _listed_at(folder, shown, len(events))
    if until is not None:
        before = slice(int(np.searchsorted(events.time, until)))
        events = events.before(until)
        listed = None if listed is None else listed[before]
        if shown is not None:
            shown = shown.before(until)
    return LoggedData(
        events,
        tables.catalogue,
        user_table(tables),
        shown,
        partial(ids_of, folder) if named else None,
        listed,
        _dated(tables),
    )


def _read(folder: Path, column: str) -> Iterator[pa.ChunkedArray]:
    """A column of all events, file by file."""
    for file in event_files(folder):
        yield pq.read_table(file, columns=[column]).column(0)


def ids_of(folder: Path, rows: Longs) -> list[str]:
    """The ids of some events of ingested tables, "None" where one has none.

    Args:
        folder: of the tables.
        rows: int64[n], ascending; numbers of events, in their order.
    """
    found, first = [], 0
    for ids in _read(folder, c.EVENT_ID):
        low, high = np.searchsorted(rows, (first, first + len(ids)))
        found += [str(name) for name in ids.take(rows[low:high] - first).to_pylist()]
        first += len(ids)
    return found


def _listed_at(folder: Path, shown: Impressions, events: int) -> Longs:
    """int64[E] µs: when the list that each event names was shown; `NEVER` without one."""
    out, low = empty(events, np.int64), 0
    out[:] = NEVER
    lists = IdIndex.build(impression_ids(folder))
    for names in _read(folder, c.IMPRESSION_ID):
        place = lists.indices_of(names.drop_null())
        named = np.flatnonzero(names.is_valid().to_numpy())
        out[low + named[place >= 0]] = shown.time[place[place >= 0]]
        low += len(names)
    return out


def _dated(tables: Tables) -> bool:
    """Whether most events have a date, and not an order alone."""
    until = tables.resolution.ordinal_until
    return until is None or float((tables.interactions.time <= until).mean()) < 0.5


def _facts(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "checks": [list(finding.check) for finding in findings],
        "left out": [[f.table, f.column] for f in findings if f.leaves_out],
    }


def _write_without(source: Path, target: Path, columns: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The same tables, without the (table, column) named."""
    link_tree(source, target)
    for table, file in FILES.items():
        names = [name for of, name in columns if of == table]
        if names:
            kept = without(pq.read_table(source / file), names)
            (target / file).unlink()
            pq.write_table(kept, target / file)
    return {"left out": [list(column) for column in columns]}


def without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """A table without the columns named; those that items always have stay, empty."""
    for name in names:
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        if name in STANDARD:
            empty = _empty(field, table.num_rows)
            table = table.set_column(place, field.with_nullable(True), empty)
        else:
            table = table.remove_column(place)
    return table


def _empty(field: pa.Field, rows: int) -> pa.Array:
    """What the tables hold where an item has no such thing."""
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        return pa.array([[]] * rows, field.type)
    if pa.types.is_timestamp(field.type):
        return pa.nulls(rows, field.type)
    return pa.array([""] * rows, field.type)
