"""Rows of a user in Parquet files: whether there are any, and the files without them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.storage.files import atomic_file


def holds_user(file: Path, user_id: str) -> bool:
    """Whether a Parquet file has a row of a user."""
    table = ds.dataset(file, format="parquet")
    if c.USER_ID not in table.schema.names:
        return False
    mine = ds.field(c.USER_ID).cast(pa.string()) == user_id
    return bool(table.count_rows(filter=mine))


def without_users(file: Path, user_ids: Collection[str]) -> int:
    """Rewrite a Parquet file without the rows of some users; how many there were."""
    if c.USER_ID not in pq.read_schema(file).names:
        return 0
    table = pq.read_table(file)
    theirs = pc.is_in(pc.cast(table[c.USER_ID], pa.string()), pa.array([*user_ids], pa.string()))
    count = int(pc.sum(theirs).as_py() or 0)
    if count:
        with atomic_file(file) as aside:
            pq.write_table(table.filter(pc.invert(theirs)), aside)
    return count


def rows_of(file: Path, user_id: str) -> list[dict[str, Any]]:
    """The rows of a user in a Parquet file, by column."""
    table = ds.dataset(file, format="parquet")
    if c.USER_ID not in table.schema.names:
        return []
    mine = ds.field(c.USER_ID).cast(pa.string()) == user_id
    rows: list[dict[str, Any]] = table.to_table(filter=mine).to_pylist()
    return rows
