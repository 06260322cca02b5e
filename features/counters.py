"""Counts per entity, kind and time bucket, read exactly at any moment.

A base sorted by (entity, kind, bucket) with running sums, memory-mapped and shared; beside it an
overlay of what was counted since, in the same order. The count of a window is the difference of two
running sums in each, so expiry is exact, late events land where they belong, a clock that steps
back reads what it would have read then, and neither depends on how many buckets an item has.

Shapes: N entities, K kinds, C cells of the base, W windows, n entities asked.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.interactions import Ints, Longs
from recsys.features.on_disk import empty
from recsys.features.ragged import first_of_runs, offsets_of, offsets_of_owners, owners_of
from recsys.features.store import grown, open_arrays, write_arrays

Kinds = npt.NDArray[np.int16]

_END: Final = -1
_LEAST: Final = 16
"""Slots of an empty overlay; always a power of two."""
_SHIFT: Final = 16
"""Bits of a kind in a key (entity, kind)."""
_SCATTER: Final = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd, and without pattern (Knuth's multiplicative hashing, 2^64 over the golden ratio)."""


@compiled
def _until(bucket: Longs, running: Longs, low: int, high: int, limit: int) -> int:
    """Events of the cells low..high-1 in buckets before `limit`."""
    start, stop = low, high
    while start < stop:
        middle = (start + stop) >> 1
        if bucket[middle] < limit:
            start = middle + 1
        else:
            stop = middle
    return running[start - 1] if start > low else 0


@compiled
def _tally(entity: Ints, kind: Kinds, n_kinds: int, sizes: Longs) -> None:
    """Add events to the sizes of their (entity, kind)."""
    for i in range(len(entity)):
        sizes[entity[i] * n_kinds + kind[i]] += 1


@compiled
def _lay(
    entity: Ints, kind: Kinds, bucket: Longs, n_kinds: int, following: Longs, laid: Longs
) -> None:
    """Put each event's bucket to the others of its (entity, kind)."""
    for i in range(len(entity)):
        key = entity[i] * n_kinds + kind[i]
        laid[following[key]] = bucket[i]
        following[key] += 1


@compiled
def _sort_and_count_cells(offsets: Longs, laid: Longs, cells: Longs) -> None:
    """Sort the buckets of each (entity, kind), which mostly are, and count the different ones."""
    for key in range(len(cells)):
        own = laid[offsets[key] : offsets[key + 1]]
        for i in range(1, len(own)):
            if own[i] < own[i - 1]:
                own.sort()
                break
        for i in range(len(own)):
            if i == 0 or own[i] != own[i - 1]:
                cells[key] += 1


@compiled
def _fill_cells(offsets: Longs, laid: Longs, edges: Longs, bucket: Longs, running: Longs) -> None:
    """Different buckets of each (entity, kind), with the events up to and with each."""
    for key in range(len(offsets) - 1):
        at = edges[key] - 1
        for i in range(offsets[key], offsets[key + 1]):
            if i == offsets[key] or laid[i] != laid[i - 1]:
                at += 1
                bucket[at] = laid[i]
            running[at] = i - offsets[key] + 1


@compiled
def _slot(slots: Longs, owners: Longs, key: int) -> int:
    """Place in the hash table of a key, or of the gap where it belongs; open addressing."""
    mask = len(slots) - 1
    at = ((key * _SCATTER) >> 20) & mask
    while slots[at] >= 0 and owners[slots[at]] != key:
        at = (at + 1) & mask
    return at


@compiled
def _rehash(slots: Longs, owners: Longs, size: int) -> None:
    """Fill an empty hash table with all runs."""
    for run in range(size):
        slots[_slot(slots, owners, owners[run])] = run


@compiled
def _read(
    offsets: Longs,
    bucket: Longs,
    running: Longs,
    base_kinds: int,
    slots: Longs,
    owners: Longs,
    start: Longs,
    length: Longs,
    late_bucket: Longs,
    late_running: Longs,
    entities: Ints,
    kinds: Kinds,
    widths: Longs,
    now: int,
    out: Any,
) -> None:
    """Fill out[n, K+1, W] with the counts of the `widths[W]` buckets before bucket `now`; the last
    kind is the sum of the others."""
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
                _add_counts(bucket, running, offsets[key], offsets[key + 1], widths, now, out[i, j])
            run = slots[_slot(slots, owners, (np.int64(entity) << _SHIFT) | kind)]
            if run >= 0:
                low = start[run]
                _add_counts(
                    late_bucket, late_running, low, low + length[run], widths, now, out[i, j]
                )
            for w in range(len(widths)):
                out[i, len(kinds), w] += out[i, j, w]


@compiled
def _add_counts(
    bucket: Longs, running: Longs, low: int, high: int, widths: Longs, now: int, out: Longs
) -> None:
    """Add to out[W] the events of the cells low..high-1 in the buckets before `now`."""
    if low >= high:
        return
    total = _until(bucket, running, low, high, now)
    for w in range(len(widths)):
        gone = 0
        if widths[w] > 0:
            gone = _until(bucket, running, low, high, now - widths[w])
        out[w] += total - gone


@compiled
def _merge(
    slots: Longs,
    owners: Longs,
    start: Longs,
    length: Longs,
    room: Longs,
    pool_bucket: Longs,
    pool_running: Longs,
    sizes: Longs,
    key: Longs,
    bucket: Longs,
    amount: Longs,
    begin: int,
) -> int:
    """Merge cells, sorted by (key, bucket), into the runs of their keys, from place `begin` on.

    Returns the place to go on from when the pool has to grow first; the number of cells when done.
    `sizes` holds (runs, used places of the pool), and the places wanted.
    """
    i = begin
    while i < len(key):
        stop = i
        while stop < len(key) and key[stop] == key[i]:
            stop += 1
        at = _slot(slots, owners, key[i])
        run = slots[at]
        held = length[run] if run >= 0 else 0
        needed = held + stop - i
        if run < 0 or needed > room[run]:
            wanted = max(2, 2 * needed if held else needed)
            if sizes[1] + wanted > len(pool_bucket):
                sizes[2] = sizes[1] + wanted
                return i
            if run < 0:
                run = sizes[0]
                sizes[0] += 1
                slots[at], owners[run] = run, key[i]
            for place in range(held):
                pool_bucket[sizes[1] + place] = pool_bucket[start[run] + place]
                pool_running[sizes[1] + place] = pool_running[start[run] + place]
            start[run], room[run] = sizes[1], wanted
            sizes[1] += wanted
        low = start[run]
        length[run] = _into(
            pool_bucket[low : low + room[run]],
            pool_running[low : low + room[run]],
            held,
            bucket[i:stop],
            amount[i:stop],
        )
        i = stop
    return i


@compiled
def _into(bucket: Longs, running: Longs, held: int, more: Longs, amount: Longs) -> int:
    """Merge sorted cells into a sorted run of `held` cells with running sums; the new length.

    Only what lies behind the first of them is touched.
    """
    first = 0
    stop = held
    while first < stop:
        middle = (first + stop) >> 1
        if bucket[middle] < more[0]:
            first = middle + 1
        else:
            stop = middle
    for place in range(held - 1, first, -1):
        running[place] -= running[place - 1]
    before = running[first - 1] if first > 0 else 0
    if first < held:
        running[first] -= before
    # How many of the new cells have a bucket of their own.
    fresh, place = 0, first
    for n in range(len(more)):
        if n > 0 and more[n] == more[n - 1]:
            continue
        while place < held and bucket[place] < more[n]:
            place += 1
        if place >= held or bucket[place] != more[n]:
            fresh += 1
    end = held + fresh
    old, new, out = held - 1, len(more) - 1, end - 1
    while new >= 0:
        if old >= first and bucket[old] > more[new]:
            bucket[out], running[out] = bucket[old], running[old]
            old -= 1
        else:
            at, count = more[new], 0
            while new >= 0 and more[new] == at:
                count += amount[new]
                new -= 1
            if old >= first and bucket[old] == at:
                count += running[old]
                old -= 1
            bucket[out], running[out] = at, count
        out -= 1
    for place in range(first, end):
        running[place] += before
        before = running[place]
    return end


@compiled
def _cells(
    owners: Longs,
    start: Longs,
    length: Longs,
    pool_bucket: Longs,
    pool_running: Longs,
    size: int,
    out_key: Longs,
    out_bucket: Longs,
    out_count: Longs,
) -> None:
    """All cells of all runs, one after the other."""
    at = 0
    for run in range(size):
        before = 0
        for place in range(start[run], start[run] + length[run]):
            out_key[at], out_bucket[at] = owners[run], pool_bucket[place]
            out_count[at] = pool_running[place] - before
            before = pool_running[place]
            at += 1


class _Overlay:
    """Cells counted since the base was made: for each (entity, kind) met a run in the order of its
    buckets, with running sums as in the base.

    A hash table finds a run, so nothing is kept of what was never met. Counting n cells into a run
    of m costs O(n log n + m) at worst, and O(n) behind its end; reading a window costs O(log m).
    """

    def __init__(self) -> None:
        self.slots = np.full(_LEAST, _END, np.int64)
        self.owners, self.start, self.length, self.room = (np.zeros(0, np.int64) for _ in range(4))
        self.pool_bucket, self.pool_running = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._sizes = np.zeros(3, np.int64)
        self.entities = self.kinds = 0
        """Beyond the greatest ones met."""

    @property
    def size(self) -> int:
        """Runs."""
        return int(self._sizes[0])

    def add(self, entities: Ints, kinds: Kinds, buckets: Longs, amount: Longs) -> None:
        known = entities >= 0
        if not known.all():
            entities, kinds = entities[known], kinds[known]
            buckets, amount = buckets[known], amount[known]
        if not len(entities):
            return
        self.entities = max(self.entities, int(entities.max()) + 1)
        self.kinds = max(self.kinds, int(kinds.max()) + 1)
        key = (entities.astype(np.int64) << _SHIFT) | kinds
        if len(key) > 1:
            order = np.lexsort((buckets, key))
            key, buckets, amount = key[order], buckets[order], amount[order]
        self._make_room(len(key))
        done = 0
        while done < len(key):
            done = _merge(
                self.slots,
                self.owners,
                self.start,
                self.length,
                self.room,
                self.pool_bucket,
                self.pool_running,
                self._sizes,
                key,
                buckets,
                amount,
                done,
            )
            if done < len(key):
                self.pool_bucket = grown(self.pool_bucket, int(self._sizes[2]))
                self.pool_running = grown(self.pool_running, int(self._sizes[2]))

    def _make_room(self, cells: int) -> None:
        """For as many runs as there are cells to come."""
        runs = self.size + cells
        for name in ("owners", "start", "length", "room"):
            setattr(self, name, grown(getattr(self, name), runs))
        if 2 * runs > len(self.slots):
            self.slots = np.full(1 << int(4 * runs - 1).bit_length(), _END, np.int64)
            _rehash(self.slots, self.owners, self.size)

    def of(self, entity: int, kind: int) -> tuple[Longs, Longs]:
        """(bucket, count) of one entity and kind."""
        run = int(self.slots[_slot(self.slots, self.owners, (entity << _SHIFT) | kind)])
        if run < 0:
            return self.pool_bucket[:0], self.pool_running[:0]
        place = slice(int(self.start[run]), int(self.start[run] + self.length[run]))
        return self.pool_bucket[place], np.diff(self.pool_running[place], prepend=0)

    def cells(self) -> tuple[Longs, Longs, Longs, Longs]:
        """(entity, kind, bucket, count) of all cells."""
        number = int(self.length[: self.size].sum())
        key, bucket, count = (np.zeros(number, np.int64) for _ in range(3))
        runs = (self.owners, self.start, self.length, self.pool_bucket, self.pool_running)
        _cells(*runs, self.size, key, bucket, count)
        return key >> _SHIFT, key & ((1 << _SHIFT) - 1), bucket, count


class CounterTable:
    """Counts of one sort of entity (items, categories, tags, shown items)."""

    def __init__(self, base_kinds: int, offsets: Longs, bucket: Longs, running: Longs) -> None:
        """Use `build` or `open`. `offsets` int64[N·K+1] into `bucket` and `running` (int64[C])."""
        self._base_kinds = base_kinds
        self._offsets, self._bucket, self._running = offsets, bucket, running
        self._late = _Overlay()

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
        cells = (entities[known], kinds[known], buckets[known])
        return cls.of_stretches(lambda: [cells], n_entities, n_kinds)

    @classmethod
    def of_stretches(
        cls,
        stretches: Callable[[], Iterable[tuple[Ints, Kinds, Longs]]],
        n_entities: int,
        n_kinds: int,
    ) -> "CounterTable":
        """Count events of known entities that come some at a time.

        Args:
            stretches: gives (entity int32[r], kind int[r], bucket int64[r]) of every event, as often as
                it is called.
            n_entities: number of entities.
            n_kinds: number of event types.
        """
        sizes = np.zeros(n_entities * n_kinds, np.int64)
        for entity, kind, _ in stretches():
            _tally(entity, kind, n_kinds, sizes)
        offsets = offsets_of(sizes)
        following, laid = offsets[:-1].copy(), empty(int(offsets[-1]), np.int64)
        for entity, kind, bucket in stretches():
            _lay(entity, kind, bucket, n_kinds, following, laid)
        cells = np.zeros(len(sizes), np.int64)
        _sort_and_count_cells(offsets, laid, cells)
        edges = offsets_of(cells)
        found = empty(int(edges[-1]), np.int64), empty(int(edges[-1]), np.int64)
        _fill_cells(offsets, laid, edges, *found)
        return cls(n_kinds, edges, *found)

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
        starts = np.flatnonzero(first_of_runs(key, bucket))
        if count is None:
            total = np.diff(np.append(starts, len(key)))
        else:
            total = np.add.reduceat(count[order], starts) if len(starts) else count
        key, bucket = key[starts][total != 0], bucket[starts][total != 0]
        total = total[total != 0].astype(np.int64)
        offsets = offsets_of_owners(key, n_entities * n_kinds)
        running = np.cumsum(total)
        before = np.concatenate([[0], running])[offsets[:-1]]
        return cls(n_kinds, offsets, bucket, running - before[key] if len(key) else running)

    @property
    def shape(self) -> tuple[int, int]:
        """(entities, kinds) that have room."""
        base = (len(self._offsets) - 1) // self._base_kinds if self._base_kinds else 0
        return max(base, self._late.entities), max(self._base_kinds, self._late.kinds)

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
            self._late.slots,
            self._late.owners,
            self._late.start,
            self._late.length,
            self._late.pool_bucket,
            self._late.pool_running,
            entities,
            kinds,
            widths,
            now,
            out,
        )
        return out

    def add(self, entities: Ints, kinds: Kinds, buckets: Longs, amount: Longs) -> None:
        """Add `amount` events (may be negative) to each (entity, kind, bucket)."""
        self._late.add(entities, kinds, buckets, amount)

    def cells_of(self, entity: int) -> tuple[Kinds, Longs, Longs]:
        """(kind, bucket, count) of all cells of one entity, in no stated order."""
        rows, width = self.shape
        cells = [self._cells(entity, kind) for kind in range(width if entity < rows else 0)]
        lengths = [len(bucket) for bucket, _ in cells]
        nothing = np.zeros(0, np.int64)
        return (
            np.repeat(np.arange(len(cells), dtype=np.int16), lengths),
            np.concatenate([nothing, *(bucket for bucket, _ in cells)]),
            np.concatenate([nothing, *(count for _, count in cells)]),
        )

    def _cells(self, entity: int, kind: int) -> tuple[Longs, Longs]:
        """(bucket, count) of one entity and kind."""
        bucket, count = self._late.of(entity, kind)
        key = entity * self._base_kinds + kind
        if kind < self._base_kinds and key + 1 < len(self._offsets):
            cells = slice(int(self._offsets[key]), int(self._offsets[key + 1]))
            counts = np.diff(self._running[cells], prepend=0)
            bucket = np.concatenate([self._bucket[cells], bucket])
            count = np.concatenate([counts, count])
        return bucket, count

    def compacted(self, n_entities: int, n_kinds: int) -> "CounterTable":
        """The same counts as a base without overlay, with room for `n_entities` × `n_kinds`."""
        fits = self._base_kinds == n_kinds and len(self._offsets) == n_entities * n_kinds + 1
        if fits and not self._late.size:
            return self
        base_key = owners_of(self._offsets)
        count = np.diff(self._running, prepend=0)
        first = np.unique(self._offsets[:-1][np.diff(self._offsets) > 0])
        count[first] = self._running[first]
        entity, kind = np.divmod(base_key, max(self._base_kinds, 1))
        late_entity, late_kind, late_bucket, late_count = self._late.cells()
        return self._from_cells(
            np.concatenate([entity * n_kinds + kind, late_entity * n_kinds + late_kind]),
            np.concatenate([self._bucket, late_bucket]),
            np.concatenate([count, late_count]),
            n_entities,
            n_kinds,
        )

    def save(self, folder: Path, name: str) -> None:
        """Write a table without overlay (see `compacted`) into an existing folder."""
        assert self._late.size == 0, "compact before saving"
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


def load_kernels() -> None:
    """Load the compiled parts of counting, which takes longer the first time than a ranking may."""
    ones = np.ones(2, np.int64)
    entities, kinds = np.array([0, 1], np.int32), np.zeros(2, np.int16)
    table = CounterTable.build(entities, kinds, ones, 2, 1)
    for _ in range(2):
        table.add(entities, kinds, ones, ones)
    table.read(entities, kinds, ones, 2)
    table.cells_of(0)
