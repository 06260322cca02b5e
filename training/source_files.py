"""Where fitted sources lie, so that another process opens the very same.

On machines that do not see this one's disk they are opened from copies, each named by what it holds
and copied once to a machine.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

import numpy as np

from recsys.encoder.company import COMPANY
from recsys.encoder.index import FOLDER as INDEX
from recsys.encoder.index import open_index
from recsys.encoder.tower import TOWER, TOWER_JSON, InterestSource
from recsys.features.protocols import RecallSource
from recsys.retrieval.source_kinds import load_source
from recsys.storage.files import FileStamp, file_stamp, files_below, hash_file, hash_json
from recsys.storage.node_copies import PublishedFolder, local_folder
from recsys.storage.scratch import ScratchFolder

VECTORS, FACTS = "vectors.npy", "source.json"
SOURCE: Final = "source"
"""What the names of published folders begin with."""

Place = Path | PublishedFolder


@dataclass(frozen=True)
class SourceFiles:
    """A source's folder; of an encoder's, that of its vectors, with the user tower's beside it."""

    folder: Place
    tower: Place | None = None
    fit_until: int = 0
    """Of a tower: the last event it may have seen."""

    @property
    def stamp(self) -> FileStamp | None:
        """Changes when the source is fitted once more into its place, which is on this machine."""
        return file_stamp(local_folder(self.folder) / (FACTS if self.tower is None else VECTORS))

    def open(self) -> RecallSource:
        """The source.

        Raises:
            DataRefused: the folder holds no source.
        """
        folder = local_folder(self.folder)
        if self.tower is None:
            return load_source(folder)
        vectors = np.load(folder / VECTORS, mmap_mode="r")
        near, tower = open_index(folder, vectors), local_folder(self.tower)
        source = InterestSource.open(tower, vectors, self.fit_until, neighbours=near)
        return cast(RecallSource, source)

    def published(self, scratch: ScratchFolder) -> "SourceFiles":
        """The same in scratch, for machines that do not see this one's disk."""
        folder = local_folder(self.folder)
        if self.tower is None:
            return SourceFiles(_publish(folder, files_below(folder), scratch))
        tower = local_folder(self.tower)
        beside = [f"{INDEX}/{file}" for file in files_below(folder / INDEX)]
        learned = [file for file in (TOWER, TOWER_JSON, COMPANY) if (tower / file).is_file()]
        return SourceFiles(
            _publish(folder, [VECTORS, *beside], scratch),
            _publish(tower, learned, scratch),
            self.fit_until,
        )


def _publish(folder: Path, files: list[str], scratch: ScratchFolder) -> PublishedFolder:
    """Some files of a folder in scratch, under the digest of what they hold."""
    held = {file: _digest(folder / file, file_stamp(folder / file)) for file in files}
    published = PublishedFolder(scratch, f"{SOURCE}-{hash_json(held)[:32]}")
    if not published.is_there():
        with tempfile.TemporaryDirectory(prefix="source-") as place:
            aside = Path(place)
            for file in files:
                (aside / file).parent.mkdir(exist_ok=True)
                (aside / file).symlink_to((folder / file).resolve())
            PublishedFolder.publish(aside, scratch, published.name)
    return published


@cache
def _digest(file: Path, stamp: FileStamp | None) -> str:
    """SHA-256 of a file, once per version of it."""
    del stamp
    return hash_file(file)


def within_reach(
    sources: Mapping[str, SourceFiles], shares_disk: bool, scratch: ScratchFolder
) -> dict[str, SourceFiles]:
    """Sources where an engine's processes find them.

    Args:
        sources: on this machine's disk, by name.
        shares_disk: whether the processes see it.
        scratch: where published folders lie.
    """
    if shares_disk:
        return dict(sources)
    return {name: files.published(scratch) for name, files in sources.items()}
