"""Vectors on disk under the hash of their text; append-only, so that a killed run loses little.

One folder per (encoder version, pooling, precision, cut): `keys.bin` holds 16 bytes per text,
`vectors.bin` float32 [d] per text in the same order. Vectors are written and synced before
their keys, and a reader trusts no more rows than both files hold whole.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats

KEY_BYTES: Final = 16
KEPT_VERSIONS: Final = 2
"""Folders of encoder versions that stay: the one in use and the one before, for a rollback."""

ROWS_AT_ONCE: Final = 65_536

Keys = npt.NDArray[np.bytes_]


def text_keys(texts: Sequence[str]) -> Keys:
    """16-byte hash of each text, as an array of n fixed-size byte strings."""
    digest = b"".join(
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        for t in texts
    )
    return np.frombuffer(digest, dtype=f"S{KEY_BYTES}")


class VectorCache:
    """The vectors of one encoder version."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self.dimension = dimension
        self._count = 0
        self._sorted: Keys = np.empty(0, f"S{KEY_BYTES}")
        self._row_of: npt.NDArray[np.int64] = np.empty(0, np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)

    @property
    def _keys(self) -> Path:
        return self.folder / "keys.bin"

    @property
    def _vectors(self) -> Path:
        return self.folder / "vectors.bin"

    @contextmanager
    def locked(self) -> Iterator["VectorCache"]:
        """Hold the folder against other writers, and read which texts it knows."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._repair()
            yield self

    def _repair(self) -> None:
        """Cut both files to the rows both hold whole: what a killed run half wrote goes."""
        row_bytes = 4 * self.dimension
        for file in (self._keys, self._vectors):
            file.touch()
        rows = min(
            self._keys.stat().st_size // KEY_BYTES, self._vectors.stat().st_size // row_bytes
        )
        os.truncate(self._keys, rows * KEY_BYTES)
        os.truncate(self._vectors, rows * row_bytes)
        self._index(rows)

    def _index(self, rows: int) -> None:
        """Sort the keys of the first rows: 24 bytes per text, where a dict takes some 150."""
        keys = np.fromfile(self._keys, f"S{KEY_BYTES}", rows)
        self._row_of = np.argsort(keys, kind="stable")
        self._sorted, self._count = keys[self._row_of], rows

    def __len__(self) -> int:
        return self._count

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Row of each key, -1 where unknown."""
        if self._count > len(self._sorted):
            self._index(self._count)
        if not self._count:
            return np.full(len(keys), -1, np.int64)
        place = np.minimum(np.searchsorted(self._sorted, keys), self._count - 1)
        return np.where(self._sorted[place] == keys, self._row_of[place], -1)

    def read(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Vectors float32 [n, d] of known rows."""
        if not len(rows):
            return np.empty((0, self.dimension), np.float32)
        stored = np.memmap(self._vectors, np.float32, "r").reshape(-1, self.dimension)
        return np.asarray(stored[rows])

    def write(self, rows: npt.NDArray[np.int64], file: Path) -> Floats:
        """Vectors of known rows into a .npy file, a part at a time; returns them memory-mapped."""
        shape = (len(rows), self.dimension)
        target = np.lib.format.open_memmap(file, "w+", np.float32, shape)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            target[start : start + ROWS_AT_ONCE] = self.read(rows[start : start + ROWS_AT_ONCE])
        target.flush()
        del target
        vectors: Floats = np.load(file, mmap_mode="r")
        return vectors

    def append(self, keys: Keys, vectors: Floats) -> None:
        """Add vectors float32 [n, d] under their keys; durable when this returns."""
        for file, data in ((self._vectors, vectors), (self._keys, keys)):
            with file.open("ab") as stream:
                stream.write(np.ascontiguousarray(data).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
        self._count += len(keys)

    def collect(self, keys: Keys) -> int:
        """Drop texts no longer used once they are most of the cache; returns how many went.

        Written aside and renamed; the keys go last, so that a crash between leaves an empty cache
        of the new vectors rather than keys that name wrong rows.
        """
        rows = np.unique(self.find(keys))
        rows = rows[rows >= 0]
        stale = len(self) - len(rows)
        if stale <= max(len(rows), 1000):
            return 0
        content = np.fromfile(self._keys, f"S{KEY_BYTES}")[rows]
        parts = (
            self.read(rows[start : start + ROWS_AT_ONCE]).tobytes()
            for start in range(0, len(rows), ROWS_AT_ONCE)
        )
        vectors_aside = _write_aside(self._vectors, parts)
        keys_aside = _write_aside(self._keys, [content.tobytes()])
        self._keys.unlink()
        vectors_aside.rename(self._vectors)
        keys_aside.rename(self._keys)
        self._index(len(rows))
        return stale


def _write_aside(file: Path, parts: Iterable[bytes]) -> Path:
    """A durable file beside another, to be renamed over it."""
    aside = file.with_suffix(".new")
    with aside.open("wb") as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())
    return aside


def collect_versions(cache_dir: Path, current: Path) -> int:
    """Remove the folders of encoder versions long out of use; returns how many went."""
    others = [f for f in cache_dir.iterdir() if f.is_dir() and f != current]
    others.sort(key=lambda f: f.stat().st_mtime, reverse=True)
    for folder in others[KEPT_VERSIONS - 1 :]:
        shutil.rmtree(folder)
    return len(others[KEPT_VERSIONS - 1 :])
