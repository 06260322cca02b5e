"""Tables in object storage: Parquet files of an address, through pyarrow's file systems.

Nothing is kept: an ingestion copies the files into its own scratch, reads them as any others, and the
copies go with it. Whether there is something new is known without a copy, by names, sizes and times.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as fs

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.data_schemas.tables import Table
from recsys.ingestion.tables.readers import (
    NO_PARQUET,
    Source,
    hidden,
    open_source,
    refuse_versioned,
)
from recsys.storage.file_systems import file_system_of, unreachable
from recsys.storage.files import explain_disk_full

AT_ONCE: Final = 8
"""Files that are copied side by side (assumed: enough for one machine's network)."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a table as storage lists it."""

    name: str
    """Below the address; the file's own name where the address is a file."""
    path: str
    """Within the file system."""
    size: int
    """Bytes."""
    changed: int
    """ns since 1970-01-01 UTC."""


def list_remote(place: str, table: Table) -> list[RemoteFile]:
    """Parquet files of an address, a file or a folder, in the order of their names.

    Raises:
        UsageError: nothing lies there, or storage does not let us see it.
        DataRefused: the folder holds no Parquet file, or a versioned table.
    """
    where = f"data.{table.name}"
    system, root = file_system_of(place, where)
    try:
        found = system.get_file_info(root)
        if found.is_file:
            return [_told(found, PurePosixPath(root).name)]
        infos = (
            system.get_file_info(fs.FileSelector(root, recursive=True))
            if found.type == fs.FileType.Directory
            else []
        )
    except (OSError, pa.ArrowException) as error:
        raise unreachable(place, where, OSError(str(error))) from None
    label = f"{redacted(place)} ({where})"
    if found.type != fs.FileType.Directory:
        raise _nothing_there(system, root, place, label)
    files = [_told(info, info.path[len(root) :].lstrip("/")) for info in infos if info.is_file]
    refuse_versioned([file.name for file in files], label)
    kept = [f for f in files if f.name.endswith(".parquet") and not hidden(f.name)]
    if not kept:
        names = sorted(file.name for file in files)
        raise DataRefused(
            NO_PARQUET.what,
            where=label,
            found="files " + ", ".join(names[:8]) if names else "an empty folder",
            expected=NO_PARQUET.expected,
            fix=NO_PARQUET.fix,
        )
    return sorted(kept, key=lambda file: PurePosixPath(file.name))


def _told(info: Any, name: str) -> RemoteFile:
    return RemoteFile(name, info.path, info.size, info.mtime_ns or 0)


def _nothing_there(system: Any, root: str, place: str, label: str) -> UsageError:
    """What is missing: the bucket, or what the address names within it."""
    bucket = root.split("/", 1)[0]
    try:
        missing = system.get_file_info(bucket).type == fs.FileType.NotFound
    except (OSError, pa.ArrowException):
        missing = False
    if missing and root != bucket:
        return UsageError(
            "there is no such bucket",
            where=label,
            found=f"no bucket {bucket}",
            fix="correct the address, or create the bucket",
        )
    return UsageError(
        "there is no such file or folder",
        where=label,
        expected="a Parquet file, or a folder of them; patterns with * are for local files",
        fix="correct the address",
    )


def open_remote(place: str, table: Table, scratch: Path) -> Source:
    """The table of an address, its files copied below `scratch` and checked.

    Raises:
        UsageError, DataRefused: see `list_remote` and `open_source`; or a file could not be read.
    """
    files = list_remote(place, table)
    system, _ = file_system_of(place, f"data.{table.name}")
    folder = scratch / f"remote-{table.name}"
    copies = [folder / file.name for file in files]
    for parent in {copy.parent for copy in copies}:
        parent.mkdir(parents=True, exist_ok=True)

    def bring(file: RemoteFile, copy: Path) -> None:
        fs.copy_files(file.path, str(copy), system, fs.LocalFileSystem())

    with explain_disk_full(folder, "copies of the tables"), ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            list(pool.map(bring, files, copies))
        except (OSError, pa.ArrowException) as error:
            raise unreachable(place, f"data.{table.name}", OSError(str(error))) from error
    return open_source(copies, table, labels(place, files))


def labels(place: str, files: Sequence[RemoteFile]) -> list[str]:
    """Addresses of files, as messages and the quarantine name them."""
    shown = redacted(place).rstrip("/")
    return [shown if shown.endswith(f"/{f.name}") else f"{shown}/{f.name}" for f in files]
