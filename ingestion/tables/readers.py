"""Where a table comes from: Parquet files, a folder of them, a glob, or a table of a connection.

Every file's footer is read before any row is: a missing column, a wrong type or a broken file is
said at once, with what exists. The caller's files are only ever read.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.columns import EVENT_TYPE, POSITION, RECEIVED_AT
from recsys.data_schemas.config import SqlTable
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.data_schemas.limits import COLUMNS
from recsys.data_schemas.tables import Column, Kind, Table
from recsys.ingestion.tables.duck import DuckEngine, name, quote
from recsys.ingestion.tables.types import check, group, wider
from recsys.storage.engines.engine import wrong_query

FILE = "__file"
"""Number of a row's file within its source, from 0, in the order of names."""
ROW = "__row"
"""Number of a row within its file, from 0."""
_PATH = "__path"
_SCAN = frozenset({_PATH, "file_row_number"})
"""Columns that a scan adds; it fails where a file has one of the name, in any case."""
MARK = "\x00"
"""In front of the hexadecimal bytes of an id that is not UTF-8: no sound id holds it, so such ids
stay apart from each other and from all others until their rows are set aside."""


@dataclass(frozen=True)
class Source:
    """A table where it lies: checked, not yet read.

    `kinds` holds each column's Arrow type (columns that are null throughout: the null type) by its
    name in the files; `labels` are the files as messages name them, `files` where they can be read.
    """

    table: Table
    files: tuple[Path, ...]
    labels: tuple[str, ...]
    kinds: Mapping[str, pa.DataType]
    rows: int
    notes: tuple[str, ...] = ()
    clash: bool = False
    """Whether the engine cannot read the files by their columns' names."""
    recoded: bool = False
    """Whether the files are copies of ours, whose columns bear the names of `inner`."""

    def inner(self, column: str) -> str:
        """Name of a column within the engine. A caller's name never gets there: `rowid` or
        `file_row_number` would mean something else, and case would not tell two columns apart."""
        return self._places[column]

    @cached_property
    def _places(self) -> dict[str, str]:
        return {column: f"c{place}" for place, column in enumerate(self.kinds)}

    @property
    def where(self) -> str:
        """The source as a message names it."""
        more = f" and {len(self.labels) - 1} more" if len(self.labels) > 1 else ""
        return f"{self.labels[0]}{more}"


class NoParquet(NamedTuple):
    """What is said of a folder without files that could be read."""

    what: str = "the folder holds no Parquet file"
    expected: str = "files named *.parquet, in it or in folders such as day=2024-05-01"
    fix: str = "export the table there, or correct the path"


NO_PARQUET = NoParquet()


def find_files(place: str, folder: Path, table: Table, setting: str | None = None) -> list[Path]:
    """Parquet files of a path, folder or glob, in the order of their names; `setting` is where the
    path was given, a key of the config unless said otherwise.

    Raises:
        UsageError: nothing lies there.
    """
    anchored = Path(place) if Path(place).is_absolute() else folder / place
    field = setting or f"data.{table.name}"
    if anchored.is_file():
        return [anchored]
    if anchored.is_dir():
        marks = [*anchored.glob("_delta_log/*"), *anchored.glob("metadata/*.metadata.json")]
        refuse_versioned([str(f.relative_to(anchored)) for f in marks], f"{anchored} ({field})")
        found = [
            f
            for f in anchored.rglob("*.parquet")
            if f.is_file() and not hidden(str(f.relative_to(anchored)))
        ]
        if not found:
            raise DataRefused(
                NO_PARQUET.what,
                where=f"{anchored} ({field})",
                found=_listing(anchored),
                expected=NO_PARQUET.expected,
                fix=NO_PARQUET.fix,
            )
        return sorted(found)
    if has_magic(str(anchored)):
        found = [Path(f) for f in glob(str(anchored), recursive=True) if Path(f).is_file()]
        if found:
            return sorted(found)
        raise UsageError(
            "no file matches the pattern",
            where=f"{anchored} ({field})",
            fix="correct the pattern",
        )
    raise UsageError(
        "there is no such file or folder",
        where=f"{anchored} ({field})",
        found=_listing(anchored.parent),
        fix="correct the path"
        + ("" if setting else " in the config; it is relative to the config's folder"),
    )


def refuse_versioned(names: Iterable[str], where: str) -> None:
    """Refuse a folder, told by relative names of its files, that is a versioned table: only its log says
    which files still count; read without it, rows that were changed or deleted would come back.

    Raises:
        DataRefused: it is one of Delta or Iceberg.
    """
    kind = None
    for name_ in names:
        if name_.startswith("_delta_log/"):
            kind = "Delta"
        elif name_.startswith("metadata/") and name_.endswith(".metadata.json"):
            kind = "Iceberg"
    if kind is not None:
        raise DataRefused(
            f"the folder is {'an' if kind == 'Iceberg' else 'a'} {kind} table",
            where=where,
            found="files that may hold rows long changed or deleted",
            expected="plain Parquet files, or a query: `{sql: select … from lake.events}` with "
            "`engine.kind: spark`",
            fix=f"name the query, or export the current rows; in DuckDB COPY (FROM"
            f" {kind.lower()}_scan('…')) TO 'x.parquet'",
        )


def hidden(relative: str) -> bool:
    """Whether a part of a relative path marks a temporary file (`_` or `.` in front)."""
    return any(part.startswith((".", "_")) for part in PurePath(relative).parts)


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f"no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir())
    return (
        ("files " + ", ".join(names[:8]) + (", …" if len(names) > 8 else ""))
        if names
        else ("an empty folder")
    )


def open_source(files: Sequence[Path], table: Table, labels: Sequence[str] | None = None) -> Source:
    """Read the footers of the files and check the columns that the table knows.

    Raises:
        DataRefused: a file is not Parquet, a required column is missing, a type is wrong, or two
            files disagree on a type.
    """
    shown = tuple(labels) if labels else tuple(str(f) for f in files)
    kinds: dict[str, pa.DataType] = {}
    owner: dict[str, str] = {}
    notes: set[str] = set()
    rows, clash = 0, False
    for file, label in zip(files, shown, strict=True):
        schema, count = _footer(file, label)
        rows += count
        partitions = _partition_keys(file)
        _refuse_wide(table, len(schema), label)
        _refuse_ambiguous(table, schema, label)
        for field in [*schema, *(pa.field(key, pa.string()) for key in partitions)]:
            if not field.name:
                notes.add("a column without a name is left out")
                continue
            check(table, field, label, file)
            before = kinds.setdefault(field.name, field.type)
            together = wider(before, field.type)
            if together is None:
                raise DataRefused(
                    "two files of one table disagree on a column's type",
                    where=f"{label}, column `{field.name}`",
                    found=str(field.type),
                    expected=f"{before}, as in {owner[field.name]}",
                    fix="export all files of the table with one schema",
                )
            if together != before or field.name not in owner:
                kinds[field.name], owner[field.name] = together, label
        _require(table, {*schema.names, *partitions}, label)
        clash = clash or _clashes(schema.names)
    source = Source(table, tuple(files), shown, kinds, rows, tuple(sorted(notes)), clash)
    _refuse_all_null(source)
    return source


def _footer(file: Path, label: str) -> tuple[pa.Schema, int]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        size = file.stat().st_size if file.exists() else 0
        found = f"{looks_like(file)}, {size:,} bytes; {_first_line(error)}"
        raise DataRefused(
            "this is not a Parquet file that can be read",
            where=label,
            found="an empty file" if size == 0 else found,
            expected="a Parquet file",
            fix="export the table as Parquet (a CSV converts with DuckDB: COPY (FROM 'x.csv') TO"
            " 'x.parquet')",
        ) from None
    with parquet:
        return parquet.schema_arrow, parquet.metadata.num_rows


_MARKS = (
    (b"PAR1", "a cut Parquet file"),
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3", "a SQLite database"),
    (b"{", "JSON text"),
    (b"[", "JSON text"),
)
"""How files of other formats begin."""


def looks_like(file: Path) -> str:
    """What a file that is no Parquet seems to be."""
    try:
        with file.open("rb") as content:
            head = content.read(4096)
    except OSError:
        return "nothing that can be opened"
    named = next((what for mark, what in _MARKS if head.startswith(mark)), None)
    if named is not None:
        return named
    line = head.splitlines()[0] if head else b""
    divided = next((how for how in (b",", b";", b"\t", b"|") if how in line), None)
    if b"\x00" in head or divided is None:
        return "no format that is known"
    return f"text divided by {divided.decode()!r} (CSV)"


def _refuse_wide(table: Table, columns: int, label: str) -> None:
    if columns > COLUMNS:
        raise DataRefused(
            f"the {table.name} table has too many columns",
            where=label,
            found=f"{columns:,} columns",
            expected=f"at most {COLUMNS:,}",
            fix="export the columns that are of use, vectors and one-hot codes as one column",
        )


def _refuse_ambiguous(table: Table, schema: pa.Schema, label: str) -> None:
    """Of two columns with one of our names nobody can say which is meant."""
    for column in table.names:
        if (times := schema.names.count(column)) > 1:
            raise DataRefused(
                f"column `{column}` is there {times} times",
                where=label,
                expected="each column once",
                fix="rename or drop all but one where the table is exported",
            )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _partition_keys(file: Path) -> list[str]:
    """Names in the path's `name=value` folders."""
    return [part.split("=", 1)[0] for part in file.parent.parts if "=" in part]


def _require(table: Table, present: Iterable[str], label: str) -> None:
    here = sorted(present)
    for column in table.columns:
        if column.required and column.name not in here:
            other = [n for n in here if _plain(n) == _plain(column.name)]
            raise DataRefused(
                f"column `{column.name}` is not found in the {table.name} table",
                where=label,
                found="existing columns: " + (", ".join(here) or "none"),
                expected=f"`{column.name}` ({column.kind.value})",
                fix=f"rename `{other[0]}` to `{column.name}` where the table is exported"
                if other
                else "rename or add the column where the table is exported",
            )


def _plain(column: str) -> str:
    """A column's name without case and punctuation: `itemId` is `item_id`."""
    return "".join(ch for ch in column.lower() if ch.isalnum())


def _refuse_all_null(source: Source) -> None:
    """A required column of the null type holds nothing at all."""
    for column in source.table.columns:
        empty = group(source.kinds[column.name]) == "null" if column.required else False
        if empty and source.rows and column.kind is not Kind.TEXT:
            raise DataRefused(
                "a required column is empty throughout",
                where=f"{source.where}, column `{column.name}`",
                found="only nulls",
                expected=column.kind.value,
                fix="fill it where the table is exported",
            )


def view(
    engine: DuckEngine, source: Source, as_name: str, only: Collection[int] | None = None
) -> None:
    """Make `as_name` a view of the raw rows: columns under the names of `Source.inner`, with `FILE`
    and `ROW` beside them; of the files numbered in `only` alone, where that is given."""
    engine.run(f"CREATE TABLE {name(as_name + '_files')} (label VARCHAR, {FILE} INTEGER)")
    rows = ", ".join(f"({quote(str(f))}, {i})" for i, f in enumerate(source.files))
    engine.run(f"INSERT INTO {name(as_name + '_files')} VALUES {rows}")
    listed = ", ".join(quote(_escaped(f)) for f in source.files)
    partitioned = any(_partition_keys(f) for f in source.files)
    scan = (
        f"read_parquet([{listed}], filename = '{_PATH}', file_row_number = true,"
        f" union_by_name = true, hive_partitioning = {str(partitioned).lower()}"
        + (", hive_types_autocast = false)" if partitioned else ")")
    )
    if only is not None:
        chosen = ", ".join(quote(str(source.files[number])) for number in sorted(only))
        scan = f"(SELECT * FROM {scan} WHERE " + (f"{_PATH} IN ({chosen}))" if only else "false)")
    number = "0" if len(source.files) == 1 else f"f.{FILE}"
    joined = (
        ""
        if len(source.files) == 1
        else f" JOIN {name(as_name + '_files')} f ON f.label = r.{_PATH}"
    )
    partitions = {key for f in source.files for key in _partition_keys(f)}
    columns = "".join(
        f"r.{name(source.inner(c) if source.recoded and c not in partitions else c)}"
        f" AS {source.inner(c)}, "
        for c in source.kinds
    )
    engine.run(
        f"CREATE VIEW {name(as_name)} AS SELECT {columns}{number} AS {FILE},"
        f" r.file_row_number AS {ROW} FROM {scan} r{joined}"
    )


def _escaped(file: Path) -> str:
    """A path that DuckDB does not take for a glob."""
    return "".join(f"[{ch}]" if ch in "*?[" else ch for ch in str(file))


def type_notes(source: Source) -> list[str]:
    """What was taken for something else, column by column, and what was left out."""
    taken = {
        (Kind.ID, "integer"): "as strings",
        (Kind.ID, "uuid"): "as strings",
        (Kind.TIME, "date"): "as midnight UTC",
    }
    return [
        f"`{column.name}` holds {source.kinds[column.name]}, taken {how}"
        for column in source.table.columns
        if column.name in source.kinds
        and (how := taken.get((column.kind, group(source.kinds[column.name]))))
    ] + list(source.notes)


def recode(source: Source, scratch: Path) -> tuple[Source, int]:
    """The same rows in files of our own that the engine reads without surprises; texts repaired.

    Every text cell is valid UTF-8 there, and every column bears the name of `Source.inner`. Wrong
    bytes of a text become U+FFFD, which is counted; an id that is not UTF-8 becomes `MARK` and its
    bytes as hexadecimal. Streams one row group at a time.
    """
    changed = 0
    files = []
    for file_number, file in enumerate(source.files):
        folder = Path(*[p for p in file.parent.parts if "=" in p])
        (scratch / folder).mkdir(parents=True, exist_ok=True)
        target = scratch / folder / f"{source.table.name}-{file_number:06d}.parquet"
        with pq.ParquetFile(file) as parquet:
            fields = {f.name: (i, f) for i, f in reversed(list(enumerate(parquet.schema_arrow)))}
            kept = [(*fields[c], source.inner(c)) for c in source.kinds if c in fields]
            schema = pa.schema([_text_field(field).with_name(inner) for _, field, inner in kept])
            with pq.ParquetWriter(target, schema) as writer:
                for batch in parquet.iter_batches(65_536):
                    columns = []
                    for (place, field, _), ours in zip(kept, schema, strict=True):
                        decode = _decode_id if is_identity(source.table, field.name) else _decode
                        clean, wrong = _clean(batch.column(place), ours.type, decode)
                        columns.append(clean)
                        changed += wrong
                    writer.write_batch(pa.record_batch(columns, schema=schema))
        files.append(target)
    kinds = {n: _text_field(pa.field(n, kind)).type for n, kind in source.kinds.items()}
    return replace(source, files=tuple(files), kinds=kinds, recoded=True), changed


def needs_recoding(source: Source) -> bool:
    """Whether a text column is typed as bytes, or names of columns are in the engine's way."""
    wanted = {column.name for column in source.table.columns}
    bytes_ = any(n in wanted and "binary" in group(kind) for n, kind in source.kinds.items())
    return bytes_ or source.clash


def _clashes(names: Sequence[str]) -> bool:
    """Whether two names differ only in case, or one is a column that the scan itself adds."""
    lower = [name.lower() for name in names]
    return len(set(lower)) < len(lower) or not _SCAN.isdisjoint(lower)


def is_identity(table: Table, column: str) -> bool:
    """Whether a column tells things apart, so that nothing in it may be repaired."""
    ids = (Kind.ID, Kind.IDS)
    return column == EVENT_TYPE or any(
        known.name == column and known.kind in ids for known in table.columns
    )


def _text_field(field: pa.Field) -> pa.Field:
    kind = group(field.type)
    if kind in ("string", "binary"):
        return pa.field(field.name, pa.string())
    if kind in ("list<string>", "list<binary>"):
        return pa.field(field.name, pa.list_(pa.string()))
    return field


Decoder = Callable[[bytes | None], tuple[str | None, bool]]
"""Bytes → text, and whether it was changed."""


def _clean(array: pa.Array, target: pa.DataType, decode: Decoder) -> tuple[pa.Array, int]:
    """An array as valid UTF-8, and how many of its cells were changed."""
    if pa.types.is_list(target) and pa.types.is_string(target.value_type):
        cells = array.cast(pa.list_(pa.binary())).to_pylist()
        decoded = [None if c is None else [decode(v) for v in c] for c in cells]
        wrong = sum(bad for c in decoded if c is not None for _, bad in c)
        return pa.array(
            [None if c is None else [text for text, _ in c] for c in decoded], target
        ), wrong
    if not pa.types.is_string(target):
        return array, 0
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    pairs = [decode(value) for value in array.cast(pa.binary()).to_pylist()]
    return pa.array([text for text, _ in pairs], target), sum(bad for _, bad in pairs)


def _decode(value: bytes | None) -> tuple[str | None, bool]:
    if value is None:
        return None, False
    try:
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace"), True


def _decode_id(value: bytes | None) -> tuple[str | None, bool]:
    """An id, never repaired; no cell counts as changed, for the rows are set aside."""
    if value is None:
        return None, False
    try:
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return MARK + value.hex(), False


def from_connection(url: str, wanted: str | SqlTable, table: Table, scratch: Path) -> Path:
    """A table of an Ibis connection, or what a query of it gives, streamed into a Parquet file of our
    own.

    Raises:
        UsageError: the connection cannot be opened or has no such table.
    """
    label = connection_label(url, wanted)
    target = scratch / f"{table.name}.parquet"
    if url.startswith("duckdb://"):
        _copy_from_duckdb(url, wanted, label, table, target)
    else:
        _copy_through_ibis(url, wanted, label, table, target)
    return target


def connection_label(url: str, wanted: str | SqlTable) -> str:
    """A table or query of a connection as messages name it."""
    if isinstance(wanted, SqlTable):
        return f"{wanted.label} on {redacted(url)}"
    return f"table `{wanted}` of {redacted(url)}"


def _copy_from_duckdb(
    url: str, wanted: str | SqlTable, label: str, table: Table, target: Path
) -> None:
    """DuckDB writes the file itself, opened for reading only."""
    place = url.removeprefix("duckdb://").split("?", 1)[0]
    try:
        database = duckdb.connect(place, read_only=True)
    except duckdb.Error as error:
        raise _no_connection(url, error) from None
    try:
        database.execute("SET TimeZone = 'UTC'")
        if isinstance(wanted, SqlTable):
            rows = f"({wanted.query})"
            try:
                columns = len(database.execute(f"DESCRIBE {wanted.query}").fetchall())
            except duckdb.Error as error:
                raise _wrong(wanted, label, table, error) from None
        else:
            existing = [str(row[0]) for row in database.execute("SHOW TABLES").fetchall()]
            if wanted not in existing:
                raise _no_table(label, table, existing)
            rows = f"(FROM {name(wanted)})"
            columns = len(database.execute(f"DESCRIBE {name(wanted)}").fetchall())
        _refuse_wide(table, columns, label)
        database.execute(f"COPY {rows} TO {quote(str(target))} (FORMAT parquet)")
    finally:
        database.close()


def _copy_through_ibis(
    url: str, wanted: str | SqlTable, label: str, table: Table, target: Path
) -> None:
    """Any other backend, batch by batch."""
    import ibis

    try:
        connection = ibis.connect(url)
    except Exception as error:  # every backend raises kinds of its own
        raise _no_connection(url, error) from None
    try:
        if isinstance(wanted, SqlTable):
            try:
                rows = _rows_of(connection, wanted.query)
            except Exception as error:  # every backend raises kinds of its own
                raise _wrong(wanted, label, table, error) from None
        else:
            existing = connection.list_tables()
            if wanted not in existing:
                raise _no_table(label, table, existing)
            rows = connection.table(wanted)
        with rows.to_pyarrow_batches(chunk_size=65_536) as reader:
            check_schema(reader.schema, table, label)
            with pq.ParquetWriter(target, reader.schema) as writer:
                for batch in reader:
                    writer.write_batch(batch)
    finally:
        connection.disconnect()


def _rows_of(connection: Any, query: str) -> Any:
    """What a query gives, as a table of Ibis."""
    if connection.name != "postgres":
        return connection.sql(query)
    # Ibis 12 drops a view without a name there (sqlglot 30): a view of our own tells the columns.
    with connection.con.cursor() as cursor, connection.con.transaction():
        cursor.execute(f"CREATE TEMPORARY VIEW {QUERY_VIEW} AS {query}")
    return connection.table(QUERY_VIEW)


QUERY_VIEW = "recsys_query"


def check_schema(schema: pa.Schema, table: Table, label: str) -> None:
    """Refuse a wrong table before its rows are read.

    Raises:
        DataRefused: a column is missing or has a wrong type.
    """
    _refuse_wide(table, len(schema), label)
    for field in schema:
        check(table, field, label)
    _require(table, schema.names, label)


def _no_table(label: str, table: Table, existing: Sequence[str]) -> UsageError:
    return UsageError(
        "the connection has no such table",
        where=f"{label} (data.{table.name})",
        found="existing tables: " + (", ".join(sorted(existing)[:20]) or "none"),
        fix="correct the name in the config",
    )


def _wrong(wanted: SqlTable, label: str, table: Table, error: Exception) -> UsageError:
    where = f"{label} (data.{table.name})"
    return wrong_query(wanted.query, where, _first_line(error), "the connection's own dialect")


def _no_connection(url: str, error: Exception) -> UsageError:
    return UsageError(
        "the connection cannot be opened",
        where=f"{redacted(url)} (data.connection)",
        found=_first_line(error),
        expected="an Ibis URL such as postgres://user@host/database or duckdb:///folder/x.db",
        fix="correct the URL, or install the extra of its backend",
    )


def drained_files(folder: Path, table: Table) -> list[Path]:
    """Files of one table in an export of the service's log: `events.parquet`,
    `events-000.parquet` or `events/….parquet`, at any depth."""
    direct = [f for f in folder.rglob(f"{table.name}*.parquet") if f.is_file()]
    inside = [f for f in folder.rglob(f"{table.name}/**/*.parquet") if f.is_file()]
    return sorted({*direct, *inside})


def log_table(table: Table) -> Table:
    """A table as the service's log exports it: ids and the log position are always there."""
    columns = tuple(
        Column(column.name, column.kind, column.required and column.kind is not Kind.TEXT)
        for column in table.columns
        if column.name != RECEIVED_AT
    )
    tail = (Column(RECEIVED_AT, Kind.TIME), Column(POSITION, Kind.NUMBER, required=True))
    return Table(table.name, columns + tail, table.extras)
