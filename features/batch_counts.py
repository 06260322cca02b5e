"""The batch reading of counter features: counts first, arithmetic by the features themselves.

Counts are taken from sorted arrays (`array_counts`, the default) or by SQL (`counter_query`), in
DuckDB or on Spark. The SQL's work is cut by entity, so that a part's counts and the engine's tables
stay within a stated memory.

Shapes: R rows, P distinct (entity, bucket) pairs of a part, C counts, E events.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recsys.features.array_counts import Asked, count_windows
from recsys.features.backends import ARRAYS, Backend, open_backend
from recsys.features.counted_events import (
    ENTITY_SHOWN,
    ENTITY_TAG,
    Counted,
    counted,
    entity_codes,
    tag_rows,
)
from recsys.features.counter_query import (
    BOUNDED,
    BUCKET,
    ENTITY,
    EVENTS,
    KIND,
    KNOWN_AT,
    PAIRS,
    POSITION_BOUND,
    ROW,
    CountColumn,
    unknown_yet,
    window_counts,
)
from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.ranking_context import (
    Count,
    Counts,
    known_entities,
)
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.features.time_buckets import window_buckets

NOTHING = Counted(
    np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.int64), np.zeros(0, np.int64)
)
_PAIR_OVERHEAD = 6
"""Bytes of working memory per byte of a part's result (measured on DuckDB 1.4 to 2.0)."""
LEAST_PART = 1000
"""Asked pairs of a part at the least, however little memory there is."""
SHARED = 0.5
"""Rows, for each (item, bucket) that there can be, from which rows of the same are looked for. (Measured on
two stretches of events, 800,000 rows: .85 s instead of 1.54 where rows are 8 times the items, 1.70 instead of
1.58 where nearly every row is another pair.)"""
BLOCK = 65_536
"""Rows whose values are worked out at once: what all features make of them stays in the cache, and
the cost of a row does not grow with their number (20 million: +29% a row without, measured)."""


class ReadsCounts(Protocol):
    """A feature that is arithmetic on counts."""

    @property
    def needs(self) -> tuple[Count, ...]:
        """The counts that `read` will ask for."""

    def read(self, counts: Counts) -> Floats:
        """float32[n] from counts."""


def read_counters(
    features: Sequence[ReadsCounts],
    places: Sequence[int],
    rows: Rows,
    inputs: BatchInputs,
    out: Floats,
) -> None:
    """Fill out[:, places[i]] (float32[R, F]) with feature i's values for all rows.

    Args:
        features: features that read counters.
        places: column of each feature in `out`.
        rows: R candidate rows of the groups.
        inputs: the tables, and the backend that counts.
        out: float32[R, F], filled in place.
    """
    backend = None
    if inputs.backend != ARRAYS:
        backend = open_backend(inputs.backend, inputs.memory_mb, inputs.spark)
    try:
        for together in _apart([{need.entity for need in f.needs} for f in features]):
            some = [(features[i], places[i]) for i in together]
            needs = list(dict.fromkeys(need for feature, _ in some for need in feature.needs))
            tables = {
                entity: _read_entity(
                    entity, [n for n in needs if n.entity == entity], rows, inputs, backend
                )
                for entity in sorted({need.entity for need in needs})
            }
            _work_out(some, tables, rows, inputs, out)
    finally:
        if backend is not None:
            backend.close()


def _apart(entities: Sequence[set[str]]) -> list[list[int]]:
    """Places of features in lots that share no sort of entity, so that the counts of one lot need
    not be held while those of another are made."""
    lots: list[tuple[set[str], list[int]]] = []
    for place, wanted in enumerate(entities):
        sharing = [lot for lot in lots if lot[0] & wanted]
        lots = [lot for lot in lots if not lot[0] & wanted]
        members = sorted([place, *(i for _, others in sharing for i in others)])
        lots.append((wanted.union(*(lot[0] for lot in sharing)), members))
    return [members for _, members in lots]


def _work_out(
    features: Sequence[tuple[ReadsCounts, int]],
    tables: dict[str, dict[Count, Ints]],
    rows: Rows,
    inputs: BatchInputs,
    out: Floats,
) -> None:
    """Fill the features' columns of `out`, block by block."""
    for start in range(0, len(out), BLOCK):
        block = slice(start, start + BLOCK)
        counts = _BatchCounts(tables, rows.items[block], block, inputs)
        for feature, place in features:
            out[block, place] = feature.read(counts)


class _BatchCounts:
    """Counts of a block of rows, by what they count."""

    def __init__(
        self, tables: dict[str, dict[Count, Ints]], items: Ints, block: slice, inputs: BatchInputs
    ) -> None:
        self._tables, self._items, self._block, self._inputs = tables, items, block, inputs

    def of(self, count: Count) -> Longs:
        return self._tables[count.entity][count][self._block].astype(np.int64)

    def known(self, entity: str) -> Longs:
        return known_entities(self._inputs.catalogue, entity, self._items)


def _read_entity(
    entity: str, counts: list[Count], rows: Rows, inputs: BatchInputs, backend: Backend | None
) -> dict[Count, Ints]:
    """int32[R] for each count of one sort of entity; counted from arrays where there is no backend."""
    columns = [_column(count, inputs) for count in counts]
    usable = [i for i, column in enumerate(columns) if column is not None]
    wanted = [column for column in columns if column is not None]
    result = {count: np.zeros(len(rows), np.int32) for count in counts}
    if not wanted:
        return result
    items, bucket, bound, place = _distinct_rows(entity, rows, inputs)
    asked = _asked(entity, items, bucket, bound, inputs)
    tables = (inputs.interactions, inputs.impressions, inputs.catalogue)
    events = counted(entity, *tables, inputs.bucket_us)
    if backend is None:
        found = count_windows(events, asked, wanted, len(items))
    else:
        all_events = Counted(*map(np.concatenate, zip(*[NOTHING, *events], strict=True)))
        found = _by_sql(entity, all_events, asked, wanted, len(items), backend, inputs.memory_mb)
    for i, values in zip(usable, found, strict=True):
        result[counts[i]] = values if place is None else values[place]
    return result


def _distinct_rows(
    entity: str, rows: Rows, inputs: BatchInputs
) -> tuple[Ints, Longs, Longs | None, npt.NDArray[np.int64] | None]:
    """(items, buckets, position bounds or none, which of these each row is or none).

    Lists of one bucket share items. Where they surely share many, and where a row asks for each of its
    item's tags, each (item, bucket) is counted once: what is asked of every stretch of events then
    grows with the items and not with the lists.
    """
    bucket = rows.per_row(rows.now // inputs.bucket_us)
    if (rows.position != ANY_POSITION).any():
        return rows.items, bucket, rows.per_row(rows.position), None
    if not len(bucket) or (entity != ENTITY_TAG and not _share_items(rows, inputs)):
        return rows.items, bucket, None, None
    low = int(bucket.min())
    span = int(bucket.max()) - low + 1
    key, place = np.unique(rows.items.astype(np.int64) * span + (bucket - low), return_inverse=True)
    return (key // span).astype(np.int32), key % span + low, None, place


def _share_items(rows: Rows, inputs: BatchInputs) -> bool:
    """Whether rows are many beside the pairs of an item and a bucket of the lists that there can be."""
    bucket = rows.now // inputs.bucket_us
    low = int(bucket.min())
    seen = np.zeros(int(bucket.max()) - low + 1, np.bool_)
    seen[bucket - low] = True
    return len(rows) >= SHARED * int(seen.sum()) * inputs.catalogue.n_items


def _by_sql(
    entity: str,
    events: Counted,
    asked: Asked,
    wanted: list[CountColumn],
    n_rows: int,
    backend: Backend,
    memory_mb: int,
) -> npt.NDArray[np.int32]:
    """int32[C, R] as `count_windows`, part by part.

    Args:
        entity: what is counted.
        events: E events with their entities.
        asked: A (entity, bucket) pairs with their rows.
        wanted: the C counts.
        n_rows: R, rows of the answer.
        backend: engine that runs the expression.
        memory_mb: room for one part.
    """
    out, row = np.zeros((len(wanted), n_rows), np.int32), asked.row
    for part, seen in _parts(asked.entity, events.entity, len(wanted), memory_mb):
        found = _part_counts(asked.where(part), events.where(seen), wanted, backend)
        for values, target in zip(found, out, strict=True):
            if entity == ENTITY_TAG:
                np.add.at(target, row[part], values)  # a row's tags add up
            else:
                target[row[part]] = values
    return out


def _column(count: Count, inputs: BatchInputs) -> CountColumn | None:
    """The query's column for a count; none for an event type that never occurs."""
    width = window_buckets(count.window_us, inputs.bucket_us)
    if count.entity == ENTITY_SHOWN or not count.types:
        return CountColumn((), width)
    kinds = inputs.interactions.kinds
    codes = tuple(kinds.index(name) for name in count.types if name in kinds)
    return CountColumn(codes, width) if codes else None


def _asked(
    entity: str, items: Ints, bucket: Longs, bound: Longs | None, inputs: BatchInputs
) -> Asked:
    """The (entity, bucket) pairs that rows of these items and buckets ask for.

    Args:
        entity: what is counted.
        items: int32[R], candidates.
        bucket: int64[R], bucket of each row.
        bound: int64[R], position from which on nothing was known; None where all is known.
        inputs: the tables.
    """
    if entity == ENTITY_TAG:
        row, codes = tag_rows(inputs.catalogue, items)
    else:
        codes = entity_codes(inputs.catalogue, entity, items)
        known = codes >= 0
        if known.all():
            return Asked(np.arange(len(codes)), codes, bucket, bound)
        row = np.flatnonzero(known)
        codes = codes[row]
    return Asked(row, codes, bucket[row], None if bound is None else bound[row])


def _parts(
    asked: Ints, counted: Ints, n_columns: int, memory_mb: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | slice]]:
    """(asked rows, events) of consecutive ranges of entities, each within the memory."""
    limit = max(int(memory_mb * 1e6 / (_PAIR_OVERHEAD * 8 * (n_columns + 2))), LEAST_PART)
    if len(asked) <= limit:
        yield np.arange(len(asked)), slice(None)
        return
    per_entity = np.bincount(asked)
    part_of = np.cumsum(per_entity) // limit
    row_part = part_of[asked]
    event_part = np.full(len(counted), -1, np.int64)
    inside = counted < len(part_of)
    event_part[inside] = part_of[counted[inside]]
    for part in np.unique(row_part):
        yield np.flatnonzero(row_part == part), np.flatnonzero(event_part == part)


def _part_counts(
    asked: Asked, events: Counted, columns: list[CountColumn], backend: Backend
) -> list[Longs]:
    """int64[A] for each column, for A asked pairs."""
    backend.put(EVENTS, _table(events))
    entity, bucket = asked.entity, asked.bucket
    low = bucket.min() if len(bucket) else 0
    span = int(bucket.max() - low) + 1 if len(bucket) else 1
    key = entity.astype(np.int64) * span + (bucket - low)
    pairs, place = np.unique(key, return_inverse=True)
    backend.put(PAIRS, {ENTITY: (pairs // span).astype(np.int32), BUCKET: pairs % span + low})
    found = backend.run(window_counts, tuple(columns))
    found_key = found[ENTITY].astype(np.int64) * span + (found[BUCKET] - low)
    order = np.argsort(found_key)
    assert np.array_equal(found_key[order], pairs), "one result per asked pair"
    counts = [found[column.name][order][place] for column in columns]
    if asked.bound is not None:
        _leave_out_unknown(asked, asked.bound, events, columns, counts, backend)
    return counts


def _leave_out_unknown(
    asked: Asked,
    bound: Longs,
    events: Counted,
    columns: list[CountColumn],
    counts: list[Longs],
    backend: Backend,
) -> None:
    """Take back the events that pairs with a bound could not know.

    Args:
        asked: A (entity, bucket) pairs.
        bound: int64[A], position from which on nothing was known.
        events: E events that were counted.
        columns: the C counts.
        counts: C arrays int64[A], subtracted from in place.
        backend: engine that runs the expression.
    """
    bounded = np.flatnonzero(bound != ANY_POSITION)
    if not len(bounded):
        return
    # What all of them knew need not be looked at again.
    backend.put(EVENTS, _table(events.where(events.known_at >= bound[bounded].min())))
    rows: dict[str, npt.NDArray[Any]] = {
        ROW: bounded,
        ENTITY: asked.entity[bounded],
        BUCKET: asked.bucket[bounded],
        POSITION_BOUND: bound[bounded],
    }
    backend.put(BOUNDED, rows)
    unknown = backend.run(unknown_yet, tuple(columns))
    for values, column in zip(counts, columns, strict=True):
        values[unknown[ROW].astype(np.int64)] -= unknown[column.name].astype(np.int64)


def _table(events: Counted) -> dict[str, npt.NDArray[Any]]:
    """Events as the queries' table."""
    entity, kind, bucket, known_at = events
    return {ENTITY: entity, KIND: kind, BUCKET: bucket, KNOWN_AT: known_at}
