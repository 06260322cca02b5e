"""Identifiers and texts by number, as UTF-8 bytes in one block instead of a Python string each.

Shapes: N strings, B bytes of them together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.on_disk import empty, stretches

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

FEW: Final = 5000
"""Strings up to which a list is packed without Arrow: a fifth of the time at 100 (measured)."""
AT_ONCE: Final = 100_000
"""Strings that are Python's at the same time while all are looked at, at most."""


@dataclass(frozen=True, eq=False)
class PackedStrings(Sequence[str]):
    """N strings, read like an array of them: by number, by an array of numbers, by a mask, in turn; a slice reads
    the same bytes.

    A Python string takes some 50 bytes besides its own and a list 8 more; here it is 8 in all, in a file where
    they are many and a folder for such is known.
    """

    block: Bytes
    """uint8[B]."""
    offsets: Offsets
    """int64[N+1], bounds of each in `block`; of a slice they do not begin at 0."""

    @classmethod
    def of(cls, ids: "PackedStrings | Iterable[str] | Any") -> "PackedStrings":
        """N strings, or an Arrow array of them."""
        if isinstance(ids, PackedStrings):
            return ids
        block, offsets = pack(ids)
        packed = cls(empty(len(block), np.uint8), empty(len(offsets), np.int64))
        packed.block[:], packed.offsets[:] = block, offsets
        return packed

    @classmethod
    def joined(cls, parts: Iterable[Any]) -> "PackedStrings":
        """What `of` would take, one part behind another."""
        each = [pack(cls.of(part)) for part in parts]
        size = sum(len(offsets) - 1 for _, offsets in each)
        out = cls(empty(sum(len(block) for block, _ in each), np.uint8), empty(size + 1, np.int64))
        out.offsets[0] = low = start = 0
        for block, offsets in each:
            out.block[start : start + len(block)] = block
            out.offsets[low + 1 : low + len(offsets)] = offsets[1:] + start
            low, start = low + len(offsets) - 1, start + len(block)
        return out

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, which: int | np.integer) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> "PackedStrings": ...
    @overload
    def __getitem__(self, which: npt.NDArray[Any]) -> npt.NDArray[np.object_]: ...
    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, int | np.integer):
            low, high = self.offsets[:-1][which], self.offsets[1:][which]
            return self.block[low:high].tobytes().decode("utf-8", "surrogatepass")
        if isinstance(which, slice):
            low, high, step = which.indices(len(self))
            if step == 1:
                return PackedStrings(self.block, self.offsets[low : max(low, high) + 1])
            return PackedStrings.of(self[np.arange(low, high, step)].tolist())
        chosen = np.arange(len(self))[which]
        return self.arrow().take(pa.array(chosen)).to_numpy(zero_copy_only=False)

    def __iter__(self) -> Iterator[str]:
        for part in stretches(len(self), AT_ONCE):
            yield from self[part].arrow().to_pylist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        texts = self.arrow().to_numpy(zero_copy_only=False)
        found: npt.NDArray[Any] = texts if dtype is None else texts.astype(dtype)
        return found

    def __arrow_array__(self, type: Any = None) -> Any:
        return self.arrow() if type is None else self.arrow().cast(type)

    def arrow(self) -> Any:
        """All as an Arrow large_string array over the same bytes."""
        buffers = [None, pa.py_buffer(self.offsets), pa.py_buffer(self.block)]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)

    def tolist(self) -> list[str]:
        """All as Python strings."""
        return list(self)


def pack(ids: PackedStrings | Iterable[str] | Any) -> tuple[Bytes, Offsets]:
    """(bytes uint8[B], offsets int64[N+1] from 0 on) of N strings (packed, a list or an Arrow array)."""
    if isinstance(ids, PackedStrings):
        if not ids.offsets[0]:
            return ids.block[: ids.offsets[-1]], ids.offsets
        return ids.block[ids.offsets[0] : ids.offsets[-1]], ids.offsets - ids.offsets[0]
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
