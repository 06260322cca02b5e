"""Models of RecTools and LensKit as sources of a night.

Such a model knows people by their ids, and forgets who comes later. A source here is asked with a
history. So the model is fitted as of each cut, as every source is, and asked what it finds near each
item alone; these lists are kept as arrays. A history's score is the sum over its items, later ones more:
for item-item models (neighbours, EASE, SLIM) that is the model itself, cut to `KEPT` neighbours; for
factor models it stands in for the user's factors. Where a bundle is opened, neither library is needed,
only your own class.

Shapes: N items, M kept pairs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import Floats, History, Interactions
from recsys.features.ragged import offsets_of_owners
from recsys.retrieval.fitted_source import Params, SourceInputs, positive, weighed, weight_scale
from recsys.retrieval.own_source import OwnSource

if TYPE_CHECKING:
    import pandas as pd


class NearItems(NamedTuple):
    """What is near to what: M pairs in any order."""

    item: npt.NDArray[Any]
    near: npt.NDArray[Any]
    score: npt.NDArray[Any]


class AdaptedModel(OwnSource):
    """Base of the adapters: gives a source its lists from what is near each item."""

    PARAMS: ClassVar[Params] = {"decay": (0.8, (0.6, 0.8, 0.9))}
    reads = frozenset({"events", "times"})
    KEPT: ClassVar[int] = 200
    """Items kept for each item, those of the highest score above 0."""

    def model(self) -> Any:
        """A fresh model that was not fitted; `self.seed` is there for its draws."""
        raise NotImplementedError

    def near_items(self, liked: "pd.DataFrame") -> NearItems:
        """Fit `model()` on positive events and ask what it finds near each item.

        Args:
            liked: `user_id` and `item_id` as whole numbers, `value` 1 for an event of usual weight,
                `timestamp`; a row for each user and item.
        """
        raise NotImplementedError

    def learn(
        self, interactions: Interactions, inputs: SourceInputs
    ) -> Mapping[str, npt.NDArray[Any]]:
        """The model's lists as rows: `offsets` int64[N+1], `near` int32[M], `score` float32[M].

        Args:
            interactions: events to fit on.
            inputs: not read; such a model knows events alone.
        """
        del inputs
        scale = weight_scale(interactions)
        liked = liked_pairs(interactions, scale)
        found = (
            self.near_items(liked) if len(liked) else NearItems(*(np.empty(0) for _ in range(3)))
        )
        item, near = (np.asarray(ids, np.int32) for ids in (found.item, found.near))
        score = np.asarray(found.score, np.float32)
        good = np.isfinite(score) & (score > 0) & (item != near)
        order = np.lexsort((near[good], -score[good], item[good]))
        item, near, score = (column[good][order] for column in (item, near, score))
        first = np.searchsorted(item, item, "left")
        kept = np.arange(len(item)) - first < self.KEPT
        offsets = offsets_of_owners(item[kept], self.n_items)
        return {
            "offsets": offsets,
            "near": near[kept],
            "score": score[kept],
            "known": (np.diff(offsets) > 0).astype(np.uint8),
            "scale": np.array([scale], np.float64),
        }

    def scores(self, history: History, now: int) -> Floats:
        """Sum over the latest liked items of `history` of their neighbours' scores, each step back less,
        whatever the moment `now`."""
        del now
        arrays = self.arrays
        scale = float(arrays["scale"][0])
        items, weights = weighed(history, arrays["known"], self.params["decay"], scale)
        out = np.zeros(self.n_items, np.float32)
        for item, weight in zip(items.tolist(), weights.tolist(), strict=True):
            row = slice(arrays["offsets"][item], arrays["offsets"][item + 1])
            out[arrays["near"][row]] += np.float32(weight) * arrays["score"][row]
        out[out <= 0] = np.nan
        return out


def liked_pairs(interactions: Interactions, scale: float) -> "pd.DataFrame":
    """Positive events as a frame, a row for each user and item, in order: `user_id`, `item_id`,
    `value` (weights added up, over the usual one), `timestamp` (the latest)."""
    import pandas as pd

    events = positive(interactions)
    frame = pd.DataFrame(
        {
            c.USER_ID: events.user.astype(np.int64),
            c.ITEM_ID: events.item.astype(np.int64),
            c.VALUE: (events.weight / scale).astype(np.float64),
            c.TIMESTAMP: pd.to_datetime(events.time, unit="us"),
        }
    )
    by = frame.groupby([c.USER_ID, c.ITEM_ID], as_index=False, sort=True)
    return by.agg({c.VALUE: "sum", c.TIMESTAMP: "max"})


class RecToolsSource(AdaptedModel):
    """A model of RecTools as a source: anything with `recommend_to_items` there.

    Write `model`; give the class a `name`, and name it in `sources.own` or `Recommender(sources=[…])`.

    Examples
    --------
    >>> import recsys
    >>> class Ease(recsys.models.RecToolsSource):
    ...     name = "rectools_ease"
    ...     def model(self):
    ...         from rectools.models import EASEModel
    ...         return EASEModel(regularization=200)
    >>> Ease().params
    {'decay': 0.8}
    """

    def near_items(self, liked: "pd.DataFrame") -> NearItems:
        """What `recommend_to_items` says of every item, fitted on `liked`."""
        try:
            from rectools import Columns
            from rectools.dataset import Dataset
        except ImportError as error:
            raise _missing(self, "rectools", error) from None
        names = {
            c.USER_ID: Columns.User, c.ITEM_ID: Columns.Item, c.VALUE: Columns.Weight,
            c.TIMESTAMP: Columns.Datetime,
        }  # fmt: skip
        dataset = Dataset.construct(liked.rename(columns=names))
        model = self.model()
        model.fit(dataset)
        items = np.unique(liked[c.ITEM_ID].to_numpy())
        found = model.recommend_to_items(items, dataset, k=min(self.KEPT, max(1, len(items) - 1)))
        return NearItems(
            *(found[name].to_numpy() for name in (Columns.TargetItem, Columns.Item, Columns.Score))
        )


class LensKitSource(AdaptedModel):
    """A scorer of LensKit as a source: one for implicit feedback that reads a history.

    Write `model`; give the class a `name`, and name it in `sources.own` or `Recommender(sources=[…])`.

    Examples
    --------
    >>> import recsys
    >>> class Neighbours(recsys.models.LensKitSource):
    ...     name = "lenskit_knn"
    ...     def model(self):
    ...         from lenskit.knn import ItemKNNScorer
    ...         return ItemKNNScorer(max_nbrs=20, feedback="implicit")
    >>> Neighbours().params
    {'decay': 0.8}
    """

    def near_items(self, liked: "pd.DataFrame") -> NearItems:
        """What the scorer's top-n pipeline, fitted on `liked`, gives a history of each item alone."""
        try:
            from lenskit import recommend
            from lenskit.data import ItemList, RecQuery, from_interactions_df
            from lenskit.pipeline import topn_pipeline
            from lenskit.training import TrainingOptions
        except ImportError as error:
            raise _missing(self, "lenskit", error) from None
        data = from_interactions_df(
            liked[[c.USER_ID, c.ITEM_ID]].copy(), user_col=c.USER_ID, item_col=c.ITEM_ID
        )
        pipeline = topn_pipeline(self.model(), n=self.KEPT)
        pipeline.train(data, TrainingOptions(rng=self.seed))
        item, near, score = [], [], []
        for asked in np.unique(liked[c.ITEM_ID].to_numpy()).tolist():
            found = recommend(pipeline, RecQuery(history_items=ItemList([asked])), n=self.KEPT)
            ids = np.asarray(found.ids(), np.int64)
            item.append(np.full(len(ids), asked, np.int64))
            near.append(ids)
            score.append(np.asarray(found.scores(), np.float64))
        return NearItems(*(np.concatenate(column) for column in (item, near, score)))


def _missing(source: AdaptedModel, package: str, error: ImportError) -> UsageError:
    return UsageError(
        f"{package} is needed to fit this source and cannot be imported",
        where=f"source {source.name}",
        found=str(error),
        expected=f"{package} in the environment of the night; the service does without",
        fix=f"pip install {package}",
    )
