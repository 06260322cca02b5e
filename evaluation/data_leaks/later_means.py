"""Columns that know what is going to be said of an item: the mean of stars it never had at the time.

Means of the stars of n events vary about anything known beforehand by at least the variance of a single star
over n. Where they vary less about a column, it was made from them.

Shapes: n entities.
"""

from typing import Final, NamedTuple

import numpy as np

from recsys.evaluation.data_leaks.later_counts import CountedGroups
from recsys.evaluation.data_leaks.leaky_columns import ITEMS, SuspectColumn
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles

BELOW_CHANCE: Final = 0.5
"""Variance of later means against chance's below which a column knows them; chance alone gives at least 1
(films: 1.9 and more; measured)."""
ENOUGH: Final = 100
"""Entities with values both before and after."""
LATE: Final = 0.1
"""Share of the log, at its end, that a column of all time must know."""
STRETCHES: Final = (0.3, 0.25, 0.2, 0.15, 0.1)


class Means(NamedTuple):
    """Mean values by entity, and how many they are of: in the whole log, in each stretch at its end."""

    whole: Doubles
    number: Doubles
    late: list[tuple[float, Doubles, Doubles]]
    """(share of the log, mean, count)"""
    variance: float
    """Of a single value about its entity's mean."""


def means_of(log: LoggedData, table: str) -> Means | None:
    """Mean values of the items or users; None where events carry none that differ."""
    events = log.events
    known = np.isfinite(events.value)
    entity = (events.item if table == ITEMS else events.user)[known]
    value = events.value[known].astype(np.float64)
    size = events.n_items if table == ITEMS else events.n_users
    if len(value) < 2 * ENOUGH or np.ptp(value) == 0:
        return None
    whole, count = _mean(entity, value, size)
    several = count[entity] > 1
    spread = (value - whole[entity])[several] * np.sqrt(count / np.maximum(count - 1, 1))[entity][
        several
    ]
    late = []
    for share in STRETCHES:
        after = log.slice_of[known] >= round((1 - share) * log.slices)
        late.append((share, *_mean(entity[after], value[after], size)))
    return Means(whole, count, late, max(float(spread.var()), 1e-9))


def _mean(entity: np.ndarray, value: Doubles, size: int) -> tuple[Doubles, Doubles]:
    count = np.bincount(entity, minlength=size).astype(np.float64)
    return np.bincount(entity, value, size) / np.maximum(count, 1), count


def knows_means(column: SuspectColumn, means: Means) -> str | None:
    """What a column of numbers knows of the later values, in words."""
    if column.named:
        return None
    best = BELOW_CHANCE, ""
    for share, late, count in means.late:
        told = (count > 0) & np.isfinite(column.values)
        if told.sum() < ENOUGH:
            continue
        found = _spread(column, told, late, count, means.variance)
        best = min(best, (found, f"in the last {share:.0%} of the log"))
        changed = told & (means.number > count)
        if share == LATE and changed.sum() >= ENOUGH:
            weight = means.number**2 / np.maximum(count, 1)
            found = _spread(column, changed, means.whole, weight, means.variance)
            best = min(best, (found, "of all time"))
    if not best[1]:
        return None
    return (
        f"it knows the mean value of the events {best[1]}: means vary {best[0]:.2f} times as much about "
        "it as chance alone makes them"
    )


def _spread(
    column: SuspectColumn, told: np.ndarray, mean: Doubles, weight: Doubles, variance: float
) -> float:
    """Mean over the entities told of (mean - that of the next in the column)² · weight / variance, by its
    median: some means rest on hundreds of values. Of a normal mean's square, the median is 0.455."""
    groups = CountedGroups.of(SuspectColumn(column.table, column.name, column.values[told]))
    off = mean[told] - groups.mean_of_others(mean[told])
    return float(np.median(off**2 * weight[told] / variance)) / 0.455
