"""Counts per entity, kind and time bucket, read exactly at any moment.

A base sorted by (entity, kind, bucket) with running sums, memory-mapped and shared; beside it an
overlay of cells counted since, as chains. The count of a window is the difference of two running
sums plus the overlay's cells in it, so expiry is exact, late events land where they belong, and
a clock that steps back reads what it would have read then.

Shapes: N entities, K kinds, C cells of the base, W windows, n entities asked.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.interactions import Ints, Longs
from recsys.features.store import grown, open_arrays, write_arrays

Kinds = npt.NDArray[np.int16]

_END: Final = -1


@compiled
def _until(bucket: Longs, running: Longs, low: int, high: int, limit: int) -> int:
    """Events of the cells low..high-1 in buckets before `limit`.

    Args:
        bucket: int64[cells], buckets of cells, rising within a key.
        running: int64[cells], running counts within a key.
        low, high: bounds of the key's cells.
        limit: bucket before which is counted.
    """
    start, stop = low, high
    while start < stop:
        middle = (start + stop) >> 1
        if bucket[middle] < limit:
            start = middle + 1
        else:
            stop = middle
    return running[start - 1] if start > low else 0


@compiled
def _read(
    offsets: Longs,
    bucket: Longs,
    running: Longs,
    base_kinds: int,
    head: Any,
    cell_bucket: Longs,
    cell_count: Longs,
    cell_next: Ints,
    entities: Ints,
    kinds: Kinds,
    widths: Longs,
    now: int,
    out: Any,
) -> None:
    """Fill out[n, K+1, W] with the counts of the `widths[W]` buckets before bucket `now`; the last
    kind is the sum of the others.

    Args:
        offsets: int64[entities · base_kinds + 1], bounds of the cells of each (entity, kind).
        bucket: int64[cells], bucket of each cell of the snapshot.
        running: int64[cells], running counts within a key.
        base_kinds: event types of the snapshot.
        head: int32[entities, kinds], first overlay cell of each; -1 for none.
        cell_bucket: int64[size], bucket of each overlay cell.
        cell_count: int64[size], its count.
        cell_next: int32[size], the next cell of the same key; -1 for none.
        entities: int32[n], negative for no entity.
        kinds: int[K], event type codes, negative for unknown ones.
        widths: int64[W], buckets of each window; 0 for everything.
        now: bucket of the moment.
        out: int64[n, K+1, W], filled in place.
    """
    base = (len(offsets) - 1) // base_kinds if base_kinds else 0
    for i in range(len(entities)):
        entity = entities[i]
        for w in range(len(widths)):
            out[i, len(kinds), w] = 0
        for j in range(len(kinds)):
            kind = kinds[j]
            for w in range(len(widths)):
                out[i, j, w] = 0
            if entity < 0 or kind < 0:
                continue
            if entity < base and kind < base_kinds:
                key = entity * base_kinds + kind
                low, high = offsets[key], offsets[key + 1]
                if low < high:
                    total = _until(bucket, running, low, high, now)
                    for w in range(len(widths)):
                        gone = 0
                        if widths[w] > 0:
                            gone = _until(bucket, running, low, high, now - widths[w])
                        out[i, j, w] = total - gone
            if entity < head.shape[0] and kind < head.shape[1]:
                at = head[entity, kind]
                while at >= 0:
                    when = cell_bucket[at]
                    if when < now:
                        for w in range(len(widths)):
                            if widths[w] == 0 or when >= now - widths[w]:
                                out[i, j, w] += cell_count[at]
                    at = cell_next[at]
            for w in range(len(widths)):
                out[i, len(kinds), w] += out[i, j, w]


@compiled
def _add(
    head: Any,
    cell_bucket: Longs,
    cell_count: Longs,
    cell_next: Ints,
    size: int,
    entities: Ints,
    kinds: Kinds,
    buckets: Longs,
    amount: Longs,
) -> int:
    """Add amounts to overlay cells, making those that are new; the new number of cells.

    Args:
        head: int32[entities, kinds], first overlay cell of each; -1 for none.
        cell_bucket: int64[room], bucket of each cell.
        cell_count: int64[room], its count.
        cell_next: int32[room], the next cell of the same key; -1 for none.
        size: cells in use.
        entities: int32[n], negative for no entity.
        kinds: int[n], event type codes.
        buckets: int64[n].
        amount: int64[n], what is added.
    """
    for i in range(len(entities)):
        entity, kind = entities[i], kinds[i]
        if entity < 0:
            continue
        at = head[entity, kind]
        while at >= 0 and cell_bucket[at] != buckets[i]:
            at = cell_next[at]
        if at < 0:
            at = size
            size += 1
            cell_bucket[at], cell_count[at] = buckets[i], 0
            cell_next[at] = head[entity, kind]
            head[entity, kind] = at
        cell_count[at] += amount[i]
    return size


class CounterTable:
    """Counts of one sort of entity (items, categories, tags, shown items)."""

    def __init__(self, base_kinds: int, offsets: Longs, bucket: Longs, running: Longs) -> None:
        """Use `build` or `open`. `offsets` int64[N·K+1] into `bucket` and `running` (int64[C])."""
        self._base_kinds = base_kinds
        self._offsets, self._bucket, self._running = offsets, bucket, running
        base = (len(offsets) - 1) // base_kinds if base_kinds else 0
        self._head = np.full((base, base_kinds), _END, np.int32)
        self._cell_bucket = np.zeros(0, np.int64)
        self._cell_count = np.zeros(0, np.int64)
        self._cell_next = np.zeros(0, np.int32)
        self._size = 0

    @classmethod
    def build(
        cls, entities: Ints, kinds: Kinds, buckets: Longs, n_entities: int, n_kinds: int
    ) -> "CounterTable":
        """Count E events given as (entity, kind, bucket); negative entities are left out.

        Args:
            entities: int32[E], negative for events of no entity.
            kinds: int[E], event type codes.
            buckets: int64[E], bucket of each event.
            n_entities: number of entities.
            n_kinds: number of event types.
        """
        known = entities >= 0
        key = entities[known].astype(np.int64) * n_kinds + kinds[known]
        return cls._from_cells(key, buckets[known], None, n_entities, n_kinds)

    @classmethod
    def _from_cells(
        cls, key: Longs, bucket: Longs, count: Longs | None, n_entities: int, n_kinds: int
    ) -> "CounterTable":
        """Sum cells of equal (key, bucket) and lay them out by key; cells of zero are dropped.

        Args:
            key: int64[cells], entity · n_kinds + kind.
            bucket: int64[cells].
            count: int64[cells]; 1 each when None.
            n_entities: number of entities.
            n_kinds: number of event types.
        """
        order = np.lexsort((bucket, key))
        key, bucket = key[order], bucket[order]
        first = np.ones(len(key), bool)
        first[1:] = (key[1:] != key[:-1]) | (bucket[1:] != bucket[:-1])
        starts = np.flatnonzero(first)
        if count is None:
            total = np.diff(np.append(starts, len(key)))
        else:
            total = np.add.reduceat(count[order], starts) if len(starts) else count
        key, bucket = key[starts][total != 0], bucket[starts][total != 0]
        total = total[total != 0].astype(np.int64)
        offsets = np.zeros(n_entities * n_kinds + 1, np.int64)
        np.cumsum(np.bincount(key, minlength=n_entities * n_kinds), out=offsets[1:])
        running = np.cumsum(total)
        before = np.concatenate([[0], running])[offsets[:-1]]
        return cls(n_kinds, offsets, bucket, running - before[key] if len(key) else running)

    @property
    def shape(self) -> tuple[int, int]:
        """(entities, kinds) that have room."""
        base = (len(self._offsets) - 1) // self._base_kinds if self._base_kinds else 0
        return max(base, self._head.shape[0]), max(self._base_kinds, self._head.shape[1])

    def read(self, entities: Ints, kinds: Kinds, widths: Longs, now: int) -> Longs:
        """int64[n, K+1, W]: events of each kind in the `widths` buckets before bucket `now`, and
        behind them all those kinds together.

        A width of 0 sees all buckets before. Unknown entities and kinds (negative or beyond the
        table) count 0.
        """
        out = np.empty((len(entities), len(kinds) + 1, len(widths)), np.int64)
        _read(
            self._offsets,
            self._bucket,
            self._running,
            self._base_kinds,
            self._head,
            self._cell_bucket,
            self._cell_count,
            self._cell_next,
            entities,
            kinds,
            widths,
            now,
            out,
        )
        return out

    def add(self, entities: Ints, kinds: Kinds, buckets: Longs, amount: Longs) -> None:
        """Add `amount` events (may be negative) to each (entity, kind, bucket)."""
        if not len(entities):
            return
        self._make_room(int(entities.max()) + 1, int(kinds.max()) + 1, len(entities))
        self._size = _add(
            self._head,
            self._cell_bucket,
            self._cell_count,
            self._cell_next,
            self._size,
            entities,
            kinds,
            buckets,
            amount,
        )

    def _make_room(self, entities: int, kinds: int, cells: int) -> None:
        self._head = grown(self._head, entities, _END)
        if kinds > self._head.shape[1]:
            more = np.full((len(self._head), kinds - self._head.shape[1]), _END, np.int32)
            self._head = np.concatenate([self._head, more], axis=1)
        self._cell_bucket = grown(self._cell_bucket, self._size + cells)
        self._cell_count = grown(self._cell_count, self._size + cells)
        self._cell_next = grown(self._cell_next, self._size + cells, _END)

    def cells_of(self, entity: int) -> tuple[Kinds, Longs, Longs]:
        """(kind, bucket, count) of all cells of one entity, in no stated order."""
        kinds: list[int] = []
        buckets: list[int] = []
        counts: list[int] = []
        rows, width = self.shape
        for kind in range(width if entity < rows else 0):
            for bucket, count in self._cells(entity, kind):
                kinds.append(kind)
                buckets.append(bucket)
                counts.append(count)
        return np.array(kinds, np.int16), np.array(buckets, np.int64), np.array(counts, np.int64)

    def _cells(self, entity: int, kind: int) -> list[tuple[int, int]]:
        cells = []
        key = entity * self._base_kinds + kind
        if kind < self._base_kinds and key + 1 < len(self._offsets):
            low, high = self._offsets[key], self._offsets[key + 1]
            counts = np.diff(self._running[low:high], prepend=0)
            cells += list(zip(self._bucket[low:high].tolist(), counts.tolist(), strict=True))
        if entity < self._head.shape[0] and kind < self._head.shape[1]:
            at = int(self._head[entity, kind])
            while at != _END:
                cells.append((int(self._cell_bucket[at]), int(self._cell_count[at])))
                at = int(self._cell_next[at])
        return cells

    def compacted(self, n_entities: int, n_kinds: int) -> "CounterTable":
        """The same counts as a base without overlay, with room for `n_entities` × `n_kinds`."""
        base_key = np.repeat(np.arange(len(self._offsets) - 1), np.diff(self._offsets))
        count = np.diff(self._running, prepend=0)
        first = np.unique(self._offsets[:-1][np.diff(self._offsets) > 0])
        count[first] = self._running[first]
        entity, kind = np.divmod(base_key, max(self._base_kinds, 1))
        key = [entity * n_kinds + kind]
        cell_key = np.full(self._size, -1, np.int64)
        _owners(self._head, self._cell_next, n_kinds, cell_key)
        key.append(cell_key)
        bucket = np.concatenate([self._bucket, self._cell_bucket[: self._size]])
        counts = np.concatenate([count, self._cell_count[: self._size]])
        return self._from_cells(np.concatenate(key), bucket, counts, n_entities, n_kinds)

    def save(self, folder: Path, name: str) -> None:
        """Write a table without overlay (see `compacted`) into an existing folder."""
        assert self._size == 0, "compact before saving"
        write_arrays(
            folder,
            {
                f"{name}.kinds": np.array([self._base_kinds]),
                f"{name}.offsets": self._offsets,
                f"{name}.bucket": self._bucket,
                f"{name}.running": self._running,
            },
        )

    @classmethod
    def open(cls, folder: Path, name: str) -> "CounterTable":
        """Map what `save` wrote."""
        parts = ("kinds", "offsets", "bucket", "running")
        arrays = open_arrays(folder, [f"{name}.{part}" for part in parts])
        kinds, offsets, bucket, running = (arrays[f"{name}.{part}"] for part in parts)
        return cls(int(kinds[0]), offsets, bucket, running)


@compiled
def _owners(head: Any, cell_next: Ints, n_kinds: int, out: Longs) -> None:
    """Key (entity·n_kinds + kind) of each overlay cell."""
    for entity in range(head.shape[0]):
        for kind in range(head.shape[1]):
            at = head[entity, kind]
            while at >= 0:
                out[at] = entity * n_kinds + kind
                at = cell_next[at]
