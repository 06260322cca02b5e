"""Implicit ALS: factors by `implicit`, users by folding in their history at the moment.

Hu, Koren, Volinsky, *Collaborative filtering for implicit feedback datasets*, ICDM 2008.
No user factor is kept. `implicit` is called through this one place because it drops arguments in
silence on some paths: we build a fresh CPU model for every fit, name every argument, run its solver over
matrices that need no memory of the process's own, and check its answer.
Shapes: U users, N items, f factors.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np

from recsys.features.interactions import (
    EMPTY_HISTORY,
    Floats,
    Histories,
    History,
    Interactions,
    Ints,
    places_by_owner,
)
from recsys.features.on_disk import empty, filled, taken
from recsys.features.protocols import Mask, Recalled
from recsys.features.ragged import offsets_of_owners
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.ann import LISTS_FROM, InvertedLists
from recsys.retrieval.asked_vectors import AskedVectors
from recsys.retrieval.fitted_source import (
    Cost,
    FittableSource,
    Room,
    SourceFit,
    SourceInputs,
    met,
    no_pairs,
    positive,
    support,
    user_rows,
    weighed,
    weight_scale,
)
from recsys.retrieval.history_kernels import Marks
from recsys.retrieval.source_params import SourceParams, param

LEAST_FACTORS: Final = 4
WARM_SHARE: Final = 1 / 3
"""Share of the iterations when starting from an earlier fit."""
ITEMS_PER_FACTOR: Final = 4
"""More factors than a quarter of the items memorise the events instead of explaining them."""


class Als(FittableSource):
    """ALS item factors, whitened so that fold-in is an h×h solve and a score one inner product.

    Args:
        white: float32[N, f], Y L with L Lᵀ = (YᵀY + λI)⁻¹.
        known: uint8[N], items with an event in the fit.
        params: as fitted; `decay` and `alpha` are read here.
        scale: event weight that counts as 1.
        fit_until: time of the fit's last event (µs).
        lists: inverted lists over `white`; a full scan without.
    """

    name: ClassVar[str] = "als"  # type: ignore[misc]
    columns: tuple[str, ...] = ("score",)
    family = "collaborative"
    reads = frozenset({"events"})
    cost = Cost.FACTORS
    warm = True
    tells = ("alike_people",)

    class Params(SourceParams):
        """Of the factorisation, and of the history folded into it."""

        factors: float = param(128, 64, 128, 256, unit="numbers", least=1)
        """Width of an item's factor; at most a quarter of the items that were met."""
        alpha: float = param(20, 5, 10, 20, 40, unit="1")
        """Confidence that an event of mean weight adds to 1."""
        regularization: float = param(0.01, 0.01, 1, 10, unit="1")
        """Penalty on the factors."""
        iterations: float = param(12, 12, unit="passes", least=1)
        """Alternations between users and items; a third of them from an earlier fit."""
        decay: float = param(0.8, 0.6, 0.7, 0.8, 0.9, 1, unit="factor", most=1, free=True)
        """Weight of an event relative to the one after it."""

    def __init__(
        self,
        white: Floats,
        known: Marks,
        *,
        params: dict[str, float],
        scale: float,
        fit_until: int,
        lists: InvertedLists | None = None,
    ) -> None:
        super().__init__(params=params, fit_until=fit_until)
        self.white, self.known, self.lists, self.scale = white, known, lists, scale
        self.n_items = len(known)

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        return no_pairs(interactions)

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Item factors, from scratch or from an earlier fit's, whitened."""
        scale = weight_scale(fit.interactions)
        earlier = None if fit.previous is None else fit.previous.white
        factors = fit_factors(fit.interactions, fit.params, scale, fit.seed, fit.workers, earlier)
        white = whitened(factors, fit.params["regularization"])
        lists = InvertedLists.build(white, fit.seed) if len(white) >= LISTS_FROM else None
        return {"white": white, "known": met(fit.interactions), "scale": scale, "lists": lists}

    def _query(self, history: History) -> Floats | None:
        """Whitened user factor, float32[f]; None without a positive event on a known item."""
        item, weight = weighed(history, self.known, self.params["decay"], self.scale)
        if not len(item):
            return None
        query = np.empty(self.white.shape[1], np.float32)
        kernels.fold_in(self.white, item, weight, len(item), self.params["alpha"], query)
        return query

    def asked(self, history: History, now: int) -> AskedVectors:
        """A history folded in, to be asked more than once."""
        return AskedVectors(self.name, self.white, self._query(history), self.known, self.lists)

    def moment_key(self, history: History, now: int) -> bytes:
        """What of the moment the answers depend on: nothing."""
        return b""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 1]: predicted preference, about 0 to 1."""
        return self.asked(history, now).score(items)

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """Items of the highest predicted preference."""
        return self.asked(history, now).recall_each([(limit, blocked)])[0]

    def saved(self) -> tuple[dict[str, Any], dict[str, Any]]:
        lists = {} if self.lists is None else self.lists.arrays()
        return {"scale": self.scale}, {"white": self.white, "known": self.known, **lists}

    @classmethod
    def opened(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: arrays[name] for name in ("white", "known")}
        return {**own, "scale": facts["scale"], "lists": InvertedLists.of(arrays)}


def fit_factors(
    interactions: Interactions,
    params: Mapping[str, float],
    scale: float,
    seed: int,
    workers: int,
    white: Floats | None = None,
) -> Floats:
    """Item factors, float32[N, f], of a fresh `implicit` CPU model.

    With `white` (whitened factors of an earlier fit, a prefix of the items) a third of the
    iterations start from there. Whitening changed the basis, not the space the factors span, and
    the first half step, which solves the users, only needs the space.

    Args:
        interactions: events to fit on.
        params: `factors`, `iterations`, `regularization`, `alpha`.
        scale: event weight that counts as 1.
        seed: of the first factors.
        workers: threads of `implicit`.
        white: float32[M, f], whitened factors of an earlier fit, M ≤ N; None to start afresh.
    """
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.utils import check_random_state
    from threadpoolctl import threadpool_limits

    events = positive(interactions)
    width = _width(interactions, int(params["factors"]))
    if not len(events):
        return np.zeros((interactions.n_items, width), np.float32)
    start = None if white is None or white.shape[1] != width else white
    by_user = _confidence(events, scale, params["alpha"])
    rng = check_random_state(seed)
    # implicit threads over rows itself; a threaded BLAS under it is ten times slower
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=width,
            regularization=params["regularization"],
            alpha=1.0,  # it is in the matrix, which `fit` would copy
            dtype=np.float32,
            use_native=True,
            use_cg=True,
            iterations=max(1, int(params["iterations"] * (1.0 if start is None else WARM_SHARE))),
            calculate_training_loss=False,
            num_threads=workers,
            random_state=seed,
        )
        by_item, users = _transposed(by_user), _drawn(rng, interactions.n_users, width)
        if start is None:
            items = _drawn(rng, interactions.n_items, width)
        else:
            items = _unwhitened(start, interactions.n_items, seed)
        # What `fit` does; its transposed matrix and its look at the factors would be the process's own memory.
        solve = partial(model.solver, regularization=model.regularization, num_threads=workers)
        for _ in range(model.iterations):
            solve(by_user, users, items)
            solve(by_item, items, users)
    if not np.isfinite(items).all():
        raise ValueError("factors became infinite or no numbers; a larger regularization helps")
    return items


def _confidence(events: Interactions, scale: float, alpha: float) -> Any:
    """Sparse float32[U, N]: alpha for each event of a mean weight."""
    matrix = user_rows(
        events,
        events.n_items,
        lambda rows: (events.item[rows], (events.weight[rows] / scale).astype(np.float32)),
    )
    matrix.data *= np.float32(alpha)
    return matrix


def _transposed(matrix: Any) -> Any:
    """A CSR matrix [U, N] as the CSR matrix [N, U]: as SciPy gives it, its values where large arrays lie."""
    from scipy.sparse import csr_matrix

    users, items = matrix.shape
    offsets = offsets_of_owners(matrix.indices, items)
    order = places_by_owner(matrix.indices, offsets)
    user = empty(matrix.nnz, np.int32)
    for some in Histories(matrix.indptr, EMPTY_HISTORY).stretches():
        bounds = matrix.indptr[some.start : some.stop + 1]
        user[bounds[0] : bounds[-1]] = np.repeat(np.arange(some.start, some.stop), np.diff(bounds))
    columns = taken(matrix.data, order), taken(user, order), offsets
    return csr_matrix(columns, shape=(items, users))


def _width(interactions: Interactions, wanted: int) -> int:
    """Numbers of a factor: those wanted, or what the items that were met can explain."""
    known = int(np.count_nonzero(support(interactions)))
    return max(1, min(wanted, max(LEAST_FACTORS, known // ITEMS_PER_FACTOR)))


def _drawn(rng: np.random.Generator, rows: int, width: int) -> Floats:
    """First factors float32[rows, width]."""

    def some(part: slice) -> Floats:
        drawn = rng.random(part.stop - part.start, dtype=np.float32) * np.float32(0.01)
        return np.asarray(drawn, np.float32)

    drawn: Floats = filled(rows * width, np.float32, some).reshape(rows, width)
    return drawn


def _unwhitened(white: Floats, n_items: int, seed: int) -> Floats:
    """Starting factors float32[N, f] of a usual size; items that are new start small and random."""
    width = white.shape[1]
    start = np.random.default_rng(seed).normal(scale=0.01, size=(n_items, width))
    known = min(len(white), n_items)
    fitted = np.linalg.norm(white[:known], axis=1) > 0
    size = float(np.sqrt(max(1, fitted.sum()) / width))
    start[:known][fitted] = white[:known][fitted] * size
    return np.ascontiguousarray(start, np.float32)


def whitened(factors: Floats, regularization: float) -> Floats:
    """Y L with L Lᵀ = (YᵀY + λI)⁻¹, float32[N, f]."""
    wide = factors.astype(np.float64)
    gram = wide.T @ wide + max(regularization, 1e-6) * np.eye(wide.shape[1])
    lower = np.linalg.cholesky(gram)
    return np.ascontiguousarray(np.linalg.solve(lower, wide.T).T, np.float32)
