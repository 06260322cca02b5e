"""A workspace to begin with: a commented recsys.yaml and empty tables of the right shape."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.config_file import (
    EDITOR_LINE,
    SCHEMA_FILE,
    every_setting,
)
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.tables import (
    EVENTS,
    IMPRESSIONS,
    ITEMS,
    TABLES,
    USERS,
    Kind,
)
from recsys.ingestion.bundled import CONFIG, template
from recsys.storage.files import atomic_folder

ARROW = {
    Kind.ID: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.TAGS: pa.list_(pa.string()),
    Kind.TIME: pa.timestamp("us", tz="UTC"),
    Kind.NUMBER: pa.float64(),
    Kind.BOOL: pa.bool_(),
    Kind.IDS: pa.list_(pa.string()),
    Kind.NUMBERS: pa.list_(pa.float32()),
    Kind.VECTOR: pa.list_(pa.float32()),
}


def schema_of(table: str, leave_out: Iterable[str] = ()) -> pa.Schema:
    """Arrow schema of an input table, as its owner writes it."""
    return pa.schema(
        [
            pa.field(column.name, ARROW[column.kind])
            for column in TABLES[table].columns
            if column.name not in leave_out
        ]
    )


def start_workspace(folder: Path, schema: str) -> Path:
    """Write recsys.yaml and empty tables into a new or empty folder; path of the YAML.

    Args:
        folder: to write.
        schema: JSON schema of the YAML, for editors.

    Raises:
        UsageError: the folder holds something, or is a file.
    """
    refuse_occupied(folder, "init")
    with atomic_folder(folder, "the new workspace") as aside:
        (aside / "data").mkdir()
        for table in (ITEMS, EVENTS, IMPRESSIONS, USERS):
            empty = schema_of(table.name, leave_out=(c.RECEIVED_AT,)).empty_table()
            pq.write_table(empty, aside / "data" / f"{table.name}.parquet")
        (aside / CONFIG).write_text(first_config(), encoding="utf-8")
        (aside / SCHEMA_FILE).write_text(schema, encoding="utf-8")
    return folder / CONFIG


def first_config() -> str:
    """A commented recsys.yaml: what most people set, then every other setting with its default."""
    head = template("init")
    shown = frozenset(line.split(":")[0] for line in head.splitlines() if line[:1].isalpha())
    return f"{EDITOR_LINE}\n{head}\n{every_setting(leave_out=shown)}"


def refuse_occupied(folder: Path, command: str) -> None:
    """Refuse a target that is a file or holds something: nothing is ever overwritten."""
    if folder.exists() and not folder.is_dir():
        found = "a file"
    elif folder.is_dir() and any(folder.iterdir()):
        names = sorted(entry.name for entry in folder.iterdir())
        found = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    else:
        return
    raise UsageError(
        "the folder to write is not empty",
        where=str(folder),
        found=found,
        expected="a new or empty folder; nothing is overwritten",
        fix=f"name another folder for `recsys {command}`, or empty this one",
    )
