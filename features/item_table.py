"""Item-side columns of all items at once, kept while they hold.

Counters change only with the bucket, attributes only with the catalogue. When many candidates are
asked for in one bucket, reading every item once and gathering rows is cheaper than reading each
candidate; when each call has a moment of its own, it is not. So the table is made only once the
candidates asked for amount to a share of the items, which bounds its cost by what it replaces.

Shapes: N items of the table, n candidates, C item-side columns.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from recsys.features.interactions import Floats, Ints

MADE_FROM: Final = 0.5
"""Share of the items that must have been asked for in vain (assumed; the cost doubles at most)."""
MOST_ITEMS: Final = 300_000
"""Larger catalogues are always read by candidate: making the table would hold a request up for
some 0.2 s (measured: 0.6 µs per item with 23 columns)."""

Key = tuple[int, ...]
Reader = Callable[[Ints], Floats]


class ItemTable:
    """float32[N, C] under a key; another key starts anew."""

    def __init__(self) -> None:
        self._key: Key = ()
        self._missed = 0
        self._table: Floats | None = None

    def take(self, key: Key, items: Ints, n_items: int, read: Reader) -> Floats:
        """float32[n, C] of the candidates.

        Args:
            key: everything the columns depend on besides the item.
            n_items: items in the catalogue; those added after the table was made are read singly.
            read: gives float32[m, C] for any items.
        """
        if key != self._key:
            self._key, self._table, self._missed = key, None, 0
        if self._table is None:
            self._missed += len(items)
            if n_items > MOST_ITEMS or self._missed < MADE_FROM * n_items:
                return read(items)
            self._table = read(np.arange(n_items, dtype=np.int32))
        table = self._table
        new = items >= len(table)
        if not new.any():
            return table[items]
        out = np.empty((len(items), table.shape[1]), np.float32)
        out[~new], out[new] = table[items[~new]], read(items[new])
        return out
