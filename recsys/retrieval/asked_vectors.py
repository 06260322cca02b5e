"""What dense sources share once they have read a history: one vector of the user before the items'.

Shapes: N items, d numbers of a vector, n candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.features.interactions import Floats, Ints
from recsys.features.protocols import Mask, Recalled
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.ann import InvertedLists, scan
from recsys.retrieval.fitted_source import NOTHING, check_blocked
from recsys.retrieval.history_kernels import Marks


@dataclass(frozen=True)
class AskedVectors:
    """A user's vector before the items' vectors: a dense source that has read a history."""

    name: str
    vectors: Floats
    """float32[N, d]"""
    query: Floats | None
    """float32[d]; None where the history says nothing."""
    known: Marks
    """uint8[N], 1 for items that the source knows."""
    lists: InvertedLists | None

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """The items with the highest inner product for each (limit, blocked)."""
        for _, blocked in asks:
            check_blocked(self.name, blocked, len(self.known))
        return [self._recalled(limit, blocked) for limit, blocked in asks]

    def _recalled(self, limit: int, blocked: Mask) -> Recalled:
        if self.query is None or limit < 1:
            return NOTHING
        return scan(self.vectors, self.query, self.known, blocked, limit, self.lists)

    def score(self, items: Ints) -> Floats:
        """float32[n, 1]: inner products; NaN for unknown items."""
        out = np.empty((1, len(items)), np.float32)
        if self.query is None:
            out[:] = np.nan
        else:
            wanted = np.ascontiguousarray(items, np.int32)
            kernels.largest_dots_at(self.vectors, self.query[None, :], self.known, wanted, out[0])
        return out.T
