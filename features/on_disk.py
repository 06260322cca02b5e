"""Arrays as long as all events, in files that nobody else sees instead of the process's own memory.

What is mapped from a file is the kernel's cache: written out and read again when memory is wanted for
something else, and none of what a process is ended for. The files have no name, so they are gone with
the last array, and with the process however it ends.

Shapes: E events, or whatever an array is as long as.
"""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LEAST_BYTES: Final = 1 << 20
"""Arrays below it stay in memory: a file each would cost more than it spares (assumed)."""
CHUNK: Final = 1 << 20
"""Rows that are worked on at once; bounds what is in memory while an array is filled."""

_folders: list[Path] = []


@contextmanager
def arrays_in(folder: Path) -> Iterator[None]:
    """While inside, large arrays lie in files of this folder, which exists; a disk, not memory."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.remove(folder)


def folder_of_arrays() -> Path | None:
    """Where large arrays lie now; None where no folder for such is known."""
    return _folders[-1] if _folders else None


def empty(size: int, dtype: npt.DTypeLike) -> Array:
    """An array [size] to be filled: in a file where it is large and a folder for such is known.

    Raises:
        OSError: the disk has no room for it.
    """
    kind = np.dtype(dtype)
    wanted = size * kind.itemsize
    if not _folders or wanted < LEAST_BYTES:
        return np.empty(size, kind)
    with tempfile.TemporaryFile(dir=_folders[-1], prefix=".array-") as file:
        # Room is taken now: a full disk under a mapped page would end the process without a word.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, wanted)
        else:
            os.truncate(file.fileno(), wanted)
        return np.frombuffer(mmap.mmap(file.fileno(), wanted), kind)


def stretches(size: int, length: int = CHUNK) -> Iterator[slice]:
    """Rows 0..size, some at a time.

    >>> list(stretches(5, 3))
    [slice(0, 3, None), slice(3, 5, None)]
    """
    for low in range(0, size, length):
        yield slice(low, min(low + length, size))


def filled(size: int, dtype: npt.DTypeLike, values: Callable[[slice], Any]) -> Array:
    """An array [size] from its values by stretch of rows.

    >>> filled(3, np.int32, lambda part: np.arange(5)[part] * 2).tolist()
    [0, 2, 4]
    """
    out = empty(size, dtype)
    for part in stretches(size):
        out[part] = values(part)
    return out


def kept(array: Array) -> Array:
    """The same values, in a file where they are many."""
    return filled(len(array), array.dtype, lambda part: array[part])


def joined(arrays: Sequence[Array], dtype: npt.DTypeLike) -> Array:
    """Arrays one after the other.

    >>> joined([np.array([1, 2]), np.array([3])], np.int32).tolist()
    [1, 2, 3]
    """
    out, low = empty(sum(map(len, arrays)), dtype), 0
    for array in arrays:
        out[low : low + len(array)] = array
        low += len(array)
    return out


def taken(column: Array, which: npt.NDArray[Any]) -> Array:
    """`column[which]` for a mask or for places.

    >>> taken(np.array([5, 6, 7]), np.array([True, False, True])).tolist()
    [5, 7]
    >>> taken(np.array([5, 6, 7]), np.array([2, 0])).tolist()
    [7, 5]
    """
    if which.dtype != np.bool_:
        return filled(len(which), column.dtype, lambda part: column[which[part]])
    out, low = empty(int(np.count_nonzero(which)), column.dtype), 0
    for part in stretches(len(which)):
        values = column[part][which[part]]
        out[low : low + len(values)] = values
        low += len(values)
    return out
