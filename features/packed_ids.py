"""Identifiers by number, as UTF-8 bytes in one block instead of a Python string each.

Shapes: N identifiers, B bytes of them together.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.on_disk import empty, stretches

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

FEW: Final = 5000
"""Identifiers up to which a list is packed without Arrow: a fifth of the time at 100 (measured)."""
AT_ONCE: Final = 100_000
"""Identifiers that are Python strings at the same time while all are looked at."""


@dataclass(frozen=True, eq=False)
class PackedIds:
    """N identifiers, read like an array of strings: by number, by an array of numbers, by a mask, in turn.

    A Python string takes some 60 bytes and the array 8 more; here an identifier takes its bytes and 8, in a
    file where they are many and a folder for such is known.
    """

    block: Bytes
    """uint8[B]."""
    offsets: Offsets
    """int64[N+1], bounds of each in `block`."""

    @classmethod
    def of(cls, ids: "PackedIds | Iterable[str] | Any") -> "PackedIds":
        """N identifiers: strings, or an Arrow array of them."""
        if isinstance(ids, PackedIds):
            return ids
        block, offsets = pack(ids)
        packed = cls(empty(len(block), np.uint8), empty(len(offsets), np.int64))
        packed.block[:], packed.offsets[:] = block, offsets
        return packed

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, which: int | np.integer) -> str: ...
    @overload
    def __getitem__(self, which: slice | npt.NDArray[Any]) -> npt.NDArray[np.object_]: ...
    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, int | np.integer):
            low, high = self.offsets[:-1][which], self.offsets[1:][which]
            return self.block[low:high].tobytes().decode("utf-8", "surrogatepass")
        if isinstance(which, slice) and which.step in (None, 1):
            return self.arrow(which).to_numpy(zero_copy_only=False)
        chosen = np.arange(len(self))[which]
        return self.arrow().take(pa.array(chosen)).to_numpy(zero_copy_only=False)

    def __iter__(self) -> Iterator[str]:
        for part in stretches(len(self), AT_ONCE):
            yield from self.arrow(part).to_pylist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        texts = self[:]
        return texts if dtype is None else texts.astype(dtype)

    def __arrow_array__(self, type: Any = None) -> Any:
        return self.arrow() if type is None else self.arrow().cast(type)

    def arrow(self, part: slice = slice(None)) -> Any:
        """Some of them, all by default, as an Arrow large_string array over the same bytes."""
        low, high, _ = part.indices(len(self))
        cuts = np.ascontiguousarray(self.offsets[low : high + 1])
        buffers = [None, pa.py_buffer(cuts), pa.py_buffer(self.block)]
        return pa.Array.from_buffers(pa.large_string(), high - low, buffers)

    def tolist(self) -> list[str]:
        """All as Python strings."""
        return list(self)


def pack(ids: PackedIds | Iterable[str] | Any) -> tuple[Bytes, Offsets]:
    """(bytes uint8[B], offsets int64[N+1]) of N identifiers (packed, strings or an Arrow array)."""
    if isinstance(ids, PackedIds):
        return ids.block, ids.offsets
    if isinstance(ids, list) and len(ids) <= FEW:
        whole = "".join(ids)
        written = ids if whole.isascii() else [t.encode("utf-8", "surrogatepass") for t in ids]
        cuts = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, written), np.int64, len(ids)), out=cuts[1:])
        return np.frombuffer(whole.encode("utf-8", "surrogatepass"), np.uint8), cuts
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if not isinstance(ids, pa.Array):
        ids = pa.array(list(ids), pa.large_string())
    array = ids.cast(pa.large_string())
    assert array.null_count == 0, "identifiers are never null past validation"
    _, bounds, data = array.buffers()
    offsets = np.frombuffer(bounds, np.int64, len(array) + 1, array.offset * 8)
    if data is None or len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    block = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    return block, offsets - offsets[0]
