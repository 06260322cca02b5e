"""Identifiers to dense indices, without a Python object per identifier.

Identifiers lie as UTF-8 bytes in one block; a sorted table of their 64-bit hashes finds them, and
the bytes decide (two identifiers may share a hash). The base is memory-mapped and shared by
processes; identifiers added later live in a small dictionary beside it.

Shapes: N identifiers of the base, B bytes of them together.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.compiled import compiled
from recsys.features.interactions import Ints, Longs
from recsys.features.on_disk import kept, taken
from recsys.features.packed_strings import Bytes, PackedStrings, pack
from recsys.features.store import open_arrays, write_arrays

Hashes = npt.NDArray[np.uint64]

_OFFSET: Final = np.uint64(0xCBF29CE484222325)
_PRIME: Final = np.uint64(0x100000001B3)
_MIX: Final = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT: Final = np.uint64(33)


@compiled
def _hash(block: Bytes, low: int, high: int) -> Any:
    """FNV-1a with a final mix (both public domain), 64 bits."""
    h = _OFFSET
    for i in range(low, high):
        h = (h ^ np.uint64(block[i])) * _PRIME
    h ^= h >> _SHIFT
    h *= _MIX
    h ^= h >> _SHIFT
    return h


@compiled
def _hash_all(block: Bytes, offsets: Longs) -> Hashes:
    out = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(out)):
        out[i] = _hash(block, offsets[i], offsets[i + 1])
    return out


@compiled
def _first(hashes: Hashes, h: Any) -> int:
    """Place of the first hash that is not below `h`, as `np.searchsorted` gives it.

    Hashes are spread evenly, so `h` lies near its share of the way: looked for from there in growing
    steps, a few lines of memory are read where halving the whole table reads a dozen.
    """
    size = len(hashes)
    low: Any = np.int64(((h >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32))
    high, step = low, 16
    while low > 0 and hashes[low - 1] >= h:
        high, low, step = low - 1, max(0, low - step), 2 * step
    step = 16
    while high < size and hashes[high] < h:
        low, high, step = high + 1, min(size, high + step), 2 * step
    while low < high:
        middle = (low + high) >> 1
        if hashes[middle] < h:
            low = middle + 1
        else:
            high = middle
    place: int = low
    return place


@compiled
def _find(
    block: Bytes, offsets: Longs, hashes: Hashes, order: Ints, query: Bytes, low: int, high: int
) -> int:
    """Index of the identifier query[low:high], -1 when it is not there.

    Args:
        block: uint8[b], bytes of all identifiers.
        offsets: int64[n+1], their bounds.
        hashes: uint64[n], ascending.
        order: int32[n], identifier of each hash.
        query: uint8[q], bytes that hold the wanted one.
        low, high: its bounds.
    """
    h = _hash(query, low, high)
    at = _first(hashes, h)
    while at < len(hashes) and hashes[at] == h:
        index: int = order[at]
        start, stop = offsets[index], offsets[index + 1]
        if stop - start == high - low:
            same = True
            for i in range(high - low):
                if block[start + i] != query[low + i]:
                    same = False
                    break
            if same:
                return index
        at += 1
    return -1


@compiled
def _find_all(
    block: Bytes, offsets: Longs, hashes: Hashes, order: Ints, query: Bytes, cuts: Longs
) -> Ints:
    out = np.empty(len(cuts) - 1, np.int32)
    for i in range(len(out)):
        out[i] = _find(block, offsets, hashes, order, query, cuts[i], cuts[i + 1])
    return out


def hash_ids(ids: PackedStrings | Iterable[str] | Any) -> Hashes:
    """uint64[N] of N identifiers (packed, strings or an Arrow array)."""
    return _hash_all(*pack(ids))


def _by_hash(block: Bytes, offsets: Longs) -> tuple[Hashes, Ints]:
    """(hashes, ascending; number of the identifier of each)."""
    hashes = _hash_all(block, offsets)
    order = kept(np.argsort(hashes, kind="stable").astype(np.int32))
    return taken(hashes, order), order


class IdIndex:
    """Two-way map between identifiers and 0..n-1, growing at the end.

    Looking one up costs about a microsecond, whatever the size.
    """

    def __init__(self, block: Bytes, offsets: Longs, hashes: Hashes, order: Ints) -> None:
        self._block, self._offsets = block, offsets
        self._hashes, self._order = hashes, order
        self._base = len(offsets) - 1
        self._added: dict[str, int] = {}
        self._added_ids: list[str] = []

    @classmethod
    def build(cls, ids: Iterable[str] | Any) -> "IdIndex":
        """Index N distinct identifiers in the order given."""
        block, offsets = (kept(part) for part in pack(ids))
        return cls(block, offsets, *_by_hash(block, offsets))

    def __len__(self) -> int:
        return self._base + len(self._added_ids)

    def index_of(self, identifier: str) -> int:
        """Index of an identifier, -1 when unknown."""
        query = np.frombuffer(identifier.encode("utf-8", "surrogatepass"), np.uint8)
        found = int(
            _find(self._block, self._offsets, self._hashes, self._order, query, 0, len(query))
        )
        return found if found >= 0 else self._added.get(identifier, -1)

    def indices_of(self, ids: PackedStrings | Sequence[str] | Any) -> Ints:
        """int32[n] of n identifiers (packed, strings or an Arrow array), -1 where unknown."""
        query, cuts = pack(ids)
        found: Ints = _find_all(self._block, self._offsets, self._hashes, self._order, query, cuts)
        if self._added:
            for i in np.flatnonzero(found < 0):
                text = query[cuts[i] : cuts[i + 1]].tobytes().decode("utf-8", "surrogatepass")
                found[i] = self._added.get(text, -1)
        return found

    def id_of(self, index: int) -> str:
        """The identifier at an index."""
        if index >= self._base:
            return self._added_ids[index - self._base]
        low, high = self._offsets[index], self._offsets[index + 1]
        return self._block[low:high].tobytes().decode("utf-8", "surrogatepass")

    def add(self, identifier: str) -> int:
        """Append an identifier that is not there yet; its index."""
        assert self.index_of(identifier) < 0, identifier
        index = len(self)
        self._added[identifier] = index
        self._added_ids.append(identifier)
        return index

    def forget_from(self, size: int) -> None:
        """Drop the identifiers at or beyond `size`, which must all have been added later."""
        assert size >= self._base, "only identifiers added later can be dropped"
        for identifier in self._added_ids[size - self._base :]:
            del self._added[identifier]
        del self._added_ids[size - self._base :]

    def packed(self) -> tuple[Bytes, Longs]:
        """All identifiers as (bytes, offsets)."""
        if not self._added_ids:
            return self._block, self._offsets
        block, offsets = pack(self._added_ids)
        end = self._offsets[-1] if self._base else np.int64(0)
        return (
            np.concatenate([self._block, block]),
            np.concatenate([self._offsets, offsets[1:] + end]),
        )

    def all(self) -> Any:
        """All identifiers as an Arrow large_string array of length n."""
        block, offsets = self.packed()
        buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(block.tobytes())]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)

    def save(self, folder: Path, name: str) -> None:
        """Write the index under a name into an existing folder."""
        block, offsets = self.packed()
        added = bool(self._added_ids)
        hashes, order = _by_hash(block, offsets) if added else (self._hashes, self._order)
        write_arrays(
            folder,
            {
                f"{name}.bytes": block,
                f"{name}.offsets": offsets,
                f"{name}.hashes": hashes,
                f"{name}.order": order,
            },
        )

    @classmethod
    def open(cls, folder: Path, name: str) -> "IdIndex":
        """Map what `save` wrote."""
        parts = ("bytes", "offsets", "hashes", "order")
        arrays = open_arrays(folder, [f"{name}.{part}" for part in parts])
        return cls(*(arrays[f"{name}.{part}"] for part in parts))
