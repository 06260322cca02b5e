"""Popularity within what the user has recently gone for: categories, tags, brand-like phrases.

An attribute a of a history item points at the items that share it, in proportion to their smoothed
popularity within it. How much an attribute counts is learned from the order of events: how much
more often than by chance the next event keeps it. A brand or a series is kept, a colour is not.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.columns import CATEGORY
from recsys.features.interactions import Floats, Interactions, Ints
from recsys.features.ragged import owners_of
from recsys.retrieval.collaborative.neighbours import (
    KEPT_WITH_FEW,
    NeighbourSource,
    product_rows,
    united,
)
from recsys.retrieval.content.words import (
    Csr,
    bounded,
    coded,
    phrases,
    transposed,
    with_columns,
)
from recsys.retrieval.fitted_source import (
    Cost,
    Room,
    SourceFit,
    SourceInputs,
    few_events,
    no_texts,
    positive,
    support,
)
from recsys.retrieval.history_kernels import Marks
from recsys.retrieval.source_params import SourceParams, param

Doubles = npt.NDArray[np.float64]

KEPT_COMPANIONS: Final = 300
LEAST_ITEMS: Final = 3
"""Items that must share a phrase before it is an attribute."""
MOST_SHARE: Final = 0.25
"""Share of the items beyond which an attribute says nothing."""
MOST_LEAST: Final = 50
"""Items below which no attribute is too common."""
PRIOR_PAIRS: Final = 20.0
"""Pairs of events that an attribute's own rate of being kept must outweigh (assumed)."""


class Attributes(NeighbourSource):
    """Popular items that share attributes with the history."""

    name: ClassVar[str] = "attributes"  # type: ignore[misc]
    family = "attributes"
    reads = frozenset({"events", "order", "texts", "attributes"})
    cost = Cost.TEXTS
    content = True
    tells = ("often",)

    class Params(SourceParams):
        """Of what counts as popular within an attribute."""

        decay: float = param(0.8, 0.6, 0.8, 0.9, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        popularity: float = param(0.85, 0.5, 0.85, 1, unit="exponent")
        """How far an item's events count."""
        smoothing: float = param(1, 1, unit="events")
        """Added to each item's events."""

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        return no_texts(inputs)

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Attributes, how much each counts, and each item's companions by them."""
        interactions, params = fit.interactions, fit.params
        n_items = interactions.n_items
        most = max(MOST_LEAST, int(MOST_SHARE * n_items))
        rows, names = coded(item_attributes(fit.inputs, n_items), LEAST_ITEMS, most)
        events = support(interactions)
        liking: Doubles = (events + params["smoothing"]) ** np.float64(params["popularity"])
        keeping = kept_rate(interactions, rows, len(names))
        left = with_values(rows, keeping[rows[1]])

        def companions(keep: int, only: Marks | None = None) -> Csr:
            shares = shares_within(rows, liking, len(names), only)
            return product_rows(left, shares, np.ones(n_items, np.float32), keep, fit.workers)

        few = companions(KEPT_WITH_FEW, few_events(events))
        known = (np.diff(rows[0]) > 0).astype(np.uint8)
        return cls.table(fit, united(companions(KEPT_COMPANIONS), few), known)


def item_attributes(inputs: SourceInputs, n_items: int) -> list[list[tuple[str, float]]]:
    """Attributes of each item: its category, tags, string attributes, and its title's phrases."""
    catalogue = inputs.catalogue
    titles: Sequence[str] = inputs.texts if catalogue is None else catalogue.titles
    found = [set(phrases(title or "")) for title in titles[:n_items]]
    found += [set() for _ in range(n_items - len(found))]
    if catalogue is not None:
        names = catalogue.tag_names
        offsets, codes = catalogue.tags_csr()
        for i in range(min(n_items, len(offsets) - 1)):
            found[i].update(f"tag={names[code]}" for code in codes[offsets[i] : offsets[i + 1]])
        for attribute in (CATEGORY, *catalogue.categorical_names):
            values = catalogue.values_of(attribute)
            for i, code in enumerate(catalogue.categorical(attribute)[:n_items]):
                if code >= 0:
                    found[i].add(f"{attribute}={values[code]}")
    return [[(name, 1.0) for name in sorted(attributes)] for attributes in found]


def with_values(rows: Csr, value: Floats | Doubles) -> Csr:
    """The same entries with other values."""
    return rows[0], rows[1], np.ascontiguousarray(value, np.float32)


def shares_within(rows: Csr, liking: Doubles, n_attributes: int, only: Marks | None = None) -> Csr:
    """Attribute × item: an item's share of the liking of all items with the attribute, for the most
    liked where very many have it. `only` (uint8[N]) names the items listed; all when None."""
    offsets, column, _ = rows
    row = owners_of(offsets)
    total = np.bincount(column, liking[row], minlength=n_attributes)
    shares = transposed(with_values(rows, liking[row] / total[column]), n_attributes)
    if only is not None:
        shares = with_columns(shares, only)
    return bounded(shares, liking[shares[1]])


def kept_rate(interactions: Interactions, rows: Csr, n_attributes: int) -> Floats:
    """float32[attributes]: how often the next event keeps an attribute, beyond chance, at least 0.

    Rate over consecutive pairs of positive events of one user, drawn towards chance (the share of
    all events on items with the attribute) by `PRIOR_PAIRS`.
    """
    from scipy.sparse import csr_matrix

    events = positive(interactions)
    follows = np.flatnonzero(events.user[1:] == events.user[:-1]) if len(events) else _none()
    before, after = events.item[follows], events.item[follows + 1]
    offsets, column, value = rows
    matrix = csr_matrix((value, column, offsets), shape=(interactions.n_items, n_attributes))
    had = np.zeros(n_attributes)
    kept = np.zeros(n_attributes)
    for first in range(0, len(before), 200_000):
        left = matrix[before[first : first + 200_000]]
        right = matrix[after[first : first + 200_000]]
        had += np.asarray(left.sum(axis=0)).ravel()
        kept += np.asarray(left.multiply(right).sum(axis=0)).ravel()
    popular = np.bincount(events.item, minlength=interactions.n_items)
    chance = np.asarray(matrix.T @ popular).ravel() / max(1, len(events))
    rate = (kept + PRIOR_PAIRS * chance) / (had + PRIOR_PAIRS)
    if not len(before):
        return np.ones(n_attributes, np.float32)
    return np.maximum(rate - chance, 0.0).astype(np.float32)


def _none() -> Ints:
    return np.empty(0, np.int32)
