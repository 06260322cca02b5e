"""Metrics as `recsys.evaluate` takes them: a name, and for those of one's own a value for each list.

Shapes: G lists, K places.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.evaluation.lists import RELEVANT_FROM, Doubles, OwnMetric, RankedLists, Truth
from recsys.evaluation.metrics import METRICS, Metric
from recsys.evaluation.own_metrics import declared


class BuiltIn:
    """A metric that every report measures.

    Parameters
    ----------
    k
        Places that count.
    """

    key: str
    """Name among `recsys.evaluation.metrics.METRICS`."""

    def __init__(self, k: int = 10) -> None:
        if not isinstance(k, int) or k < 1:
            raise UsageError(
                "a cut-off is a whole number of places", where=type(self).__name__, found=k,
                expected="1 or more",
            )  # fmt: skip
        self.k = k

    @property
    def name(self) -> str:
        """As reports and gates name it."""
        return f"{self.key}@{self.k}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.k})"


class NDCG(BuiltIn):
    """Normalised discounted cumulative gain: 1 is the ideal order, 0 is no hit.

    Examples
    --------
    >>> NDCG(10).name
    'ndcg@10'
    """

    key = "ndcg"


class Recall(BuiltIn):
    """Share of what a user did next that is in the first k."""

    key = "recall"


class Precision(BuiltIn):
    """Share of the first k places that are hits."""

    key = "precision"


class HitRate(BuiltIn):
    """Share of lists with a hit in the first k."""

    key = "hit_rate"


class MAP(BuiltIn):
    """Mean over hits of the precision at each, divided by all relevant items."""

    key = "map"


class Coverage(BuiltIn):
    """Share of the catalogue that is in anybody's first k."""

    key = "coverage"


class Novelty(BuiltIn):
    """Mean surprise of the first k, in bits."""

    key = "novelty"


def per_list(function: Callable[[Sequence[int], dict[int, int]], float]) -> OwnMetric:
    """A metric from a function of one list.

    Parameters
    ----------
    function
        Of the items of a list, best first, and of the grades of what the user did, item → grade; its
        name names the metric. Items are numbers of the catalogue.

    Examples
    --------
    >>> @per_list
    ... def first_hit(listed, relevant):
    ...     return float(bool(listed) and listed[0] in relevant)
    >>> first_hit.__name__
    'first_hit'
    """

    def over_lists(lists: RankedLists, truth: Truth) -> Doubles:
        out = np.full(truth.n_groups, np.nan)
        for group in range(truth.n_groups):
            rows = slice(int(truth.offsets[group]), int(truth.offsets[group + 1]))
            wanted = zip(truth.items[rows].tolist(), truth.grades[rows].tolist(), strict=True)
            relevant = {item: grade for item, grade in wanted if grade >= RELEVANT_FROM}
            if relevant:
                listed = [int(i) for i in lists.items[group] if i >= 0]
                out[group] = function(listed, relevant)
        return out

    over_lists.__name__ = getattr(function, "__name__", "own")
    return over_lists


def sorted_out(metrics: Sequence[Any]) -> tuple[list[str], set[int], dict[str, Metric]]:
    """(names in order, cut-offs of the built-in ones, those of one's own by name).

    Raises:
        UsageError: something is no metric, or two have one name.
    """
    names: list[str] = []
    ks: set[int] = set()
    own: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str):
            metric = _named(metric)
        if isinstance(metric, BuiltIn):
            name = metric.name
            ks.add(metric.k)
        elif callable(metric) or isinstance(metric, Metric):
            made = declared(metric)
            name = made.name
            own[name] = made
        else:
            raise UsageError(
                "this is no metric",
                where="metrics",
                found=repr(metric)[:100],
                expected="NDCG(10), 'ndcg@10', or a function of lists and truth",
            )
        if name in names:
            raise UsageError("two metrics have one name", where="metrics", found=name)
        names.append(name)
    return names, ks, own


def _named(text: str) -> BuiltIn:
    key, _, k = text.partition("@")
    known = [metric.name for metric in METRICS if metric.places != "list"]
    if key not in known or not k.isdecimal():
        raise UsageError(
            "there is no such metric",
            where="metrics",
            found=text,
            expected=", ".join(f"{name}@10" for name in known),
        )
    made = BuiltIn(int(k))
    made.key = key
    return made
