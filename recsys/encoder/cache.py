"""Vectors on disk under the hash of their text; append-only, so that a killed run loses little.

One folder per (encoder version, pooling, precision, cut): `keys.bin` holds 16 bytes per text,
`vectors.bin` float32 [d] per text in the same order. Vectors are written and synced before
their keys, and a reader trusts no more rows than both files hold whole.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from features.interactions import Floats

KEY_BYTES: Final = 16
KEPT_VERSIONS: Final = 2
"""Folders of encoder versions that stay: the one in use and the one before, for a rollback."""

Keys = npt.NDArray[np.void]


def text_keys(texts: Sequence[str]) -> Keys:
    """16-byte hash of each text, as an array of n fixed-size byte strings."""
    digest = b"".join(
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
        for t in texts
    )
    return np.frombuffer(digest, dtype=f"V{KEY_BYTES}")


class VectorCache:
    """The vectors of one encoder version."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self.dimension = dimension
        self._rows: dict[bytes, int] = {}
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
        content = self._keys.read_bytes()
        self._rows = {content[i * KEY_BYTES : (i + 1) * KEY_BYTES]: i for i in range(rows)}

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Row of each key, -1 where unknown."""
        return np.array([self._rows.get(key.tobytes(), -1) for key in keys], np.int64)

    def read(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Vectors float32 [n, d] of known rows."""
        if not len(rows):
            return np.empty((0, self.dimension), np.float32)
        stored = np.memmap(self._vectors, np.float32, "r").reshape(-1, self.dimension)
        return np.asarray(stored[rows])

    def append(self, keys: Keys, vectors: Floats) -> None:
        """Add vectors float32 [n, d] under their keys; durable when this returns."""
        for file, data in ((self._vectors, vectors), (self._keys, keys)):
            with file.open("ab") as stream:
                stream.write(np.ascontiguousarray(data).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
        start = len(self._rows)
        self._rows |= {key.tobytes(): start + i for i, key in enumerate(keys)}

    def collect(self, keys: Keys) -> int:
        """Drop texts no longer used once they are most of the cache; returns how many went.

        Written aside and renamed; the keys go last, so that a crash between leaves an empty cache
        of the new vectors rather than keys that name wrong rows.
        """
        rows = np.unique(self.find(keys))
        rows = rows[rows >= 0]
        stale = len(self._rows) - len(rows)
        if stale <= max(len(rows), 1000):
            return 0
        content = np.frombuffer(self._keys.read_bytes(), dtype=f"V{KEY_BYTES}")[rows]
        kept = self.read(rows)
        self._keys.unlink()
        for file, data in ((self._vectors, kept.tobytes()), (self._keys, content.tobytes())):
            aside = file.with_suffix(".new")
            with aside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.rename(file)
        self._rows = {key.tobytes(): i for i, key in enumerate(content)}
        return stale


def collect_versions(cache_dir: Path, current: Path) -> int:
    """Remove the folders of encoder versions long out of use; returns how many went."""
    others = [f for f in cache_dir.iterdir() if f.is_dir() and f != current]
    others.sort(key=lambda f: f.stat().st_mtime, reverse=True)
    for folder in others[KEPT_VERSIONS - 1 :]:
        shutil.rmtree(folder)
    return len(others[KEPT_VERSIONS - 1 :])
