"""DuckDB as this package uses it: bounded memory, spilling beside the output, UTC."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.storage.processors import bound_engine

ROW_GROUP = 500_000
"""Rows of a Parquet row group we write: bounds the memory of a streaming reader."""


@contextmanager
def engine(scratch: Path) -> Iterator["DuckEngine"]:
    """A DuckDB database of its own in the existing folder `scratch`, which the caller removes."""
    # DuckDB names the file of its log by what stands before a `?`; without a file it spills as well.
    place = ":memory:" if "?" in str(scratch) else str(scratch / "scratch.duckdb")
    connection = duckdb.connect(place)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        bound_engine(connection)
        connection.execute(f"SET temp_directory = {quote(str(scratch / 'spill'))}")
        connection.execute("SET enable_progress_bar = false")
        yield DuckEngine(connection)
    finally:
        connection.close()


class DuckEngine:
    """The few calls we make; everything else is SQL."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, sql: str) -> None:
        self._connection.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return list(self._connection.execute(sql).fetchall())

    def arrow(self, sql: str) -> pa.Table:
        """A result that fits into memory."""
        return self._connection.sql(sql).to_arrow_table()

    def write(self, sql: str, path: Path) -> int:
        """As `copy`, by one thread; how many rows. The bytes follow from the rows and their order alone,
        not from how the engine held them."""
        rows = self._connection.sql(sql).to_arrow_reader(ROW_GROUP)
        count = 0
        with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
            for group in _groups(rows):
                writer.write_table(group, row_group_size=ROW_GROUP)
                count += len(group)
        return count

    def one(self, sql: str) -> Any:
        """First column of the first row."""
        return self.rows(sql)[0][0]

    def counts(self, sql: str) -> dict[str, int]:
        """A two-column result as a mapping, without zeros."""
        return {str(name): int(n) for name, n in self.rows(sql) if n}

    def describe(self, relation: str) -> dict[str, str]:
        """Column name → DuckDB type, in order."""
        found = self.rows(
            f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {relation})"
        )
        return {str(name): str(kind) for name, kind in found}

    def copy(self, sql: str, path: Path) -> None:
        """Write a query's result, in its order, as one Parquet file."""
        self.run(
            f"COPY ({sql}) TO {quote(str(path))}"
            f" (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
        )


def _groups(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Batches of any size as tables of `ROW_GROUP` rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in rows:
        held.append(batch)
        size += batch.num_rows
        while size >= ROW_GROUP:
            whole = pa.Table.from_batches(held, rows.schema)
            yield whole.slice(0, ROW_GROUP).combine_chunks()
            held, size = whole.slice(ROW_GROUP).to_batches(), size - ROW_GROUP
    if size:
        yield pa.Table.from_batches(held, rows.schema).combine_chunks()


def quote(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def name(identifier: str) -> str:
    """An identifier of SQL."""
    return '"' + identifier.replace('"', '""') + '"'
