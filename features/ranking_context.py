"""What an online reading gets: one user, one moment, n candidate items.

Shapes: n candidates, h events of the history.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.features.catalogue import Catalogue
from recsys.features.compiled import compiled
from recsys.features.counted_events import (
    ENTITY_CATEGORY,
    ENTITY_SHOWN,
    ENTITY_TAG,
    entity_codes,
)
from recsys.features.counters import Kinds
from recsys.features.interactions import (
    Floats,
    History,
    Ints,
    Longs,
)
from recsys.features.state import CounterView, OnlineState


class Count(NamedTuple):
    """A count that a feature needs: events of an entity in the buckets before the moment's."""

    entity: str
    """item, category, tag (summed over the item's tags) or shown (appearances in lists)."""
    types: tuple[str, ...]
    """Event types added up; empty for all of them (and for `shown`)."""
    window_us: int
    """Width in µs; 0 for everything before."""


class Counts(Protocol):
    """Where counter features read, the same offline and online."""

    def of(self, count: Count) -> Longs:
        """int64[n]: the count for each candidate, 0 where its entity is unknown."""
        ...

    def known(self, entity: str) -> Longs:
        """int64[n]: how many entities of this sort the candidate has (its tags; 0 or 1 else)."""
        ...


@dataclass(frozen=True)
class RankingContext:
    """Everything a feature may look at; nothing in it is later than `now`."""

    now: int
    """µs."""
    history: History
    """The user's events strictly before `now`, oldest first."""
    items: Ints
    """int32[n] item indices of the candidates."""
    signals: Mapping[str, Floats]
    """float32[n] by name, from the recall stage: `als.score`, `text.last`, `fused.rank` …"""
    state: OnlineState
    catalogue: Catalogue
    user: Mapping[str, Any] = field(default_factory=dict)
    """The user's attributes by column, floats or strings."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the request said of its situation."""
    kinds: Sequence[str] | None = None
    """What the history's codes mean; the state's event types when absent."""

    def kind_code(self, name: str) -> int:
        """Code of an event type in the history, -1 for one that never occurred."""
        if self.kinds is None:
            return self.state.kind_code(name)
        return self.kinds.index(name) if name in self.kinds else -1

    def __len__(self) -> int:
        return len(self.items)


class CountPlan:
    """The counts of a set of features, arranged so that each sort of entity is read once."""

    def __init__(self, needs: Iterable[Count]) -> None:
        by_entity: dict[str, list[Count]] = {}
        for need in dict.fromkeys(needs):
            by_entity.setdefault(need.entity, []).append(need)
        self.entities = {name: _EntityPlan(counts) for name, counts in by_entity.items()}


class _EntityPlan:
    """The grid (event types × windows) that covers the counts of one sort of entity."""

    def __init__(self, counts: Sequence[Count]) -> None:
        widths = sorted({count.window_us for count in counts})
        self.widths_us = np.array(widths, np.int64)
        self.window = {width: place for place, width in enumerate(widths)}
        self.types = list(dict.fromkeys(name for count in counts for name in count.types))
        self.type = {name: place for place, name in enumerate(self.types)}
        self.every = any(not count.types for count in counts)
        """Whether all types together are asked for."""


class OnlineCounts:
    """Counts of n candidates read from the online state, one grid per sort of entity."""

    def __init__(self, plan: CountPlan, state: OnlineState, items: Ints, now: int) -> None:
        self._plan, self._state, self._items = plan, state, items
        self._view: CounterView = state.counters(now)
        self._grids: dict[str, tuple[Longs, Longs | None]] = {}

    def of(self, count: Count) -> Longs:
        plan = self._plan.entities[count.entity]
        grid = self._grids.get(count.entity)
        if grid is None:
            grid = self._grids[count.entity] = self._read(count.entity, plan)
        named, every = grid
        window = plan.window[count.window_us]
        if not count.types:
            assert every is not None
            return every[:, window]
        if len(count.types) == 1:
            return named[:, plan.type[count.types[0]], window]
        total: Longs = named[:, [plan.type[name] for name in count.types], window].sum(axis=1)
        return total

    def known(self, entity: str) -> Longs:
        return known_entities(self._state.catalogue, entity, self._items)

    def _read(self, entity: str, plan: _EntityPlan) -> tuple[Longs, Longs | None]:
        """(int64[n, types, W], int64[n, W] of all types where asked for)."""
        state = self._state
        if entity == ENTITY_SHOWN:
            shown = self._grid(entity, np.zeros(1, np.int16), plan)
            return shown, shown[:, 0]
        codes = [state.kind_code(name) for name in plan.types]
        if not plan.every:
            return self._grid(entity, np.array(codes, np.int16), plan), None
        n_kinds = len(state.kinds)
        whole = self._grid(entity, np.arange(n_kinds, dtype=np.int16), plan)
        if plan.types and min(codes) < 0:
            # A type that never occurred counts 0.
            none = np.zeros_like(whole[:, :1])
            named = np.concatenate([whole[:, :n_kinds], none], axis=1)[:, codes]
        else:
            named = whole[:, codes]
        return named, whole[:, n_kinds]

    def _grid(self, entity: str, kinds: Kinds, plan: _EntityPlan) -> Longs:
        """int64[n, K+1, W] for the candidates; their tags are added up."""
        catalogue = self._state.catalogue
        if entity != ENTITY_TAG:
            codes = entity_codes(catalogue, entity, self._items)
            return self._view.read(entity, codes, kinds, plan.widths_us)
        # Items share tags, so each tag is read once.
        start, stop, pool = catalogue.tag_ranges
        place = np.full(len(catalogue.tag_names), -1, np.int32)
        tags = distinct_tags(start, stop, pool, self._items, place)
        counts = self._view.read(entity, tags, kinds, plan.widths_us)
        out = np.zeros((len(self._items), *counts.shape[1:]), np.int64)
        add_tags(start, stop, pool, self._items, place, counts, out)
        return out


@compiled
def distinct_tags(start: Longs, stop: Longs, pool: Ints, items: Ints, place: Ints) -> Ints:
    """int32[t]: the tags of n items, each once; `place` int32[tags] (all -1) gets where each is.

    Args:
        start, stop: int64[N], each item's bounds in `pool`.
        pool: int32[p], tag codes.
        items: int32[n], the items asked about.
        place: int32[tags], scratch: all -1 before; the tag's row in the answer after.
    """
    size = 0
    for item in items:
        for at in range(start[item], stop[item]):
            if place[pool[at]] < 0:
                place[pool[at]] = size
                size += 1
    tags = np.empty(size, np.int32)
    for tag in range(len(place)):
        if place[tag] >= 0:
            tags[place[tag]] = tag
    return tags


@compiled
def add_tags(
    start: Longs, stop: Longs, pool: Ints, items: Ints, place: Ints, counts: Longs, out: Longs
) -> None:
    """Add to out[n, …] the counts[t, …] of each item's tags.

    Args:
        start, stop: int64[N], each item's bounds in `pool`.
        pool: int32[p], tag codes.
        items: int32[n], the items asked about.
        place: int32[tags], row of each tag in `counts`.
        counts: int64[t, K, W], counts of the tags.
        out: int64[n, K, W], added to in place.
    """
    # Loops, for adding whole slices takes 3.4 s to compile where this takes .2 (measured).
    for i in range(len(items)):
        for at in range(start[items[i]], stop[items[i]]):
            tag = place[pool[at]]
            for kind in range(out.shape[1]):
                for window in range(out.shape[2]):
                    out[i, kind, window] += counts[tag, kind, window]


def known_entities(catalogue: Catalogue, entity: str, items: Ints) -> Longs:
    """int64[n]: entities of a sort that each item has."""
    if entity == ENTITY_TAG:
        start, stop, _ = catalogue.tag_ranges
        return (stop - start)[items]
    if entity == ENTITY_CATEGORY:
        return (catalogue.category_codes[items] >= 0).astype(np.int64)
    return np.ones(len(items), np.int64)
