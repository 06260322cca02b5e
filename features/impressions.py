"""What was shown to whom, as arrays.

Shapes: G impressions (lists), S shown items of all lists together.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas.columns import ITEM_IDS, POSITION, TIMESTAMP
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Bools, Ints, Longs


@dataclass(frozen=True)
class Impressions:
    """G lists in the order of their time; list g showed items offsets[g]:offsets[g+1]."""

    time: Longs
    """int64[G] µs."""
    position: Longs
    """int64[G] place in the order in which the lists became known."""
    offsets: Longs
    """int64[G+1]."""
    items: Ints
    """int32[S] in shown order; items unknown to the vocabulary are left out."""

    def __len__(self) -> int:
        return len(self.time)

    def shown(self) -> tuple[Ints, Longs, Longs]:
        """(item int32[S], time int64[S], position int64[S]), one row per shown item."""
        lengths = np.diff(self.offsets)
        return self.items, np.repeat(self.time, lengths), np.repeat(self.position, lengths)

    def always_known(self) -> "Impressions":
        """The same lists, known from the beginning."""
        return replace(self, position=np.full(len(self), -1, np.int64))

    def without(self, hidden: Bools) -> "Impressions":
        """The same lists, as though some items (bool[N]) had never been shown."""
        kept = ~hidden[self.items]
        left = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        return replace(self, offsets=left[self.offsets], items=self.items[kept])

    def joined(self, later: "Impressions") -> "Impressions":
        """Both tables' lists in the order of their time."""
        time = np.concatenate([self.time, later.time])
        position = np.concatenate([self.position, later.position])
        lengths = np.concatenate([np.diff(self.offsets), np.diff(later.offsets)])
        items = np.concatenate([self.items, later.items])
        order = np.lexsort((position, time))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        offsets = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
        placed = np.argsort(np.repeat(rank, lengths), kind="stable")
        return Impressions(time[order], position[order], offsets, items[placed])

    @classmethod
    def from_parquet(cls, path: Path | str, catalogue: Catalogue) -> "Impressions":
        return cls.from_table(pq.read_table(path), catalogue)

    @classmethod
    def from_table(cls, table: Any, catalogue: Catalogue) -> "Impressions":
        """Read an Arrow table of impressions; without a position column the row number is it."""
        time = table[TIMESTAMP].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        if POSITION in table.column_names:
            position = table[POSITION].cast(pa.int64()).to_numpy()
        else:
            position = np.arange(len(time), dtype=np.int64)
        lists = table[ITEM_IDS].cast(pa.large_list(pa.large_string()))
        items = catalogue.indices_of(
            pa.chunked_array(
                [c.flatten() for c in lists.chunks] or [pa.array([], pa.large_string())]
            )
        )
        lengths = lists.combine_chunks().value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(len(time)), lengths)
        order = np.lexsort((position, time))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        owner, items = rank[owner][items >= 0], items[items >= 0]
        placed = np.argsort(owner, kind="stable")
        offsets = np.zeros(len(time) + 1, np.int64)
        np.cumsum(np.bincount(owner, minlength=len(time)), out=offsets[1:])
        return cls(time[order], position[order], offsets, items[placed])


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
