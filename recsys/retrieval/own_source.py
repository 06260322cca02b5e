"""A source of your own in two methods: what it learns from events, and what it says of all items.

Shapes: E events, N items, n candidates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats, History, Interactions, Ints
from recsys.features.protocols import Mask, Recalled, RecallSource
from recsys.retrieval.fitted_source import (
    Cost,
    FittableSource,
    Params,
    Reads,
    Room,
    SourceInputs,
    last_time,
    read_source,
)
from recsys.retrieval.source_params import SourceParams, params_class, resolved
from recsys.storage.plug_ins import address_of

if TYPE_CHECKING:
    from recsys.storage.engines.scratch_parts import UnfinishedWork


class OwnSource(FittableSource):
    """Base of a source of your own.

    Give it a `name`, learn in `learn`, answer in `scores`. What `learn` returns is kept as arrays,
    written into the bundle, and is there as `self.arrays` wherever `scores` is asked. Nothing of a user
    is kept: a user is the history that is given.

    Parameters
    ----------
    params
        By name, of `PARAMS`; those absent have their defaults.

    Examples
    --------
    >>> import numpy as np, recsys
    >>> class LikeTheLast(recsys.OwnSource):
    ...     "Items of the last item's neighbourhood in the catalogue."
    ...     name = "like_the_last"
    ...     PARAMS = {"reach": (3.0, (1.0, 3.0))}
    ...     def learn(self, interactions, inputs):
    ...         return {"seen": np.bincount(interactions.item, minlength=interactions.n_items)}
    ...     def scores(self, history, now):
    ...         out = np.full(self.n_items, np.nan, np.float32)
    ...         if len(history.item):
    ...             last = int(history.item[-1])
    ...             near = slice(max(0, last - int(self.params["reach"])), last + 1)
    ...             out[near] = self.arrays["seen"][near]
    ...         return out
    >>> LikeTheLast().params
    {'reach': 3.0}
    """

    name: str = ""
    """Of the source, in settings and reports: letters, digits and underscores."""
    columns: tuple[str, ...] = ("score",)
    PARAMS: ClassVar[Params] = {}
    """Param → (default, values worth trying); or a class `Params`, as our own sources have it."""
    Params: ClassVar[type[SourceParams]] = SourceParams
    family = "collaborative"
    reads = frozenset(get_args(Reads))
    cost = Cost.UNKNOWN

    def __init_subclass__(cls, **more: Any) -> None:
        if "PARAMS" in vars(cls):
            cls.Params = params_class(cls.PARAMS)
        super().__init_subclass__(**more)

    def __init__(self, **params: float) -> None:
        self.params = resolved(self.name, self.Params, params)
        self.arrays: Mapping[str, npt.NDArray[Any]] = {}
        self.n_items, self.fit_until = 0, 0

    def learn(
        self, interactions: Interactions, inputs: SourceInputs
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays by name, learned from events that all lie before the moment of any question.

        Parameters
        ----------
        interactions
            E events: `user`, `item`, `time` (µs UTC), `weight`, `grade`, in order of time.
        inputs
            The catalogue, the items' texts and, where there are any, their vectors.
        """
        raise NotImplementedError

    def scores(self, history: History, now: int) -> Floats:
        """float32[N] of all items that were there at the fit; NaN where nothing speaks for an item.

        Parameters
        ----------
        history
            Events of one user before `now`, oldest first; may hold items beyond N.
        now
            The moment asked for, µs UTC.
        """
        raise NotImplementedError

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        """Why it is not tried on this data; None, as here, to be tried on any."""
        return None

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        inputs: SourceInputs,
        params: Mapping[str, float],
        *,
        seed: int,
        workers: int,
        previous: RecallSource | None = None,
        elsewhere: "UnfinishedWork | None" = None,
    ) -> Self:
        """As every source is fitted; `seed` is there as `self.seed` while `learn` runs."""
        del workers, previous, elsewhere
        source = cls(**dict(params))
        source.seed = seed
        source.n_items, source.fit_until = interactions.n_items, last_time(interactions)
        source.arrays = {k: np.asarray(v) for k, v in source.learn(interactions, inputs).items()}
        return source

    seed: int = 0
    """Of the draws of a fit."""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 1] of given items; NaN for items beyond N."""
        out = np.full((len(items), 1), np.nan, np.float32)
        known = items < self.n_items
        out[known, 0] = self._scores(history, now)[items[known]]
        return out

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """The items with the highest scores that are not blocked, best first, ties by item."""
        scores = self._scores(history, now)
        allowed = np.flatnonzero(~np.isnan(scores) & (blocked[: len(scores)] == 0))
        order = np.lexsort((allowed, -scores[allowed]))[:limit]
        items = allowed[order].astype(np.int32)
        return Recalled(items, scores[items])

    def _scores(self, history: History, now: int) -> Floats:
        known = history.item < self.n_items
        if not known.all():
            history = history.each(lambda column: column[known])
        scores = np.asarray(self.scores(history, now), np.float32)
        if scores.shape != (self.n_items,):
            raise ValueError(
                f"scores of source '{self.name}': found shape {scores.shape}, "
                f"expected ({self.n_items},)"
            )
        return scores

    def saved(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """The arrays, and what is needed to find this class again."""
        return {"n_items": self.n_items, "class": address_of(type(self))}, dict(self.arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote."""
        facts, arrays = read_source(folder, cls.name)
        source = cls(**facts["dials"])
        source.n_items, source.fit_until = int(facts["n_items"]), int(facts["fit_until"])
        source.fusion_weight = float(facts["fusion_weight"])
        source.arrays = arrays
        return source
