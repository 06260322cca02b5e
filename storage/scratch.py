"""A folder that every machine of an engine reaches: on a disk, or in object storage.

Files appear whole or not at all: on a disk they are written aside and renamed, in object storage an
upload is seen when it is complete. Writing the same file twice leaves the same bytes.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from recsys.data_schemas.config import RecsysConfig
from recsys.storage.file_systems import file_system_of, is_remote, placed
from recsys.storage.files import PART, atomic_file, atomic_write
from recsys.storage.workspace import Workspace

WHERE = "engine.scratch"
QUERY_ROWS = "tables"
"""Folder of scratch: rows of queries on their way to the night's machine."""
STALE_SECONDS = 3 * 86_400
"""Age at which what nobody finished is removed."""


@dataclass(frozen=True)
class ScratchFolder:
    """Files below an address: a local path, or a URL that Arrow reads (`s3://bucket/folder`)."""

    address: str
    setting: str = WHERE
    """What of the config names it."""

    @property
    def is_local(self) -> bool:
        return not is_remote(self.address)

    def below(self, name: str) -> "ScratchFolder":
        """A folder of it."""
        return ScratchFolder(f"{self.address.rstrip('/')}/{name}", self.setting)

    def write(self, name: str, content: bytes) -> None:
        """A whole file."""
        if self.is_local:
            atomic_write(Path(self.address, name), content)
            return
        system, root = file_system_of(self.address, self.setting)
        with system.open_output_stream(f"{root}/{name}") as stream:
            stream.write(content)

    def write_table(self, name: str, table: pa.Table, *, repeats: bool = True) -> None:
        """A whole Parquet file; faster to write where its values hardly repeat and that is said."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, use_dictionary=repeats)
        self.write(name, sink.getvalue())

    def take_file(self, name: str, file: Path) -> None:
        """A copy of a whole local file."""
        if self.is_local:
            with atomic_file(Path(self.address, name)) as aside:
                shutil.copyfile(file, aside)
            return
        system, root = file_system_of(self.address, self.setting)
        fs.copy_files(str(file), f"{root}/{name}", fs.LocalFileSystem(), system)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        system, root = file_system_of(self.address, self.setting)
        with system.open_input_stream(f"{root}/{name}", compression=None) as stream:
            return bytes(stream.read())

    def table(self, name: str) -> pa.Table:
        """A Parquet file's table.

        Raises:
            FileNotFoundError: there is none.
        """
        return pq.read_table(pa.BufferReader(self.read(name)))

    def names(self) -> set[str]:
        """Relative names of all whole files below."""
        return {name for name, _ in self._files() if not name.endswith(PART)}

    def folders(self) -> Iterator["tuple[str, float]"]:
        """(name, seconds since the epoch of its youngest file) of each folder directly below."""
        youngest: dict[str, float] = {}
        for file, changed in self._files():
            name, _, rest = file.partition("/")
            if rest:
                youngest[name] = max(youngest.get(name, 0.0), changed)
        yield from sorted(youngest.items())

    def remove_stale(self) -> None:
        """Folders directly below that nobody has written to for `STALE_SECONDS`."""
        for name, changed in self.folders():
            if time.time() - changed > STALE_SECONDS:
                self.below(name).remove()

    def _files(self) -> Iterator[tuple[str, float]]:
        """(relative name, seconds since the epoch of the last change) of every file below."""
        system, root = file_system_of(self.address, self.setting)
        found = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        for info in found:
            if info.is_file:
                changed = info.mtime.timestamp() if info.mtime else 0.0
                yield info.path[len(root) :].lstrip("/"), changed

    def take_in(self, folder: Path) -> None:
        """Copy a local folder's files here."""
        system, root = file_system_of(self.address, self.setting)
        system.create_dir(root, recursive=True)
        fs.copy_files(str(folder), root, fs.LocalFileSystem(), system)

    def give_out(self, folder: Path) -> None:
        """Copy all files into an existing local folder."""
        system, root = file_system_of(self.address, self.setting)
        fs.copy_files(root, str(folder), system, fs.LocalFileSystem())

    def remove(self) -> None:
        """All of it; nothing where nothing is."""
        if self.is_local:
            shutil.rmtree(self.address, ignore_errors=True)
            return
        system, root = file_system_of(self.address, self.setting)
        if system.get_file_info(root).type != fs.FileType.NotFound:
            system.delete_dir(root)


def scratch_of(config: RecsysConfig) -> ScratchFolder:
    """The scratch folder that a config names, or the workspace's own."""
    named = config.engine.scratch
    if named is None:
        return ScratchFolder(str(Workspace(config.workspace_path).folder("scratch")))
    return ScratchFolder(placed(config, named))
