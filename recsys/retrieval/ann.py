"""Sources that are one vector per item: a user vector is made from the history, items are dotted.

Small catalogues are scanned whole; from `LISTS_FROM` items on, inverted lists are probed and the
members scored exactly. Shapes: N items, f numbers of a vector, L lists.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.protocols import Mask, Recalled
from recsys.features.ragged import offsets_of_owners
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.history_kernels import Marks

LISTS_FROM: Final = 100_000
"""Items from which the scan (about 1 ms per 25,000 items of 128 numbers, measured) is too slow."""
PROBED_MEMBERS: Final = 12_000
"""Members scored per query, at the least."""
MEMBERS_PER_LIST: Final = 300
ROUNDS: Final = 6
SAMPLE_PER_LIST: Final = 40


class InvertedLists:
    """Items grouped by nearest centroid; deterministic, plain arrays, safe in any thread.

    `rows` is a second copy of the vectors in the order of the lists: a probe then reads memory in
    order, which is five times faster than gathering rows (measured at 200,000 items).
    """

    def __init__(self, centroids: Floats, offsets: Longs, member: Ints, rows: Floats) -> None:
        self.centroids, self.offsets, self.member, self.rows = centroids, offsets, member, rows

    @classmethod
    def build(cls, vectors: Floats, seed: int) -> "InvertedLists":
        """k-means on a sample, then one assignment of all items."""
        n_items = len(vectors)
        n_lists = max(1, n_items // MEMBERS_PER_LIST)
        draw = np.random.default_rng(seed)
        sample = vectors[draw.permutation(n_items)[: n_lists * SAMPLE_PER_LIST]]
        centroids = sample[:n_lists].copy()
        for _ in range(ROUNDS):
            nearest = nearest_of(sample, centroids)
            sums = np.zeros_like(centroids)
            np.add.at(sums, nearest, sample)
            count = np.bincount(nearest, minlength=n_lists)
            filled = count > 0
            centroids[filled] = sums[filled] / count[filled, None]
        nearest = nearest_of(vectors, centroids)
        member = np.argsort(nearest, kind="stable").astype(np.int32)
        return cls(centroids, offsets_of_owners(nearest, n_lists), member, vectors[member])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For saving beside the vectors."""
        return {
            "centroids": self.centroids,
            "list_offsets": self.offsets,
            "list_member": self.member,
            "list_rows": self.rows,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "InvertedLists | None":
        """What `arrays` gave, if it is there."""
        if "centroids" not in arrays:
            return None
        names = ("centroids", "list_offsets", "list_member", "list_rows")
        return cls(*(arrays[name] for name in names))

    def probe(self, query: Floats) -> Ints:
        """The lists to scan for a query, best first: enough for `PROBED_MEMBERS`."""
        every = np.ones(len(self.centroids), np.uint8)
        similar = np.empty(len(self.centroids), np.float32)
        kernels.largest_dots_at(
            self.centroids, query[None, :], every, np.arange(len(every), dtype=np.int32), similar
        )
        best = np.argsort(-similar, kind="stable").astype(np.int32)
        members = np.cumsum((self.offsets[1:] - self.offsets[:-1])[best])
        return best[: int(np.searchsorted(members, PROBED_MEMBERS)) + 1]


def nearest_of(rows: Floats, centroids: Floats, block: int = 8192) -> Ints:
    """Index of the nearest centroid (Euclidean) of each row."""
    half = 0.5 * (centroids * centroids).sum(axis=1)
    out = np.empty(len(rows), np.int32)
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        out[first : first + block] = (part @ centroids.T - half).argmax(axis=1)
    return out


def scan(
    vectors: Floats,
    query: Floats,
    known: Marks,
    blocked: Mask,
    limit: int,
    lists: InvertedLists | None,
) -> Recalled:
    """The `limit` items with the highest inner product, best first, ties by index.

    Args:
        vectors: float32[N, d].
        query: float32[d].
        known: uint8[N], 1 for items that the source knows.
        blocked: uint8[N], 1 for items that may not be listed.
        limit: items wanted.
        lists: inverted lists to search; all N are compared when None.
    """
    items, scores = np.empty(limit, np.int32), np.empty(limit, np.float32)
    if lists is None:
        products = np.empty(len(vectors), np.float32)
        count = kernels.dots_top(vectors, query, known, blocked, products, items, scores)
    else:
        count = kernels.dots_top_of_lists(
            lists.rows, query, known, blocked, lists.offsets, lists.member, lists.probe(query),
            items, scores,
        )  # fmt: skip
    return Recalled(items[:count], scores[:count])
