"""Moments at which lists were asked for, and the one function that evaluates lists at them.

The night, `evaluate`, `models compare` and every other caller collect the same: who was asked about
and when, what was known then, what was done next. Everything else follows from it.

    asked = AskedMoments.of(truth, past, events, catalogue, vectors=vectors)
    evaluation = evaluate_moments(asked, systems, main="recsys", config=config, seed=0)

Shapes: G moments (groups), R relevant items of all moments, N items, d dimensions of a vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import EvaluationConfig
from recsys.evaluation import segments
from recsys.evaluation.evaluation import Evaluation, evaluate_lists
from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.own_metrics import own_metrics_of
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.segments import SegmentLabels
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Floats, Interactions

OfUsers = Callable[[str], Sequence[object] | None]
"""Name of a column → its value for the user of each moment, None where there is no such column."""


@dataclass(frozen=True)
class AskedMoments:
    """G moments: what was done next, and what lists at them are measured by."""

    truth: Truth
    n_items: int
    """N, items that could be listed."""
    popularity: PopularityAt
    """Past events of each item as of each moment."""
    past: PastItems | None = None
    """Items each moment's user had acted on before it; None where that is not to be looked at."""
    vectors: Floats | None = None
    """float32[N, d], L2-normalised, for diversity; None without texts."""
    category: npt.NDArray[np.integer] | None = None
    """int[N]; None where there are fewer than two."""
    segments: Mapping[str, SegmentLabels] = field(default_factory=dict)
    sampled: int | None = None
    """Candidates of a list where not the whole catalogue was ranked."""

    @classmethod
    def of(
        cls,
        truth: Truth,
        past: PastItems,
        events: Interactions,
        catalogue: Catalogue,
        *,
        vectors: Any = None,
        own: Sequence[str] = (),
        of_users: OfUsers | None = None,
        more: Mapping[str, SegmentLabels | None] | None = None,
        sampled: int | None = None,
    ) -> "AskedMoments":
        """With the popularity of items and the segments that follow from what was known.

        Args:
            truth: G moments with their relevant items; items beyond the catalogue are unknown to it.
            past: items each moment's user had acted on before it.
            events: all that was known at the latest of the moments.
            catalogue: N items.
            vectors: float32[N, d] of their texts; None without.
            own: columns of items or users to look at apart.
            of_users: reads such a column of the moments' users.
            more: further segments by name; None is left out.
            sampled: candidates of a list where not the whole catalogue was ranked.
        """
        n = catalogue.n_items
        popularity = PopularityAt.of(events, truth.time, n)
        found = {
            **segments.of_history(past.lengths),
            "items": segments.by_item_popularity(truth, popularity),
            **_of_items(truth, catalogue, own),
            **_of_users(own, catalogue, of_users),
            **{name: labels for name, labels in (more or {}).items() if labels is not None},
        }
        return cls(
            truth,
            n,
            popularity,
            past,
            None if vectors is None else np.asarray(vectors),
            catalogue.category_codes if len(catalogue.category_names) > 1 else None,
            found,
            sampled,
        )

    @classmethod
    def plain(cls, truth: Truth, n_items: int) -> "AskedMoments":
        """With the truth alone: no past, no segments, nothing popular."""
        return cls(truth, n_items, PopularityAt.same(np.zeros(n_items), truth.n_groups, n_items))


def evaluate_moments(
    asked: AskedMoments,
    systems: Sequence[RankedLists],
    *,
    main: str,
    config: EvaluationConfig,
    seed: int,
    variants: Mapping[str, str] | None = None,
    own: Mapping[str, Any] | None = None,
) -> Evaluation:
    """All metrics of all systems with their intervals, and the main system against the others.

    Args:
        asked: G moments.
        systems: lists of every system, one per moment.
        main: name of the system the differences are taken from.
        config: cut-offs and resamples.
        seed: of the resamples.
        variants: systems that are the main one without something → the system they are held against.
        own: metrics of the caller's own beside those that the config names.
    """
    return evaluate_lists(
        asked.truth,
        systems,
        main=main,
        ks=config.k,
        segments=asked.segments,
        catalogue_size=asked.n_items,
        item_popularity=asked.popularity,
        item_vectors=asked.vectors,
        item_category=asked.category,
        past_items=asked.past,
        sampled_candidates=asked.sampled,
        variants=variants,
        own={**own_metrics_of(config), **(own or {})},
        seed=seed,
        resamples=config.bootstrap,
    )


def _of_items(truth: Truth, catalogue: Catalogue, own: Sequence[str]) -> dict[str, SegmentLabels]:
    """Relevant items by category and own columns; one that the catalogue does not know is in none."""
    known = truth.items < catalogue.n_items
    place = np.where(known, truth.items, 0)

    def labelled(codes: npt.NDArray[np.integer], words: Sequence[str]) -> SegmentLabels:
        names = np.array([*words, None], dtype=object)
        return segments.from_column(list(names[np.where(known, codes[place], -1)]), "relevant")

    found = {}
    if len(catalogue.category_names) > 1:
        found["category"] = labelled(catalogue.category_codes, catalogue.category_names)
    for column in own:
        if column in catalogue.categorical_names:
            found[column] = labelled(catalogue.categorical(column), catalogue.values_of(column))
    return found


def _of_users(
    own: Sequence[str], catalogue: Catalogue, of_users: OfUsers | None
) -> dict[str, SegmentLabels]:
    """Moments by own columns of their users."""
    found = {}
    for column in own:
        if of_users is None or column in catalogue.categorical_names:
            continue
        values = of_users(column)
        if values is not None and any(value is not None for value in values):
            found[column] = segments.from_column(values)
    return found
