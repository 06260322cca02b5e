"""What an online reading gets: one user, one moment, n candidate items.

Shapes: n candidates, h events of the history.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from features.catalogue import Catalogue
from features.interactions import Floats, History, Ints, Longs
from features.state import CounterView, OnlineState, tag_rows

ENTITY_ITEM: Final = "item"
ENTITY_CATEGORY: Final = "category"
ENTITY_TAG: Final = "tag"
ENTITY_SHOWN: Final = "shown"


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
class Moment:
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

    def __len__(self) -> int:
        return len(self.items)


class OnlineCounts:
    """Counts read from the online state, one at a time."""

    def __init__(self, state: OnlineState, items: Ints, now: int) -> None:
        self._state, self._items = state, items
        self._view: CounterView = state.counters(now)

    def of(self, count: Count) -> Longs:
        state = self._state
        names = (count.types or state.kinds) if count.entity != ENTITY_SHOWN else ()
        kinds = np.array([state.kind_code(name) for name in names], np.int16)
        if count.entity == ENTITY_SHOWN:
            kinds = np.zeros(1, np.int16)
        width = np.array([count.window_us])
        if count.entity != ENTITY_TAG:
            codes = entity_codes(state.catalogue, count.entity, self._items)
            return self._view.read(count.entity, codes, kinds, width).sum(axis=(1, 2))
        rows, tags = tag_rows(state.catalogue, self._items)
        read = self._view.read(ENTITY_TAG, tags, kinds, width).sum(axis=(1, 2))
        out = np.zeros(len(self._items), np.int64)
        np.add.at(out, rows, read)
        return out

    def known(self, entity: str) -> Longs:
        return known_entities(self._state.catalogue, entity, self._items)


def entity_codes(catalogue: Catalogue, entity: str, items: Ints) -> Ints:
    """int32[n]: the code under which an item's events are counted, -1 for none."""
    return catalogue.category[items] if entity == ENTITY_CATEGORY else items


def known_entities(catalogue: Catalogue, entity: str, items: Ints) -> Longs:
    """int64[n]: entities of a sort that each item has."""
    if entity == ENTITY_TAG:
        start, stop, _ = catalogue.tag_ranges
        return (stop - start)[items]
    if entity == ENTITY_CATEGORY:
        return (catalogue.category[items] >= 0).astype(np.int64)
    return np.ones(len(items), np.int64)
