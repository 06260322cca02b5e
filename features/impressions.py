"""What was shown to whom, as arrays: the one class for lists that were shown, wherever they are read.

Shapes: G impressions (lists), S shown items of all lists together; k of the lists.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas.columns import ITEM_IDS, POSITION, TIMESTAMP
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Bools, Floats, Ints, Longs
from recsys.features.ragged import Ragged, list_column

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Impressions(Ragged):
    """G lists in the order of their time; list g showed items offsets[g]:offsets[g+1].

    `of` fills in what is not known of the lists.
    """

    offsets: Longs
    items: Ints
    """int32[S] in shown order; -1 for an item that the vocabulary does not know."""
    time: Longs
    """int64[G] µs."""
    user: npt.NDArray[np.integer]
    """int[G], coded as the events are that the lists are read with; -1 for somebody without events."""
    position: Longs
    """int64[G] place in the order in which the lists became known."""
    propensity: Floats
    """float32[S]: probability of the item's place; NaN where none was logged."""
    ids: Texts | None = None
    """str[G]; None where they were not read."""
    surface: Texts | None = None
    """Where each list was shown, str or None [G]; None where it was not read."""
    context: Texts | None = None
    """What each request said of its own situation, a JSON object or None [G]; None where it was not read."""
    ruled: Bools | None = None
    """bool[G]: a rule of the shop moved items of the list; None where it was not read."""
    group_columns: ClassVar = ("time", "user", "position", "ids", "surface", "context", "ruled")
    row_columns: ClassVar = ("items", "propensity")

    @classmethod
    def of(
        cls,
        offsets: Longs,
        items: Ints,
        time: Longs,
        *,
        user: npt.NDArray[np.integer] | None = None,
        position: Longs | None = None,
        propensity: npt.NDArray[np.floating] | None = None,
        **texts: npt.NDArray[Any] | None,
    ) -> "Impressions":
        """Lists of which not everything is known: shown to nobody, known in their own order, without
        chances, unless given."""
        return cls(
            offsets,
            items,
            time,
            np.full(len(time), -1, np.int32) if user is None else user,
            np.arange(len(time), dtype=np.int64) if position is None else position,
            np.full(len(items), np.nan, np.float32) if propensity is None else propensity,
            **texts,
        )

    def shown(self) -> tuple[Ints, Longs, Longs]:
        """(item int32[S], time int64[S], position int64[S]), one row per shown item."""
        return self.items, self.per_row(self.time), self.per_row(self.position)

    def before(self, now: int) -> "Impressions":
        """The lists shown strictly before a time (µs)."""
        return self.part(0, int(np.searchsorted(self.time, now)))

    def as_ranked(self) -> "Impressions":
        """The lists as a ranker made them: those in which a rule of the shop moved items say nothing of
        what places do, nor of what the ranker chose."""
        if self.ruled is None or not self.ruled.any():
            return self
        return self.take(np.flatnonzero(~self.ruled))

    def always_known(self) -> "Impressions":
        """The same lists, known from the beginning."""
        return replace(self, position=np.full(len(self), -1, np.int64))

    def without(self, hidden: Bools) -> "Impressions":
        """The same lists, as though some items (bool[N]) had never been shown."""
        return self.keeping(~hidden[self.items])

    def joined(self, later: "Impressions") -> "Impressions":
        """Both tables' lists in the order of their time."""
        both = Impressions.join([self, later])
        return both.take(np.lexsort((both.position, both.time)))

    def contexts(self, lists: npt.NDArray[np.integer]) -> list[dict[str, str | float]]:
        """What the requests of some lists (int[k]) said; nothing where it was not read."""
        if self.context is None:
            return [{} for _ in lists]
        return [request_context(text) for text in self.context[lists]]

    @classmethod
    def from_parquet(cls, path: Path | str, catalogue: Catalogue) -> "Impressions":
        return cls.from_table(pq.read_table(path), catalogue)

    @classmethod
    def from_table(cls, table: Any, catalogue: Catalogue) -> "Impressions":
        """Read when which known items were shown from an Arrow table of impressions; without a position
        column the row number is it."""
        time = table[TIMESTAMP].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        position = None
        if POSITION in table.column_names:
            position = table[POSITION].cast(pa.int64()).to_numpy()
        offsets, ids = list_column(table[ITEM_IDS].cast(pa.large_list(pa.large_string())))
        lists = cls.of(offsets, catalogue.indices_of(ids), time, position=position)
        known = lists.keeping(lists.items >= 0)
        return known.take(np.lexsort((known.position, known.time)))


def propensities(column: pa.ChunkedArray, offsets: Longs) -> Floats:
    """float32[S]: the chances of an Arrow column of lists, NaN in lists that have none (null)."""
    found = np.full(offsets[-1], np.nan, np.float32)
    given = np.repeat(column.is_valid().to_numpy(zero_copy_only=False), np.diff(offsets))
    found[given] = list_column(column)[1].cast(pa.float32()).to_numpy()
    return found


def request_context(text: str | None) -> dict[str, str | float]:
    """What a request said of its own situation, as a list's `context` keeps it: the words and numbers
    of a JSON object, nothing where it is none.

    >>> request_context('{"device": "phone", "basket": [1, 2]}')
    {'device': 'phone'}
    """
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, str | int | float)}
