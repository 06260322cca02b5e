"""Single models with the `fit` and `recommend` of `Recommender`: the sources of a night, alone.

Each is a source of `recsys.retrieval` behind a dataset's tables. None of them answers what it does not
know: a list is filled up with popular items, as a night fills up the lists it compares with, so that
a figure says what a person would get.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.operations.library.dataset import Dataset, Ids
from recsys.operations.library.fitting import Params, not_fitted
from recsys.operations.library.lists_out import as_ids, items_and_times, long_frame, require_k

if TYPE_CHECKING:
    import pandas as pd

    from recsys.features.catalogue import Catalogue
    from recsys.features.interactions import Histories, History, Interactions, Ints
    from recsys.features.protocols import RecallSource
    from recsys.retrieval.fitted_source import SourceInputs

LEAST_DEPTH = 300
"""Popular items that are at hand to fill lists up (assumed: as deep as a source's own list)."""


class SingleModel(Params):
    """Base of the models that stand alone.

    Parameters
    ----------
    seed
        Of every draw.
    workers
        Threads of a fit.
    params
        The source's own, by name; defaults where absent. `get_params` names them all.
    """

    source: ClassVar[str]
    """Name of the source, as in `sources.use`."""
    label: ClassVar[str]
    """Name under `recsys.models`."""

    def __init__(self, *, seed: int = 7, workers: int = 1, **params: float) -> None:
        self.seed, self.workers = seed, workers
        known = self._defaults()
        for name, value in params.items():
            if name not in known:
                raise UsageError(
                    "there is no such param",
                    where=self.label,
                    found=name,
                    expected=", ".join(["seed", "workers", *known]),
                )
            known[name] = value
        for name, value in known.items():
            setattr(self, name, value)
        self._fitted: _Fitted | None = None

    @classmethod
    def _defaults(cls) -> dict[str, float]:
        from recsys.retrieval.source_kinds import source_class
        from recsys.retrieval.source_params import declared

        return {name: p.default for name, p in declared(source_class(cls.source).Params).items()}

    @classmethod
    def _names(cls) -> list[str]:
        return ["seed", "workers", *cls._defaults()]

    def __repr__(self) -> str:
        defaults = {"seed": 7, "workers": 1, **self._defaults()}
        changed = {n: v for n, v in self.get_params().items() if v != defaults[n]}
        return f"{self.label}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"

    def fit(self, train: Dataset) -> Self:
        """Learn from a dataset; returns itself.

        Parameters
        ----------
        train
            Interactions and items.

        Raises
        ------
        DataRefused
            The data breaks a rule too often; the message says which.
        """
        from recsys.retrieval.collaborative.popularity import Popular
        from recsys.training.night.read_data import graded

        tables = train.tables
        events, _ = graded(tables.interactions, tables.meaning)
        inputs = self._inputs(train)
        popular = Popular.fit(events, inputs, {}, seed=self.seed, workers=self.workers)
        self._fitted = _Fitted(
            self._fit(events, inputs), popular, events, tables.catalogue, train.ids
        )
        return self

    def _inputs(self, train: Dataset) -> "SourceInputs":
        from recsys.data_schemas.config import EncoderConfig
        from recsys.encoder.text import item_texts
        from recsys.retrieval.fitted_source import SourceInputs

        catalogue = train.tables.catalogue
        return SourceInputs(catalogue, item_texts(catalogue, EncoderConfig().template), None)

    def _fit(self, events: "Interactions", inputs: "SourceInputs") -> "RecallSource":
        from recsys.training.sources.fit_source import fit_one

        params = {name: float(getattr(self, name)) for name in self._defaults()}
        return fit_one(self.source, events, inputs, params, seed=self.seed, workers=self.workers)

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        *,
        filter_viewed: bool = True,
        filters: Mapping[str, Any] | None = None,
    ) -> "pd.DataFrame":
        """The best items for each user, as `Recommender.recommend` gives them.

        Parameters
        ----------
        users
            Ids; everybody who was fitted on when None. Somebody unknown gets popular items.
        k
            Items per user.
        filter_viewed
            Leave out what the user acted on before.
        filters
            Column → a value, a list of values, or bounds.

        Returns
        -------
        pandas.DataFrame
            `user_id`, `item_id`, `score`, `rank`. Items that fill a list up have no score.
        """
        fitted = self._ready
        require_k(k)
        names = fitted.users if users is None else as_ids(users, "users")
        blocked = fitted.blocked(filters)
        rows = ((name, *fitted.listed(name, k, filter_viewed, blocked)) for name in names)
        return long_frame(rows, fitted.ids)

    def learned_of(self, user: str) -> set[tuple[str, int]]:
        """(item, µs) of the interactions of a user that it was fitted on."""
        fitted = self._ready
        past = fitted.histories.of(fitted.place.get(user, -1))
        return items_and_times(past, fitted.catalogue)

    @property
    def _ready(self) -> "_Fitted":
        if self._fitted is None:
            raise not_fitted(self)
        return self._fitted


class _Fitted:
    """A fitted source with what it is asked over."""

    def __init__(
        self,
        source: "RecallSource",
        popular: "RecallSource",
        events: "Interactions",
        catalogue: "Catalogue",
        ids: Ids,
    ) -> None:
        self.source, self.popular = source, popular
        self.catalogue, self.ids = catalogue, ids
        self.histories: Histories = events.histories()
        self.place = {str(user): place for place, user in enumerate(events.user_ids)}
        self.users = sorted(self.place)
        self.now = int(events.time.max(initial=0)) + 1

    def blocked(self, filters: Mapping[str, Any] | None) -> Any:
        """uint8[N]: items that nobody gets."""
        from recsys.filters import allowed_by

        blocked = self.catalogue.blocked.copy()
        if filters:
            blocked[~allowed_by(self.catalogue, filters)] = 1
        return blocked

    def listed(
        self, user: str, k: int, filter_viewed: bool, base: Any
    ) -> tuple[list[str], list[float]]:
        """Item ids and scores, best first; NaN where popular items fill the list up."""
        from recsys.features.interactions import EMPTY_HISTORY

        place = self.place.get(user)
        history: History = EMPTY_HISTORY if place is None else self.histories.of(place)
        blocked = base
        if filter_viewed and len(history.item):
            blocked = base.copy()
            blocked[history.item] = 1
        found = self.source.recall(history, k, self.now, blocked)
        items: Ints = found.items
        scores = found.scores.astype(np.float64).tolist()
        if len(items) < k:
            more = self.popular.recall(history, max(k + len(items), LEAST_DEPTH), self.now, blocked)
            rest = more.items[~np.isin(more.items, items)][: k - len(items)]
            items = np.concatenate([items, rest])
            scores += [np.nan] * len(rest)
        return [self.catalogue.id_of(int(i)) for i in items], scores


class AlsModel(SingleModel):
    """Matrix factorisation for implicit feedback (Hu, Koren and Volinsky 2008), by `implicit`.

    The user's factors are computed from their history when asked, so they are never stale.

    Examples
    --------
    >>> import recsys
    >>> model = recsys.models.ALS(factors=16).fit(data)
    >>> model.recommend(data.user_ids[:2], k=3).groupby("user_id").size().tolist()
    [3, 3]
    """

    source, label = "als", "ALS"


class EaseModel(SingleModel):
    """Linear item-to-item weights in closed form (Steck 2019)."""

    source, label = "ease", "EASE"


class ItemItemModel(SingleModel):
    """Items that the same people acted on, near each other in their histories."""

    source, label = "item_item", "ItemItem"


class TransitionsModel(SingleModel):
    """Items that came after those of the history, soon after ones more."""

    source, label = "transitions", "Transitions"


class SequenceModelAlone(SingleModel):
    """A small transformer over the order of the history."""

    source, label = "sequence", "Sequence"


class Bm25Model(SingleModel):
    """Items whose words are those of the history's items (Robertson and Zaragoza 2009)."""

    source, label = "bm25", "BM25"


class VectorsModel(SingleModel):
    """Items whose own vectors, an image's say, are near to those of the history's items."""

    source, label = "own_vectors", "Vectors"


class PopularModel(SingleModel):
    """What most people acted on; the same list for everybody, less what they have seen."""

    source, label = "popular", "Popular"


class TextModel(SingleModel):
    """The language model alone: items whose texts are near to those of the history.

    Parameters
    ----------
    fine_tune
        Whether the encoder learns from what people did; as it came otherwise.
    budget_minutes
        Time of the fine-tuning.
    encoder
        Settings of `encoder:` in a night's config, as in `{"max_steps": 100}`.
    seed
        Of every draw.
    """

    source, label = "text", "Text"

    def __init__(
        self,
        *,
        fine_tune: bool = True,
        budget_minutes: float = 5.0,
        encoder: Mapping[str, Any] | None = None,
        seed: int = 7,
    ) -> None:
        self.fine_tune, self.budget_minutes, self.encoder = fine_tune, budget_minutes, encoder
        self.seed, self.workers = seed, 1
        self._fitted: _Fitted | None = None

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {"fine_tune": True, "budget_minutes": 5.0, "encoder": None}

    def _fit(self, events: "Interactions", inputs: "SourceInputs") -> "RecallSource":
        from recsys.data_schemas.config import EncoderConfig
        from recsys.encoder.encode import encode_items
        from recsys.encoder.tower import UNFITTED, InterestSource
        from recsys.training.finetune.fit import fit_encoder

        settings = {**dict(self.encoder or {}), "fine_tune": self.fine_tune}
        config = EncoderConfig.model_validate(settings)
        until = int(events.time.max(initial=0)) + 1
        with tempfile.TemporaryDirectory(prefix="recsys-text-") as place:
            folder = Path(place) / "encoder"
            fit_encoder(
                events,
                inputs.texts,
                config,
                fit_until=until if self.fine_tune else UNFITTED,
                out_dir=folder,
                seed=self.seed,
                budget_seconds=60 * self.budget_minutes if self.fine_tune else None,
            )
            vectors, _ = encode_items(folder, inputs.texts, None)
            source = InterestSource.open(folder, vectors, until if self.fine_tune else UNFITTED)
        return cast("RecallSource", source)
