"""Metrics of a user's own: functions of lists and truth that give a value for each list.

Intervals, paired differences and corrections are made of those values as of all others.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from recsys.data_schemas.config import EvaluationConfig
from recsys.data_schemas.errors import UsageError
from recsys.evaluation.lists import OwnMetric, RankedLists, Truth
from recsys.evaluation.metrics import METRICS as SHIPPED
from recsys.evaluation.metrics import Measured, Metric, match
from recsys.evaluation.popularity_at import PopularityAt
from recsys.features.draws import Doubles
from recsys.storage.plug_ins import METRICS, load_named, place_of, theirs_to_read

SETTING: Final = "evaluation.metrics.own"


def own_metrics_of(config: EvaluationConfig) -> dict[str, Metric]:
    """The user's own metrics by name.

    Raises:
        UsageError: one cannot be loaded, is no function, or has the name of another.
    """
    found: dict[str, Metric] = {}
    for address in config.metrics.own:
        named = load_named(address, SETTING, METRICS)
        if not isinstance(named, Metric):
            require_callable(SETTING, address, named, 2)
            named = declared(named, address)
        if named.name in found or named.name in {metric.name for metric in SHIPPED}:
            raise UsageError("two metrics have one name", where=SETTING, found=named.name)
        found[named.name] = named
    return found


def declared(function: OwnMetric | Metric, name: str = "own") -> Metric:
    """A metric from a function of lists and truth: its name, and the first line of what it says of itself.

    Args:
        function: as `evaluation.metrics.own` names it; a declared metric is given back.
        name: of one that has none.
    """
    if isinstance(function, Metric):
        return function
    named = str(getattr(function, "name", None) or getattr(function, "__name__", name))
    about = (inspect.getdoc(function) or "your own").partition("\n")[0].rstrip(".")

    def of_lists(m: Measured, k: int | None) -> Doubles:
        # Any callable of the user's: what it gives is looked at by `values_of`.
        return np.asarray(function(m.lists, m.truth), np.float64)

    of_lists.__wrapped__ = function  # type: ignore[attr-defined]
    return Metric(named, about, of_lists, places="list", unit="its own")


def require_callable(setting: str, name: str, part: Any, arguments: int) -> None:
    """Refuse a part that cannot be called with so many arguments, with its file and line."""
    try:
        inspect.signature(part).bind(*[None] * arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "a part of your own cannot be called",
            where=f"{setting}: {name}, {place_of(part)}",
            found=str(error),
            expected=f"a function of {arguments} argument{'s' * (arguments > 1)}",
        ) from None


def require_working(own: Mapping[str, Metric]) -> None:
    """Try metrics on two small lists, one of them empty."""
    none = np.zeros(2, np.int64)
    truth = Truth.of(np.array([0, 1]), np.array([0, 1]), np.ones(2, int), np.arange(2), none)
    lists = RankedLists.of("tried", [([0, 2], [1.0, 0.5]), ([], [])], 10)
    tried = Measured(match(truth, lists), lists, truth, PopularityAt.same(np.zeros(3), 2, 3))
    for metric in own.values():
        for _, k in metric.at([10]) if metric.of_lists else ():
            values_of(metric, tried, k)


def values_of(metric: Metric, measured: Measured, k: int | None) -> Doubles | None:
    """float64[G] of a user's own metric; None where the data lack what it reads.

    Raises:
        UsageError: it fails, or does not give a number for each list.
    """
    assert metric.of_lists is not None
    part = getattr(metric.of_lists, "__wrapped__", metric.of_lists)
    with theirs_to_read(
        "a metric of your own failed",
        f"{SETTING}: {metric.name}",
        expected="a number for each list",
    ):
        given = metric.of_lists(measured, k)
        values = None if given is None else np.asarray(given, np.float64)
    if values is not None and values.shape != (measured.truth.n_groups,):
        raise UsageError(
            "a metric of your own does not give a value for each list",
            where=f"{SETTING}: {metric.name}, {place_of(part)}",
            found=f"shape {values.shape}",
            expected=f"shape ({measured.truth.n_groups},), NaN where it has no meaning",
        )
    return values
