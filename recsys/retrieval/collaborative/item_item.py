"""Items that go together, and items that follow one another.

Both count pairs of events of the same user; item_item looks both ways over the whole history,
transitions only ahead within a window, nearer pairs counting more. The count of i and j is divided
by n_i^left · n_j^right: left = right = 0.5 is the cosine; a smaller `right` lets popular items keep
part of their advantage, and `shrink`, added to both supports, keeps pairs of rare items from
leading. Measured on `games`, nDCG@10: cosine .060, (.5, .3) .072, (.5, .15, shrink 10) .076.
"""

from typing import Any, ClassVar

import numpy as np

from recsys.features.compiled import compiled
from recsys.features.interactions import (
    Floats,
    Interactions,
    Ints,
    Longs,
    places_by_owner,
)
from recsys.features.on_disk import empty, stretches
from recsys.features.ragged import offsets_of_owners
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.collaborative.neighbours import NeighbourRows, NeighbourSource
from recsys.retrieval.fitted_source import (
    Cost,
    Room,
    SourceFit,
    SourceInputs,
    in_chunks,
    met,
    no_pairs,
    positive,
    strengths,
    weight_scale,
)
from recsys.retrieval.source_params import SourceParams, param

KEPT_NEIGHBOURS = 300
"""Neighbours kept per item: longer rows change no list of 300 on `games` noticeably."""
MAX_REACH = 200
"""Events on either side that item_item pairs an event with: bounds the cost of long histories."""


class PairSource(NeighbourSource):
    """What counts pairs of one user's events."""

    family = "collaborative"
    reads = frozenset({"events", "order"})
    cost = Cost.PAIRS
    pairs = True
    tells = ("also_chosen",)

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        return no_pairs(interactions)

    @classmethod
    def counted(cls, fit: SourceFit, before: int, after: int, gap_decay: float) -> dict[str, Any]:
        """The table of a count; see `count_pairs`."""
        params = fit.params
        rows = count_pairs(
            fit.interactions, before, after, gap_decay,
            params["left"], params["right"], params["shrink"], fit.workers,
        )  # fmt: skip
        return cls.table(fit, rows, met(fit.interactions))


class ItemItem(PairSource):
    """Item-item neighbours with asymmetric normalisation and a decayed history."""

    name: ClassVar[str] = "item_item"  # type: ignore[misc]

    class Params(SourceParams):
        """Of the count of pairs."""

        decay: float = param(0.8, 0.6, 0.7, 0.8, 0.9, 1, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        right: float = param(0.15, 0, 0.15, 0.3, 0.5, unit="exponent")
        """How far the events of the item proposed are divided out."""
        shrink: float = param(10, 0, 2, 10, 30, unit="events")
        """Added to both items' events."""
        left: float = param(0.5, 0.3, 0.5, 0.7, unit="exponent")
        """How far the events of the history's item are divided out."""

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Pairs both ways over each user's latest events."""
        return cls.counted(fit, MAX_REACH, MAX_REACH, 1.0)


class Transitions(PairSource):
    """What follows what: pairs ahead within a window, decayed by their distance."""

    name: ClassVar[str] = "transitions"  # type: ignore[misc]

    class Params(SourceParams):
        """Of the count of pairs."""

        decay: float = param(0.8, 0.6, 0.7, 0.8, 0.9, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        right: float = param(0.1, 0, 0.1, 0.3, 0.5, unit="exponent")
        """How far the events of the item that follows are divided out."""
        shrink: float = param(10, 0, 2, 10, 30, unit="events")
        """Added to both items' events."""
        gap_decay: float = param(0.9, 0.6, 0.8, 0.9, 1, unit="factor", most=1)
        """Weight of a pair for each further event between the two."""
        left: float = param(0.5, 0.3, 0.5, 0.7, unit="exponent")
        """How far the events of the item that is followed are divided out."""
        window: float = param(20, 5, 20, unit="events", least=1)
        """Later events that an event is paired with."""

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Pairs ahead within the window."""
        return cls.counted(fit, 0, int(fit.params["window"]), fit.params["gap_decay"])


def count_pairs(
    interactions: Interactions,
    before: int,
    after: int,
    gap_decay: float,
    left: float,
    right: float,
    shrink: float,
    workers: int,
) -> tuple[Longs, Ints, Floats]:
    """Top rows of pair counts over n_i^left · n_j^right, with `shrink` added to both supports.

    Weights enter as their square root over the mean weight, so that a pair of average events
    counts 1.

    Args:
        interactions: events to count in.
        before: places earlier in a history that pair with an event.
        after: places later that do.
        gap_decay: factor for each further place between the two.
        left: exponent of the row item's support.
        right: exponent of the column item's support.
        shrink: added to both supports.
        workers: threads.
    """
    events = positive(interactions)
    n_items = interactions.n_items
    strength = strengths(events, weight_scale(interactions))
    low, high = user_bounds(events.user)
    offsets = offsets_of_owners(events.item, n_items)
    occurrence = places_by_owner(events.item, offsets)
    mass = np.zeros(n_items)
    for part in stretches(len(events)):
        np.add.at(mass, events.item[part], strength[part])
    mass += shrink
    mass = np.maximum(mass, 1e-9)
    row_scale = (mass**-left).astype(np.float32)
    column_scale = (mass**-right).astype(np.float32)
    rows = NeighbourRows(n_items, KEPT_NEIGHBOURS)

    def work(first: int, until: int) -> None:
        chunk = rows.chunk(first, until)
        kernels.co_occurrence(
            first, until, offsets, occurrence, low, high, events.item, strength,
            before, after, gap_decay, row_scale, column_scale, *chunk,
        )  # fmt: skip
        rows.take(first, chunk)

    in_chunks(work, n_items, workers)
    return rows.packed()


def user_bounds(user: Ints) -> tuple[Longs, Longs]:
    """For events in user order: first and last-plus-one row of each event's user, int64[E]."""
    low, high = empty(len(user), np.int64), empty(len(user), np.int64)
    _user_bounds(user, low, high)
    return low, high


@compiled
def _user_bounds(user: Ints, low: Longs, high: Longs) -> None:
    first = 0
    for row in range(1, len(user) + 1):
        if row == len(user) or user[row] != user[first]:
            low[first:row] = first
            high[first:row] = row
            first = row
