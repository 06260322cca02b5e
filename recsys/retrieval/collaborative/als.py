"""Implicit ALS: factors by `implicit`, users by folding in their history at the moment.

Hu, Koren, Volinsky, *Collaborative filtering for implicit feedback datasets*, ICDM 2008.
No user factor is kept. `implicit` is called through this one place because it drops arguments in
silence on some paths and continues from earlier factors when a model is fitted twice: we build a
fresh CPU model for every fit, name every argument and check its answer.
Shapes: U users, N items, f factors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from recsys.features.interactions import (
    Floats,
    History,
    Interactions,
    Ints,
)
from recsys.features.protocols import Mask, Recalled
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.ann import LISTS_FROM, AskedVectors, InvertedLists
from recsys.retrieval.fitted_source import (
    FittableSource,
    Params,
    SourceInputs,
    last_time,
    positive,
    read_source,
    resolve_params,
    support,
    weighed,
    weight_scale,
)
from recsys.retrieval.history_kernels import Marks

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
    PARAMS: ClassVar[Params] = {
        "factors": (128.0, (64.0, 128.0, 256.0)),
        "alpha": (20.0, (5.0, 10.0, 20.0, 40.0)),
        "regularization": (0.01, (0.01, 1.0, 10.0)),
        "iterations": (12.0, (12.0,)),
        "decay": (0.8, (0.6, 0.7, 0.8, 0.9, 1.0)),
    }

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
        self.white, self.known, self.lists = white, known, lists
        self.params, self.scale, self.fit_until = params, scale, fit_until
        self.n_items = len(known)

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        inputs: SourceInputs,
        params: Mapping[str, float],
        *,
        seed: int,
        workers: int,
        previous: "Als | None" = None,
    ) -> Self:
        """Fit item factors, from scratch or from an earlier fit's, and whiten them.

        Args:
            interactions: events to fit on, all before the cut.
            inputs: catalogue, texts and text vectors.
            params: by name, of `PARAMS`; those absent have their defaults.
            seed: of the draws; the same seed gives the same source.
            workers: threads.
            previous: the fit of an earlier cut to go on from; from scratch when None.
        """
        chosen = resolve_params(cls.name, cls.PARAMS, params)
        scale = weight_scale(interactions)
        earlier = None if previous is None else previous.white
        factors = fit_factors(interactions, chosen, scale, seed, workers, earlier)
        white = whitened(factors, chosen["regularization"])
        known = (support(interactions) > 0).astype(np.uint8)
        lists = InvertedLists.build(white, seed) if len(known) >= LISTS_FROM else None
        return cls(
            white,
            known,
            params=chosen,
            scale=scale,
            fit_until=last_time(interactions),
            lists=lists,
        )

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

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {"white": self.white, "known": self.known}
        if self.lists is not None:
            arrays |= self.lists.arrays()
        self.save_arrays(folder, {"scale": self.scale}, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        facts, arrays = read_source(folder, cls.name)
        return cls(
            arrays["white"],
            arrays["known"],
            params=facts["dials"],
            scale=facts["scale"],
            fit_until=facts["fit_until"],
            lists=InvertedLists.of(arrays),
        ).voting(facts)


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
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits

    events = positive(interactions)
    shape = (interactions.n_users, interactions.n_items)
    met = int(np.count_nonzero(support(interactions)))
    width = max(1, min(int(params["factors"]), max(LEAST_FACTORS, met // ITEMS_PER_FACTOR)))
    if not len(events):
        return np.zeros((interactions.n_items, width), np.float32)
    start = None if white is None or white.shape[1] != width else white
    confidence = (events.weight / scale).astype(np.float32)
    matrix = csr_matrix((confidence, (events.user, events.item)), shape=shape)
    # implicit threads over rows itself; a threaded BLAS under it is ten times slower
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=width,
            regularization=params["regularization"],
            alpha=params["alpha"],
            dtype=np.float32,
            use_native=True,
            use_cg=True,
            iterations=max(1, int(params["iterations"] * (1.0 if start is None else WARM_SHARE))),
            calculate_training_loss=False,
            num_threads=workers,
            random_state=seed,
        )
        if start is not None:
            model.item_factors = _unwhitened(start, interactions.n_items, seed)
        model.fit(matrix, show_progress=False)
    factors = np.asarray(model.item_factors, np.float32)
    assert factors.shape == (interactions.n_items, width), factors.shape
    return factors


def _unwhitened(white: Floats, n_items: int, seed: int) -> Floats:
    """Starting factors float32[N, f] of a usual size; items that are new start small and random."""
    width = white.shape[1]
    start = np.random.default_rng(seed).normal(scale=0.01, size=(n_items, width))
    known = min(len(white), n_items)
    met = np.linalg.norm(white[:known], axis=1) > 0
    size = float(np.sqrt(max(1, met.sum()) / width))
    start[:known][met] = white[:known][met] * size
    return np.ascontiguousarray(start, np.float32)


def whitened(factors: Floats, regularization: float) -> Floats:
    """Y L with L Lᵀ = (YᵀY + λI)⁻¹, float32[N, f]."""
    wide = factors.astype(np.float64)
    gram = wide.T @ wide + max(regularization, 1e-6) * np.eye(wide.shape[1])
    lower = np.linalg.cholesky(gram)
    return np.ascontiguousarray(np.linalg.solve(lower, wide.T).T, np.float32)
