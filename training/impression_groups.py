"""Ranking groups out of shown lists: what a user took of what they were shown, at that very time.

What was shown and left is the only negative that somebody is known to have been offered. A group
has one row per item, in the order of the item's number and not of the list: where scores are equal
the earlier row wins, and the place in the list must not speak through that.

Shapes: L lists, n shown items of all lists, G groups, R rows of all groups.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.limits import LIST_LENGTH
from recsys.evaluation.lists import RELEVANT_FROM, Truth
from recsys.evaluation.query_sets import grades_of_shown
from recsys.features.draws import Doubles, chance, least
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions, Ints, Longs
from recsys.features.protocols import Mask
from recsys.features.ragged import Ragged, offsets_of


@dataclass(frozen=True)
class ShownGroups(Ragged):
    """G moments at which a list was shown, with its items; what was acted on is among them."""

    moments: Truth
    offsets: Longs
    """int64[G+1] into the rows."""
    items: Ints
    """int32[R]"""
    lists: Longs
    """int64[G]: which of the lists each group is."""
    sampled: int = 0
    """Lists that were longer than `LIST_LENGTH`, of which a sample of what was left stands here."""
    group_columns: ClassVar = ("moments", "lists")
    row_columns: ClassVar = ("items",)

    def between(self, begin: int, end: int) -> "ShownGroups":
        """The groups of a window [begin, end)."""
        now = self.moments.time
        return self.take(np.flatnonzero((now >= begin) & (now < end)))

    def sample(self, limit: int, chances: Doubles) -> "ShownGroups":
        """The at most `limit` groups with the smallest chances (float64[M]), order kept."""
        return self.take(least(chances, limit))


def groups_of_lists(lists: Impressions, events: Interactions, unavailable: Mask) -> ShownGroups:
    """The lists of which something was acted on and something was left.

    `events` are those that may be known to labels: an action that is not among them did not happen.
    Items that the vocabulary does not know are left out, and so are those that are `unavailable`
    (uint8[N]) today: recall would not have listed them, which says nothing of their time.
    """
    owner = lists.owner
    known = lists.items >= 0
    known[known] = unavailable[lists.items[known]] == 0
    grade = best_grades(lists, events)[known]
    row = owner[known] << 32 | lists.items[known]
    # An item that stands twice in a list is one candidate, with the better of its grades.
    order = np.lexsort((-grade, row))
    row, first = np.unique(row[order], return_index=True)
    grade = grade[order][first]
    owner, item = row >> 32, (row & 0xFFFFFFFF).astype(np.int32)
    acted = np.bincount(owner[grade > 0], minlength=len(lists))
    shown = np.bincount(owner, minlength=len(lists))
    teaches = (acted > 0) & (acted < shown)
    kept = teaches[owner] & _drawn(row, grade > 0)
    relevant = kept & (grade > 0)
    sizes = np.bincount(owner[kept], minlength=len(lists))[teaches]
    return ShownGroups(
        Truth(
            offsets_of(np.bincount(owner[relevant], minlength=len(lists))[teaches]),
            item[relevant],
            grade[relevant],
            lists.user[teaches].astype(np.int32),
            lists.time[teaches],
        ),
        offsets_of(sizes),
        item[kept],
        np.flatnonzero(teaches),
        int((sizes < shown[teaches]).sum()),
    )


def _drawn(row: Longs, acted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """bool[n]: the rows (list << 32 | item, ascending) of a list's group, `LIST_LENGTH` at most.

    What was acted on comes first and something of what was left stays. Which rows is decided by a
    hash of list and item.
    """
    owner = row >> 32
    if not len(row) or np.bincount(owner).max() <= LIST_LENGTH:
        return np.ones(len(row), bool)
    order = np.lexsort((chance(row, "long lists", 0), acted, owner))
    half = owner * 2 + acted
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - np.searchsorted(half[order], half[order])
    taken = np.minimum(np.bincount(owner[acted], minlength=int(owner[-1]) + 1), LIST_LENGTH - 1)
    room = np.where(acted, taken[owner], LIST_LENGTH - taken[owner])
    return np.asarray(rank < room)


def best_grades(lists: Impressions, events: Interactions) -> npt.NDArray[np.int8]:
    """int8[n]: the highest grade of what followed each shown item, 0 where nothing did.

    A click that led to a purchase is a purchase. What follows is what evaluation takes for it
    (`grades_of_shown`), which gives the first; asked from each grade on, it gives the highest.
    """
    best = np.zeros(len(lists.items), np.int8)
    for grade in np.unique(events.grade[events.grade >= RELEVANT_FROM]):
        high = events.where(events.grade >= grade)
        found = grades_of_shown(lists, high)
        best = np.maximum(best, found)
    return best
