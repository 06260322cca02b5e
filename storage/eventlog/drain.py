"""A range of the log as Parquet tables, for the nightly job and for other tools.

Each table is written aside, synced and renamed, so a reader never meets half a file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.limits import ATTRIBUTES
from recsys.data_schemas.log_record import (
    EVENT,
    FORGET,
    IMPRESSION,
    ITEM,
    KNOWN_POSITION,
    OPT_OUT,
    USER,
    LogRecord,
    Tombstone,
)
from recsys.storage.eventlog.known import Adopted
from recsys.storage.eventlog.log import EventLog
from recsys.storage.eventlog.retention import FEATURES
from recsys.storage.files import atomic_file

CHUNK = 20_000
"""Records read and written at a time; bounds memory."""
_MOST_ATTRIBUTES = 2 * ATTRIBUTES
"""Attributes of items that are exported; more than tables take, whichever of them those have."""
_TIME = pa.timestamp("us", tz="UTC")
_TAIL = [(c.RECEIVED_AT, _TIME), (c.POSITION, pa.int64())]
_EVENTS = pa.schema(
    [
        (c.USER_ID, pa.string()),
        (c.ITEM_ID, pa.string()),
        (c.EVENT_TYPE, pa.string()),
        (c.TIMESTAMP, _TIME),
        (c.VALUE, pa.float64()),
        (c.IMPRESSION_ID, pa.string()),
        (c.EVENT_ID, pa.string()),
        *_TAIL,
    ]
)
_IMPRESSIONS = pa.schema(
    [
        (c.IMPRESSION_ID, pa.string()),
        (c.USER_ID, pa.string()),
        (c.TIMESTAMP, _TIME),
        (c.ITEM_IDS, pa.list_(pa.string())),
        (c.PROPENSITIES, pa.list_(pa.float64())),
        (c.SCORES, pa.list_(pa.float64())),
        (c.MODEL_VERSION, pa.string()),
        (c.SURFACE, pa.string()),
        (c.CONTEXT, pa.string()),
        (c.RULES, pa.string()),
        (c.TEAMS, pa.list_(pa.string())),
        (c.DEGRADED, pa.list_(pa.string())),
        (c.EXPERIMENT, pa.string()),
        (c.ARM, pa.string()),
        (c.UNIT, pa.string()),
        (KNOWN_POSITION, pa.int64()),
        (FEATURES, pa.string()),
        *_TAIL,
    ]
)
_FORGETS = pa.schema([(c.USER_ID, pa.string()), *_TAIL])
_OPT_OUTS = pa.schema(
    [(c.USER_ID, pa.string()), (c.OPTED_OUT, pa.bool_()), (c.TIMESTAMP, _TIME), *_TAIL]
)
FORGETS_FILE, OPT_OUTS_FILE = "forgets.parquet", "opt_outs.parquet"
_ITEM_TYPES: Mapping[str, Any] = {
    c.ITEM_ID: pa.string(),
    c.TITLE: pa.string(),
    c.DESCRIPTION: pa.string(),
    c.TAGS: pa.list_(pa.string()),
    c.CATEGORY: pa.string(),
    c.CREATED_AT: _TIME,
    c.AVAILABLE: pa.bool_(),
    c.VECTOR: pa.list_(pa.float32()),
}
_USER_TYPES: Mapping[str, Any] = {c.USER_ID: pa.string()}


def export(
    log: EventLog, after: int, until: int, out_dir: Path, earlier: Adopted | None = None
) -> dict[str, int]:
    """Write the records with after < position ≤ until as Parquet tables.

    With `earlier`, what was drained before (of this log, or of former ones) comes first, and of the log
    what lies behind it.
    Gives the number of rows by table: events, items, impressions, users (one for each person), forgets,
    opt_outs.

    Args:
        log: the durable log.
        after: position before the first record.
        until: position of the last record.
        out_dir: folder of the tables; made where it is missing.
        earlier: what was drained before; None without.
    """
    after = max(after, earlier.until) if earlier else after
    out_dir.mkdir(parents=True, exist_ok=True)
    tables = {
        "events": (EVENT, _EVENTS),
        "impressions": (IMPRESSION, _IMPRESSIONS),
        "forgets": (FORGET, _FORGETS),
        "opt_outs": (OPT_OUT, _OPT_OUTS),
    }
    items: list[dict[str, Any]] = []
    users: dict[str, dict[str, Any]] = {}
    with ExitStack() as files:
        sinks = {
            kind: files.enter_context(_sink(out_dir / f"{name}.parquet", schema))
            for name, (kind, schema) in tables.items()
        }
        for name, (kind, _) in tables.items():
            for batch in _batches(earlier, name):
                sinks[kind].take(batch)
        items += [row for batch in _batches(earlier, "items") for row in _rows(batch)]
        users |= {
            row[c.USER_ID]: row for batch in _batches(earlier, "users") for row in _rows(batch)
        }
        for chunk in _without_late_lists(_chunks(log, after, until)):
            for kind, sink in sinks.items():
                sink.write([_row(record) for record in chunk if record.kind == kind])
            items += [_row(record) for record in chunk if record.kind == ITEM]
            _take_users(users, chunk)
        for kind, name, types, rows in (
            (ITEM, "items", _ITEM_TYPES, items),
            (USER, "users", _USER_TYPES, list(users.values())),
        ):
            file = _sink(out_dir / f"{name}.parquet", _item_schema(rows, types))
            sinks[kind] = sink = files.enter_context(file)
            sink.write(_item_rows(rows, sink.schema, types))
    return {
        "events": sinks[EVENT].rows,
        "items": sinks[ITEM].rows,
        "impressions": sinks[IMPRESSION].rows,
        "users": sinks[USER].rows,
        "forgets": sinks[FORGET].rows,
        "opt_outs": sinks[OPT_OUT].rows,
    }


def _batches(earlier: Adopted | None, name: str) -> Iterator[pa.RecordBatch]:
    """What was drained earlier of a table."""
    file = earlier.folder / f"{name}.parquet" if earlier is not None else None
    if file is not None and file.exists():
        with pq.ParquetFile(file) as opened:
            yield from opened.iter_batches(CHUNK)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows with the values that are there; times stay times, which the sinks take as they are."""
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in batch.to_pylist()
    ]


def keep_until(drained: Path, until: int, out_dir: Path) -> None:
    """Of drained tables, the rows up to a position into an existing folder; of persons, the latest word
    on each, which what follows in the log is added to."""
    for file in sorted(drained.glob("*.parquet")):
        with pq.ParquetFile(file) as opened, atomic_file(out_dir / file.name) as aside:
            schema = opened.schema_arrow
            with pq.ParquetWriter(aside, schema) as writer:
                for batch in opened.iter_batches(CHUNK):
                    table = pa.Table.from_batches([batch], schema)
                    if file.stem != "users":
                        table = table.filter(pc.less_equal(table[c.POSITION], until))
                    writer.write_table(table)


def _take_users(users: dict[str, dict[str, Any]], chunk: list[LogRecord]) -> None:
    """What is known of each person after some more records: the latest word, attribute by attribute."""
    for record in chunk:
        user_id = record.payload.get(c.USER_ID, "")
        if record.kind == FORGET:
            users.pop(user_id, None)
        elif record.kind == USER:
            told = {c.RECEIVED_AT: record.received_at, c.POSITION: record.position}
            former = users.get(user_id, {c.USER_ID: user_id})
            users[user_id] = {**former, **record.payload[c.ATTRIBUTES], **told}


def _chunks(log: EventLog, after: int, until: int) -> Iterator[list[LogRecord]]:
    while after < until:
        chunk = [r for r in log.read(after, CHUNK) if r.position <= until]
        if not chunk:
            return
        after = chunk[-1].position
        yield chunk


def _without_late_lists(chunks: Iterator[list[LogRecord]]) -> Iterator[list[LogRecord]]:
    """Leave out lists that reached the log behind the wish of their person to be forgotten, though
    they were made before it. The log refuses them by itself; one that others wrote may hold some."""
    forgotten: dict[str, Tombstone] = {}
    for chunk in chunks:
        kept = []
        for record in chunk:
            if record.kind == FORGET:
                forgotten[record.payload[c.USER_ID]] = Tombstone(
                    record.position, record.received_at
                )
            stone = forgotten.get(record.payload.get(c.USER_ID, ""))
            if record.kind != IMPRESSION or stone is None or not stone.covers(record.payload):
                kept.append(record)
        yield kept


def _row(record: LogRecord) -> dict[str, Any]:
    return {**record.payload, c.RECEIVED_AT: record.received_at, c.POSITION: record.position}


class _Sink:
    """One Parquet file being written."""

    def take(self, batch: pa.RecordBatch) -> None:
        """Add rows of such a file that was written earlier, maybe with fewer columns."""
        there = set(batch.schema.names)
        columns = [
            batch[field.name].cast(field.type)
            if field.name in there
            else pa.nulls(batch.num_rows, field.type)
            for field in self.schema
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.rows += batch.num_rows

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.schema, self.rows, self._writer = schema, 0, writer

    def write(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=self.schema))
            self.rows += len(rows)


@contextmanager
def _sink(path: Path, schema: pa.Schema) -> Iterator[_Sink]:
    """A file that is there, whole, when all have been written."""
    with atomic_file(path) as aside, pq.ParquetWriter(aside, schema) as writer:
        yield _Sink(writer, schema)


def _item_schema(items: list[dict[str, Any]], types: Mapping[str, Any] = _ITEM_TYPES) -> pa.Schema:
    """The standard columns, then the attributes met, those most often set where there are very many:
    boolean, number, or text when mixed."""
    fields = list(types.items())
    known = {*types, c.RECEIVED_AT, c.POSITION}
    often = Counter(key for item in items for key in item if key not in known)
    for name in sorted(sorted(often, key=lambda name: (-often[name], name))[:_MOST_ATTRIBUTES]):
        values = [item[name] for item in items if item.get(name) is not None]
        fields.append((name, _attribute_type(values)))
    return pa.schema([*fields, *_TAIL])


def _attribute_type(values: list[Any]) -> pa.DataType:
    if values and all(isinstance(v, bool) for v in values):
        return pa.bool_()
    if values and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return pa.float64()
    return pa.string()


def _item_rows(
    items: list[dict[str, Any]], schema: pa.Schema, types: Mapping[str, Any] = _ITEM_TYPES
) -> list[dict[str, Any]]:
    """Attributes brought to the type of their column."""
    casts: dict[str, Callable[[Any], Any]] = {
        field.name: _written if field.type == pa.string() else float
        for field in schema
        if field.name not in types and field.type in (pa.string(), pa.float64())
    }
    return [
        {
            name: casts[name](value) if name in casts and value is not None else value
            for name, value in item.items()
        }
        for item in items
    ]


def _written(value: bool | float | str) -> str:
    """A value of an attribute that was sent in several types, as text: whole numbers as they were sent,
    which JSON's reader made floats of."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
