"""EASE: every item's score as a ridge regression on the other items of the history.

Steck, *Embarrassingly shallow autoencoders for sparse data*, WWW 2019. The inverse of the item-item
Gram matrix costs M³ operations and 8 M² bytes, so only the `items` most supported items take part;
the rest score NaN and are left to other sources.
"""

from typing import Any, ClassVar, Final

import numpy as np

from recsys.features.interactions import (
    Floats,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.ragged import offsets_of
from recsys.retrieval.collaborative.neighbours import NeighbourSource
from recsys.retrieval.fitted_source import (
    Cost,
    Room,
    SourceFit,
    SourceInputs,
    no_pairs,
    positive,
    strengths,
    support,
    user_rows,
    weight_scale,
)
from recsys.retrieval.source_params import SourceParams, param

KEPT_WEIGHTS: Final = 500
"""Weights kept per history item, the largest by absolute value."""

BYTES_PER_CELL: Final = 14.0
"""Peak memory of a fit per cell of its M×M matrix (float32 Gram, its sparse form, copies)."""
CELL_SECONDS: Final = 1.2e-11
"""Seconds of a fit per M³ on one core (measured: 8,000 items in 6 s)."""
LEAST_ITEMS, MOST_ITEMS = 1000, 12_000
"""Items of a catalogue that must find room, unless it has fewer; and those that may take part."""


class Ease(NeighbourSource):
    """Ridge item-item weights, pruned to a sparse table."""

    name: ClassVar[str] = "ease"  # type: ignore[misc]
    family = "collaborative"
    reads = frozenset({"events"})
    cost = Cost.MATRIX
    tells = ("alike_people",)

    class Params(SourceParams):
        """Of the regression."""

        decay: float = param(0.8, 0.6, 0.7, 0.8, 0.9, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        ridge: float = param(200, 20, 60, 200, 600, unit="events")
        """Penalty on the weights, added to each item's events."""
        items: float = param(8000, 8000, unit="items", least=1)
        """Items that take part, those with the most events; fewer where memory is short."""

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        held = cls.held_by(room, interactions.n_items)
        if (problem := no_pairs(interactions)) is not None:
            return problem
        if held < min(LEAST_ITEMS, interactions.n_items):
            return f"its matrix has room for {held} items only in the given memory and time"
        return None

    @staticmethod
    def held_by(room: Room, n_items: int) -> int:
        """Items that it can take within memory and time."""
        by_memory = (room.memory_bytes / BYTES_PER_CELL) ** 0.5
        by_time = (room.seconds / CELL_SECONDS) ** (1 / 3)
        return int(min(n_items, MOST_ITEMS, by_memory, by_time))

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """The inverse of the regularised Gram matrix of the most supported items, pruned."""
        interactions, params = fit.interactions, fit.params
        limit = min(int(params["items"]), affordable_items())
        chosen = most_supported(support(interactions), limit)
        known = np.zeros(interactions.n_items, np.uint8)
        known[chosen] = 1
        weights = ridge_weights(interactions, chosen, max(params["ridge"], 1e-3), fit.workers)
        return cls.table(fit, largest(weights, chosen, interactions.n_items), known)


def affordable_items() -> int:
    """Items whose matrix fits into half of the memory that is free now."""
    import psutil

    return int((psutil.virtual_memory().available / 2 / BYTES_PER_CELL) ** 0.5)


def most_supported(counts: Ints, limit: int) -> Ints:
    """Indices of at most `limit` items with the most events (at least one), ascending."""
    order = np.lexsort((np.arange(len(counts)), -counts))[:limit]
    return np.sort(order[counts[order] > 0]).astype(np.int32)


def ridge_weights(interactions: Interactions, items: Ints, ridge: float, workers: int) -> Floats:
    """float32[M, M]: row i holds what having i adds to the score of each j; zero diagonal."""
    from scipy.linalg import lapack
    from threadpoolctl import threadpool_limits

    place = np.full(interactions.n_items, -1, np.int32)
    place[items] = np.arange(len(items), dtype=np.int32)
    events = positive(interactions)
    if not len(items):
        return np.zeros((0, 0), np.float32)
    strength = strengths(events, weight_scale(interactions))
    matrix = user_rows(events, len(items), lambda rows: (place[events.item[rows]], strength[rows]))
    gram: Any = (matrix.T @ matrix).toarray(order="F")
    gram[np.diag_indices(len(items))] += ridge
    with threadpool_limits(max(1, workers), "blas"):
        gram, failed = lapack.spotrf(gram, lower=1, overwrite_a=1)
        assert failed == 0, failed
        gram, failed = lapack.spotri(gram, lower=1, overwrite_c=1)
        assert failed == 0, failed
    mirror_lower(gram)
    diagonal = np.diag(gram).copy()
    gram /= -diagonal
    gram[np.diag_indices(len(items))] = 0.0
    return np.asarray(gram, np.float32)


def mirror_lower(matrix: Floats, block: int = 1024) -> None:
    """Copy the lower triangle onto the upper one, block by block to spare memory."""
    size = len(matrix)
    for first in range(0, size, block):
        last = min(size, first + block)
        corner = matrix[first:last, first:last]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        matrix[first:last, last:] = matrix[last:, first:last].T


def largest(weights: Floats, items: Ints, n_items: int) -> tuple[Longs, Ints, Floats]:
    """CSR over all N items of each row's `KEPT_WEIGHTS` largest weights by absolute value."""
    size = len(items)
    keep = min(KEPT_WEIGHTS, size)
    neighbour = np.empty(size * keep, np.int32)
    value = np.empty(size * keep, np.float32)
    for r in range(size):
        row = weights[r]
        top = np.sort(np.argpartition(-np.abs(row), keep - 1)[:keep])
        neighbour[r * keep : (r + 1) * keep] = items[top]
        value[r * keep : (r + 1) * keep] = row[top]
    counts = np.zeros(n_items, np.int64)
    counts[items] = keep
    return offsets_of(counts), neighbour, value
