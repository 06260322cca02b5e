"""Tables by SQL: what a query gives, on the engine of the config or on its connection.

The rows are written as Parquet files in the ingestion's scratch and then read as any other table, so
the same rules hold for them to the letter, whatever engine gave them. A query's rows have no order;
they are put into that of their values, so that the same rows give the same tables.
"""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas.config import RecsysConfig, SqlTable
from recsys.data_schemas.tables import Table
from recsys.ingestion.tables.duck import engine, quote
from recsys.ingestion.tables.readers import (
    Source,
    check_schema,
    open_source,
)
from recsys.storage.engines import open_engine
from recsys.storage.scratch import QUERY_ROWS, ScratchFolder, scratch_of


def open_query(config: RecsysConfig, query: SqlTable, table: Table, scratch: Path) -> Source:
    """The rows of a query on the config's engine, checked.

    Raises:
        UsageError: the engine cannot be had, or does not understand the query.
        DataRefused: a column is missing or has a wrong type; told before any row is read.
    """
    label = f"{query.label} on {config.engine.kind}"
    made = open_engine(config.engine)
    folder = scratch / f"rows-{table.name}"
    folder.mkdir()
    here = ScratchFolder(str(folder))
    there = here
    if not made.shares_disk:
        rows = scratch_of(config).below(QUERY_ROWS)
        rows.remove_stale()
        there = rows.below(f"{scratch.name.lstrip('.')}-{table.name}")

    def check(schema: pa.Schema) -> None:
        check_schema(schema, table, label)

    try:
        made.sql(query.query, there, config.path("."), f"data.{table.name}", check)
        if there is not here:
            there.give_out(folder)
    finally:
        if there is not here:
            there.remove()
    files = sorted(folder.glob("*.parquet"))
    return open_source(in_order(files, scratch, table), table, [label])


def in_order(files: list[Path], scratch: Path, table: Table) -> list[Path]:
    """One file with the rows of all, in the order of their values, column by column."""
    listed = ", ".join(quote(str(file)) for file in files)
    target = scratch / f"ordered-{table.name}.parquet"
    work = scratch / f"order-{table.name}"
    work.mkdir()
    with engine(work) as duck:
        try:
            duck.copy(f"SELECT * FROM read_parquet([{listed}]) ORDER BY ALL", target)
        except duckdb.InvalidInputException:
            # Texts that are not UTF-8: the ingestion repairs them, in whatever order they came.
            return _joined(files, target)
    return [target]


def _joined(files: list[Path], target: Path) -> list[Path]:
    target.unlink(missing_ok=True)
    with pq.ParquetWriter(target, pq.read_schema(files[0])) as writer:
        for file in files:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(65_536):
                    writer.write_batch(batch)
    return [target]
