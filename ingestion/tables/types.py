"""Which Arrow types a column may have, and what its owner can do about any other.

A type is refused where reading it would be a guess: a moment without a zone, a number that counts
an unknown unit since 1970, an id that went through a float.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.tables import Kind, Table

UNITS: tuple[tuple[float, str, str, str], ...] = (
    (1e11, "seconds", "", "s"),
    (1e14, "milliseconds", " / 1e3", "ms"),
    (1e17, "microseconds", " / 1e6", "us"),
    (float("inf"), "nanoseconds", " / 1e9", "ns"),
)
"""Largest value, unit, divisor in SQL and name in pandas of a number that counts since 1970. A
moment of 1973 to 5138 falls into its own unit."""


def group(kind: pa.DataType) -> str:
    """Coarse kind of an Arrow type: what casts to what without loss of meaning."""
    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        # UUIDs become text in the engine; any other extension is what it is stored as.
        return "uuid" if kind.extension_name == "arrow.uuid" else group(kind.storage_type)
    if t.is_dictionary(kind):
        return group(kind.value_type)
    if t.is_null(kind):
        return "null"
    if t.is_boolean(kind):
        return "bool"
    if t.is_integer(kind) or (t.is_decimal(kind) and kind.scale == 0):
        return "integer"
    if t.is_floating(kind) or t.is_decimal(kind):
        return "float"
    if t.is_timestamp(kind):
        return "timestamp with zone" if kind.tz else "timestamp without zone"
    if t.is_date(kind):
        return "date"
    if (
        t.is_list(kind)
        or t.is_large_list(kind)
        or t.is_list_view(kind)
        or t.is_large_list_view(kind)
        or t.is_fixed_size_list(kind)
    ):
        return f"list<{group(kind.value_type)}>"
    if any(is_(kind) for is_ in (t.is_string, t.is_large_string, t.is_string_view)):
        return "string"
    if any(is_(kind) for is_ in (t.is_binary, t.is_large_binary, t.is_binary_view)):
        return "binary"
    return str(kind)


def wider(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The type of a column that is `first` in one file and `second` in the next; None if there is
    none. A writer's day without nulls is integers and its next is floats, or all its lists empty.
    """
    a, b = group(first), group(second)
    if a == b or b in ("null", "list<null>" if a.startswith("list<") else ""):
        return first
    if a in ("null", "list<null>" if b.startswith("list<") else ""):
        return second
    if {a, b} == {"integer", "float"}:
        return first if a == "float" else second
    if {a, b} == {"list<integer>", "list<float>"}:
        return first if a == "list<float>" else second
    return None


_ACCEPTED: Mapping[Kind, tuple[str, ...]] = {
    Kind.ID: ("string", "binary", "integer", "uuid", "null"),
    Kind.TEXT: ("string", "binary", "null"),
    Kind.TAGS: ("list<string>", "list<binary>", "list<integer>", "list<null>", "string", "null"),
    Kind.TIME: ("timestamp with zone", "date", "null"),
    Kind.NUMBER: ("float", "integer", "null"),
    Kind.BOOL: ("bool", "null"),
    Kind.IDS: ("list<string>", "list<binary>", "list<integer>", "list<null>", "null"),
    Kind.NUMBERS: ("list<float>", "list<integer>", "list<null>", "null"),
    Kind.VECTOR: ("list<float>", "list<integer>", "list<null>", "null"),
}


def check(table: Table, field: pa.Field, label: str, file: Path | None = None) -> None:
    """Refuse a known column of a wrong type; `file` is where the column lies, for the advice.

    Raises:
        DataRefused: with what was found, what is expected and how to get there.
    """
    column = next((known for known in table.columns if known.name == field.name), None)
    if column is None or group(field.type) in _ACCEPTED[column.kind]:
        return
    where = f"{label}, column `{field.name}`"
    if column.kind is Kind.TIME:
        raise _refused_time(field, where, file)
    fix = f"cast `{field.name}` where the table is exported"
    if column.kind is Kind.ID and pa.types.is_decimal(field.type):
        # `7.00` and `7` would be two ids.
        fix += (
            f" to whole numbers: in DuckDB `{field.name}::DECIMAL({min(field.type.precision, 38)}, 0)`; its type"
            f" has room for {field.type.scale} digits after the point, whatever its values"
        )
    elif column.kind is Kind.ID and group(field.type) == "float":
        fix += "; pandas makes floats of integers with gaps: `.astype('Int64')` keeps them whole"
    raise DataRefused(
        "a column has the wrong type",
        where=where,
        found=str(field.type),
        expected=column.kind.value,
        fix=fix,
    )


def _refused_time(field: pa.Field, where: str, file: Path | None) -> DataRefused:
    """A time without a zone is refused rather than guessed: a guess is wrong by hours, silently."""
    kind, column = group(field.type), field.name
    lies_in = _column_of(file, column) if file is not None else None
    what, found = "a column has the wrong type", str(field.type)
    if kind == "timestamp without zone":
        what = "timestamps without a time zone"
        fix = (
            "say which zone they are in where the table is exported; in DuckDB"
            f" `{column} AT TIME ZONE 'UTC'`, in pandas `df['{column}'].dt.tz_localize('UTC')`"
        )
        if lies_in is not None and lies_in.physical_type == "INT96":
            found += " (INT96)"
            fix = (
                "write them with their zone; in Spark set"
                " spark.sql.parquet.outputTimestampType to TIMESTAMP_MICROS"
            )
    elif kind in ("integer", "float"):
        unit, divisor, pandas, seen = _unit(lies_in)
        found += seen
        fix = (
            f"convert them where the table is exported, as {unit} since 1970; in DuckDB"
            f" `to_timestamp({column}{divisor})`, in pandas"
            f" `pd.to_datetime(df['{column}'], unit='{pandas}', utc=True)`"
        )
    else:
        fix = (
            f"convert it where the table is exported; in DuckDB `{column}::TIMESTAMPTZ`, in pandas"
            f" `pd.to_datetime(df['{column}'], utc=True)`"
        )
    return DataRefused(
        what,
        where=where,
        found=found,
        expected="timestamp with a time zone, such as timestamp[us, tz=UTC]",
        fix=fix,
    )


def _column_of(file: Path, column: str) -> Any:
    """The column's metadata in the file's first row group; None where there is none."""
    with pq.ParquetFile(file) as parquet:
        if parquet.metadata.num_row_groups:
            rows = parquet.metadata.row_group(0)
            for number in range(rows.num_columns):
                if rows.column(number).path_in_schema == column:
                    return rows.column(number)
    return None


def _unit(column: Any) -> tuple[str, str, str, str]:
    """What a number since 1970 seems to count: unit, divisor, name in pandas, and an example."""
    if column is None or not column.is_stats_set or not column.statistics.has_min_max:
        return "seconds", "", "s", ""
    largest = column.statistics.max
    unit, divisor, pandas = next(u[1:] for u in UNITS if abs(largest) <= u[0])
    return unit, divisor, pandas, f", such as {largest} ({unit} since 1970?)"
