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
CODED_AT_ONCE: Final = 8192
SUM_ERROR: Final = 1e-5
"""Of the lengths' product, by which two float32 sums of one inner product may differ (some hundred
roundings of 6e-8 each)."""


class InvertedLists:
    """Items grouped by nearest centroid; deterministic, plain arrays, safe in any thread.

    Beside the vectors themselves it holds them in 8 bits only, in the order of the lists: a probe reads
    memory in order, a quarter of the bytes, and looks exactly at the few that may be among the best.
    What it finds is to the bit what the vectors alone would give.
    """

    def __init__(
        self,
        centroids: Floats,
        offsets: Longs,
        member: Ints,
        codes: npt.NDArray[np.int8],
        scale: Floats,
        error: Floats,
    ) -> None:
        self.centroids, self.offsets, self.member = centroids, offsets, member
        self.codes, self.scale, self.error = codes, scale, error

    @classmethod
    def build(cls, vectors: Floats, seed: int, only: Ints | None = None) -> "InvertedLists":
        """k-means on a sample, then one assignment of all items; of `only` (int32[n], ascending), where it
        is given."""
        every = np.arange(len(vectors), dtype=np.int32) if only is None else only
        n_items = len(every)
        n_lists = max(1, n_items // MEMBERS_PER_LIST)
        draw = np.random.default_rng(seed)
        sample = vectors[every[draw.permutation(n_items)[: n_lists * SAMPLE_PER_LIST]]]
        centroids = sample[:n_lists].copy()
        for _ in range(ROUNDS):
            nearest = nearest_of(sample, centroids)
            sums = np.zeros_like(centroids)
            np.add.at(sums, nearest, sample)
            count = np.bincount(nearest, minlength=n_lists)
            filled = count > 0
            centroids[filled] = sums[filled] / count[filled, None]
        parts = range(0, n_items, CODED_AT_ONCE)
        assigned = [nearest_of(vectors[every[p : p + CODED_AT_ONCE]], centroids) for p in parts]
        nearest = np.concatenate([np.empty(0, np.int32), *assigned])
        member = every[np.argsort(nearest, kind="stable")]
        offsets = offsets_of_owners(nearest, n_lists)
        return cls(centroids, offsets, member, *in_8_bits(vectors, member))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """For saving beside the vectors."""
        return {
            "centroids": self.centroids,
            "list_offsets": self.offsets,
            "list_member": self.member,
            "list_codes": self.codes,
            "list_scale": self.scale,
            "list_error": self.error,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "InvertedLists | None":
        """What `arrays` gave, if it is there."""
        if "centroids" not in arrays:
            return None
        if "list_rows" in arrays:  # earlier releases kept a second copy of the vectors
            rows = arrays["list_rows"]
            coded = in_8_bits(rows, np.arange(len(rows), dtype=np.int32))
        else:
            coded = (arrays["list_codes"], arrays["list_scale"], arrays["list_error"])
        return cls(arrays["centroids"], arrays["list_offsets"], arrays["list_member"], *coded)

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


def in_8_bits(vectors: Floats, order: Ints) -> tuple[npt.NDArray[np.int8], Floats, Floats]:
    """Vectors in some order: codes int8[m, f], the scale of each row, and by how much the inner product
    of a row with a query of length 1 may be off, float32[m]."""
    shape = (len(order), vectors.shape[1])
    codes, scale, error = (
        np.empty(shape, np.int8),
        np.empty(shape[0], "f4"),
        np.empty(shape[0], "f4"),
    )
    for first in range(0, len(order), CODED_AT_ONCE):
        part = slice(first, first + CODED_AT_ONCE)
        rows = np.asarray(vectors[order[part]])
        step = np.maximum(np.abs(rows).max(axis=1, initial=0.0), 1e-12) / 127.0
        rounded = np.rint(rows / step[:, None])
        codes[part], scale[part] = rounded, step
        rest = np.linalg.norm(rows - rounded * step[:, None], axis=1)
        # The sums themselves are rounded too.
        error[part] = 1.001 * rest + SUM_ERROR * np.linalg.norm(rows, axis=1)
    return codes, scale, error


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
            vectors, query, known, blocked, lists.offsets, lists.member, lists.codes, lists.scale,
            lists.error, lists.probe(query), items, scores,
        )  # fmt: skip
    return Recalled(items[:count], scores[:count])
