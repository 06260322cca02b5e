"""How often items had been acted on, each list at its own moment.

An item that is cold when the first list of a test is asked for may have fifty events when the last one
is: coldness, novelty and popularity are facts of a list's moment, not of the evaluation's.

Shapes: G groups, N items, E events, C snapshots.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.features.draws import Doubles
from recsys.features.interactions import Interactions, Ints, Longs

MOST_CELLS = 10_000_000
"""Counts held at once (C × N); where lists are asked for at more moments than fit, each takes the last
snapshot before its own (assumed: 200 MB with what is derived)."""


@dataclass(frozen=True)
class PopularityAt:
    """Past events of every item when each group's list was asked for.

    Items beyond N are new and have none.
    """

    counts: npt.NDArray[np.number]
    """[C, N]"""
    snapshot: Longs
    """int64[G] into the C rows."""

    @classmethod
    def same(cls, counts: npt.NDArray[np.number], groups: int, size: int) -> "PopularityAt":
        """One count for every group; `counts` [n] with n up to `size`, the rest are new."""
        row = np.zeros((1, size))
        row[0, : min(size, len(counts))] = counts[:size]
        return cls(row, np.zeros(groups, np.int64))

    @classmethod
    def of(cls, events: Interactions, time: Longs, n_items: int) -> "PopularityAt":
        """From events and the moments of the groups, `time` int64[G] (µs)."""
        moments = np.unique(time)
        most = max(1, MOST_CELLS // max(1, n_items))
        if len(moments) > most:
            moments = moments[np.arange(most) * len(moments) // most]
        place = np.searchsorted(moments, events.time, "right")
        counts = np.zeros((len(moments) + 1, n_items), np.int32)
        inside = events.item < n_items
        np.add.at(counts, (place[inside], events.item[inside]), 1)
        snapshot = np.searchsorted(moments, time, "right") - 1
        # Strictly before a moment: events at it are counted from the next one on.
        return cls(np.cumsum(counts[:-1], axis=0, dtype=np.int32), snapshot.astype(np.int64))

    def held(self, group: Longs | Ints, items: Ints | Longs) -> npt.NDArray[np.number]:
        """Past events of items as of groups' lists, both int[n]."""
        return _held(self.counts, self.snapshot[group], items, 0.0)

    @cached_property
    def percentiles(self) -> Doubles:
        """float64[C, N]: share of the other items that are less popular; ties share their mean."""
        return np.stack([popularity_percentile(row) for row in self.counts])

    @cached_property
    def tenths(self) -> npt.NDArray[np.int8]:
        """int8[C, N]: tenth of the catalogue in order of popularity, 0 the most popular."""
        out = np.empty(self.counts.shape, np.int8)
        place = np.arange(self.counts.shape[1]) * 10 // max(1, self.counts.shape[1])
        for row, counts in zip(out, self.counts, strict=True):
            row[np.argsort(-counts, kind="stable")] = place
        return out

    @cached_property
    def self_information(self) -> Doubles:
        """float64[C, N] bits: -log2 of the item's share of past events, one added to each count so
        that an item never seen is finite."""
        counts = self.counts.astype(np.float64) + 1.0
        return np.asarray(-np.log2(counts / counts.sum(axis=1, keepdims=True)), np.float64)


def _held(
    table: npt.NDArray[np.number], row: Longs, items: Ints | Longs, beyond: float
) -> npt.NDArray[np.number]:
    known = items < table.shape[1]
    return np.where(known, table[row, np.where(known, items, 0)], beyond)


def popularity_percentile(popularity: npt.NDArray[np.number]) -> Doubles:
    """float64[N] in [0, 1]: share of other items that are less popular; ties share their mean."""
    n = len(popularity)
    if n < 2:
        return np.zeros(n)
    _, inverse, counts = np.unique(popularity, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return np.asarray(((below + (counts - 1) / 2.0) / (n - 1))[inverse], np.float64)
