"""The counts of the batch reading in the process itself: sorted arrays instead of SQL.

Events are laid out by entity, in the order of their buckets, with running counts of each set of
types. The count of a window is the difference of two running counts, found by a search that starts
where the last one on the same entity ended: rows in the order of time cost a step or two each.
What is counted is what `counter_query` says in SQL, and tests hold the two against each other.

Shapes: E events, N entities, K sets of types, W windows, C counts, A asked (entity, bucket) pairs,
R rows they belong to.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.counted_events import Counted
from recsys.features.counter_query import CountColumn
from recsys.features.counters import Kinds
from recsys.features.interactions import Ints, Longs
from recsys.storage.processors import processors

Flags = npt.NDArray[np.bool_]
_APART: Final = 100_000
"""Pairs below which another thread is not worth its start (assumed)."""


class Asked(NamedTuple):
    """A pairs asked for."""

    row: Longs
    """A row's pairs lie together."""
    entity: Ints
    bucket: Longs
    bound: Longs | None
    """Position from which events were not known to the pair; None where nothing is bounded."""

    def where(self, which: Any) -> "Asked":
        """The pairs of a slice, or at given places."""
        bound = None if self.bound is None else self.bound[which]
        return Asked(self.row[which], self.entity[which], self.bucket[which], bound)


@compiled
def _lay_out(
    entity: Ints,
    kind: Kinds,
    bucket: Longs,
    first: int,
    member: Flags,
    start: Longs,
    out_bucket: Ints,
    running: Any,
) -> None:
    """Events by entity, their order within one kept, as buckets and running counts of K sets.

    Args:
        entity: int32[E], entity of each event.
        kind: int[E], event type codes.
        bucket: int64[E], bucket of each event, not falling.
        first: the earliest bucket.
        member: bool[kinds, K], event types of each set.
        start: int64[n+1], bounds of the entities.
        out_bucket: int32[E], filled: buckets since `first`, by entity.
        running: int32[E+1, K], filled: running counts of the sets.
    """
    fill = start.copy()
    sets = member.shape[1]
    for i in range(len(entity)):
        at = fill[entity[i]]
        fill[entity[i]] += 1
        out_bucket[at] = bucket[i] - first
        for k in range(sets):
            running[at + 1, k] = member[kind[i], k]
    for at in range(len(entity)):
        for k in range(sets):
            running[at + 1, k] += running[at, k]


@compiled
def _seek(bucket: Ints, low: int, high: int, at: int, limit: int) -> int:
    """First place of low..high whose bucket is `limit` or later, looked for from `at` outwards.

    Args:
        bucket: int32[E], buckets by entity.
        low, high: bounds of the entity's events.
        at: where to look first: the last place found for this entity.
        limit: bucket looked for.
    """
    step = 1
    if at < high and bucket[at] < limit:
        left = at + 1
        right = left
        while right < high and bucket[right] < limit:
            left = right + 1
            right = left + step
            step *= 2
        right = min(right, high)
    else:
        left = right = at
        while left > low:
            probe = max(left - step, low)
            if bucket[probe] < limit:
                left = probe + 1
                break
            left = right = probe
            step *= 2
    while left < right:
        middle = (left + right) >> 1
        if bucket[middle] < limit:
            left = middle + 1
        else:
            right = middle
    return left


@compiled
def _count(
    start: Longs,
    bucket: Ints,
    running: Any,
    widths: Longs,
    which_set: Ints,
    which_width: Ints,
    row: Longs,
    entity: Ints,
    now: Longs,
    first: int,
    out: Any,
) -> None:
    """Add the C counts of A (entity, bucket) pairs, each to its row's.

    Args:
        start: int64[n+1], bounds of the entities.
        bucket: int32[E], buckets since `first`, by entity.
        running: int32[E+1, K], running counts of the sets of types.
        widths: int64[W], buckets of each window; 0 for everything.
        which_set: int32[C], set of types of each count; -1 for all types.
        which_width: int32[C], window of each count.
        row: int64[A], row of each pair in `out`.
        entity: int32[A], entity of each pair.
        now: int64[A], bucket of the moment; only earlier ones count.
        first: the earliest bucket.
        out: int32[C, R], added to in place.
    """
    n = len(start) - 1
    ends = np.empty((n, len(widths) + 1), np.int64)
    for e in range(n):
        ends[e, :] = start[e]
    for a in range(len(entity)):
        e = entity[a]
        if e < 0 or e >= n or start[e] == start[e + 1]:
            continue
        low, high, limit = start[e], start[e + 1], now[a] - first
        ends[e, 0] = _seek(bucket, low, high, ends[e, 0], limit)
        for w in range(len(widths)):
            if widths[w] > 0:
                ends[e, w + 1] = _seek(bucket, low, high, ends[e, w + 1], limit - widths[w])
        last = ends[e, 0]
        for c in range(len(which_set)):
            begin = ends[e, which_width[c] + 1]
            if which_set[c] < 0:
                out[c, row[a]] += last - begin
            else:
                out[c, row[a]] += running[last, which_set[c]] - running[begin, which_set[c]]


@compiled
def _take_back(
    start: Longs,
    order: Longs,
    kind: Kinds,
    bucket: Longs,
    known_at: Longs,
    member: Flags,
    widths: Longs,
    which_set: Ints,
    which_width: Ints,
    row: Longs,
    entity: Ints,
    now: Longs,
    bound: Longs,
    out: Any,
) -> None:
    """Subtract the events in the pairs' windows that became known at their bound or later.

    Args:
        start: int64[n+1], bounds of the entities in `order`.
        order: int64[E], events by entity.
        kind: int[E], event type codes.
        bucket: int64[E], bucket of each event.
        known_at: int64[E], position at which each became known.
        member: bool[kinds, K], event types of each set.
        widths: int64[W], buckets of each window; 0 for everything.
        which_set: int32[C], set of types of each count; -1 for all types.
        which_width: int32[C], window of each count.
        row: int64[A], row of each pair in `out`.
        entity: int32[A], entity of each pair.
        now: int64[A], bucket of the moment; only earlier ones count.
        bound: int64[A], position from which on nothing was known.
        out: int32[C, R], subtracted from in place.
    """
    n = len(start) - 1
    for a in range(len(entity)):
        e = entity[a]
        if e < 0 or e >= n:
            continue
        for place in range(start[e], start[e + 1]):
            i = order[place]
            if known_at[i] < bound[a] or bucket[i] >= now[a]:
                continue
            for c in range(len(which_set)):
                width, of = widths[which_width[c]], which_set[c]
                inside = width == 0 or bucket[i] >= now[a] - width
                if inside and (of < 0 or member[kind[i], of]):
                    out[c, row[a]] -= 1


def count_windows(
    events: Iterable[Counted], asked: Asked, columns: Sequence[CountColumn], n_rows: int
) -> npt.NDArray[np.int32]:
    """int32[C, R]: each column's count, added up over a row's pairs and over stretches of the events."""
    out = np.zeros((len(columns), n_rows), np.int32)
    for stretch in events:
        _add_windows(stretch, asked, columns, out)
    return out


def _add_windows(
    events: Counted, asked: Asked, columns: Sequence[CountColumn], out: npt.NDArray[np.int32]
) -> None:
    """Add the counts of a stretch of the events to `out` (int32[C, R])."""
    events = _in_order(events)
    if not len(events.entity) or not len(asked.row):
        return
    member, plan = _plan(columns, int(events.kind.max()) + 1)
    start, first = _starts(events.entity), int(events.bucket[0])
    laid = np.empty(len(events.entity), np.int32)
    running = np.zeros((len(laid) + 1, member.shape[1]), np.int32)
    _lay_out(events.entity, events.kind, events.bucket, first, member, start, laid, running)

    def count(low: int, high: int) -> None:
        row, entity, now, _ = asked.where(slice(low, high))
        _count(start, laid, running, *plan, row, entity, now, first, out)

    with ThreadPoolExecutor(processors()) as pool:
        # Each thread has rows of its own, so that none adds to another's.
        list(pool.map(count, *zip(*_cuts(asked.row), strict=True)))
    if asked.bound is not None:
        _leave_out_unknown(events, asked, asked.bound, member, plan, out)


def _in_order(events: Counted) -> Counted:
    """Events of known entities, buckets ascending (a table in canonical order has them so)."""
    if (events.entity < 0).any():
        events = events.where(events.entity >= 0)
    if (events.bucket[1:] < events.bucket[:-1]).any():
        events = events.where(np.argsort(events.bucket, kind="stable"))
    return events


def _plan(columns: Sequence[CountColumn], n_kinds: int) -> tuple[Flags, tuple[Longs, Ints, Ints]]:
    """(bool[kinds, K] members of each set, (widths int64[W], set and width of each column))."""
    sets = list(dict.fromkeys(column.kinds for column in columns if column.kinds))
    widths = list(dict.fromkeys(column.width for column in columns))
    n_kinds = max([n_kinds, *(kind + 1 for kinds in sets for kind in kinds)])
    member = np.zeros((n_kinds, len(sets)), np.bool_)
    for place, kinds in enumerate(sets):
        member[list(kinds), place] = True
    which_set = [sets.index(column.kinds) if column.kinds else -1 for column in columns]
    which_width = [widths.index(column.width) for column in columns]
    plan = (
        np.array(widths, np.int64),
        np.array(which_set, np.int32),
        np.array(which_width, np.int32),
    )
    return member, plan


def _starts(entity: Ints) -> Longs:
    """int64[N+1] place of each entity's first event when laid out by entity."""
    start = np.zeros(int(entity.max()) + 2, np.int64)
    np.cumsum(np.bincount(entity), out=start[1:])
    return start


def _cuts(row: Longs) -> list[tuple[int, int]]:
    """Ranges of pairs of about equal size that share no row."""
    if len(row) < _APART:
        return [(0, len(row))]
    threads = processors()
    middle = len(row) // threads
    places = [int(np.searchsorted(row, row[middle * part])) for part in range(1, threads)]
    return list(zip([0, *places], [*places, len(row)], strict=True))


def _leave_out_unknown(
    events: Counted,
    asked: Asked,
    bound: Longs,
    member: Flags,
    plan: tuple[Longs, Ints, Ints],
    out: npt.NDArray[np.int32],
) -> None:
    """Take back what pairs could not know. Few events are that late, so they are tried one by one.

    Args:
        events: E events that were counted.
        asked: A (entity, bucket) pairs.
        bound: int64[A], position from which on nothing was known.
        member: bool[kinds, K], event types of each set.
        plan: (widths, set of each count, width of each count).
        out: int32[C, R], subtracted from in place.
    """
    late = events.where(events.known_at >= bound.min())
    if not len(late.entity):
        return
    order = np.argsort(late.entity, kind="stable")
    start = _starts(late.entity)
    _take_back(start, order, *late[1:], member, *plan, *asked[:3], bound, out)
