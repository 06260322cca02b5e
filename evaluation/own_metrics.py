"""Metrics of a user's own: functions of lists and truth that give a value for each list.

Intervals, paired differences and corrections are made of those values as of all others.
"""

import inspect
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from recsys.data_schemas.config import EvaluationConfig
from recsys.data_schemas.errors import UsageError
from recsys.evaluation.lists import Doubles, OwnMetric, RankedLists, Truth
from recsys.storage.plug_ins import METRICS, line_of, load_named, place_of

SETTING: Final = "evaluation.metrics.own"


def own_metrics_of(config: EvaluationConfig) -> dict[str, OwnMetric]:
    """The user's own metrics by name.

    Raises:
        UsageError: one cannot be loaded, is no function, or has the name of another.
    """
    found: dict[str, OwnMetric] = {}
    for address in config.metrics.own:
        metric = load_named(address, SETTING, METRICS)
        require_callable(SETTING, address, metric, 2)
        name = str(getattr(metric, "name", None) or getattr(metric, "__name__", address))
        if name in found:
            raise UsageError("two metrics have one name", where=SETTING, found=name)
        found[name] = metric
    return found


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


def require_working(own: Mapping[str, OwnMetric]) -> None:
    """Try metrics on two small lists, one of them empty."""
    none = np.zeros(2, np.int64)
    truth = Truth.of(np.array([0, 1]), np.array([0, 1]), np.ones(2, int), np.arange(2), none)
    measured(own, RankedLists.of("tried", [([0, 2], [1.0, 0.5]), ([], [])], 10), truth)


def measured(own: Mapping[str, OwnMetric], lists: RankedLists, truth: Truth) -> dict[str, Doubles]:
    """name → float[G].

    Raises:
        UsageError: one fails, or does not give a number for each list.
    """
    found: dict[str, Doubles] = {}
    for name, metric in own.items():
        try:
            values = np.asarray(metric(lists, truth), np.float64)
        except Exception as error:
            # A function of the user's own may raise anything; it is theirs to read.
            raise UsageError(
                "a metric of your own failed",
                where=f"{SETTING}: {name}, {line_of(error)}",
                found=f"{type(error).__name__}: {error}",
                expected="a number for each list",
            ) from None
        if values.shape != (truth.n_groups,):
            raise UsageError(
                "a metric of your own does not give a value for each list",
                where=f"{SETTING}: {name}, {place_of(metric)}",
                found=f"shape {values.shape}",
                expected=f"shape ({truth.n_groups},), NaN where it has no meaning",
            )
        found[name] = values
    return found
