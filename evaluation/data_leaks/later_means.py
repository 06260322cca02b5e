"""Columns that know what is going to be said of an item: the mean of stars it never had at the time.

Means of the stars of n events vary about anything known beforehand by at least the variance of a single star
over n. Where they vary less about a column, it was made from them.

Shapes: n entities.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.evaluation.data_leaks.later_counts import CountedGroups
from recsys.evaluation.data_leaks.leaky_columns import ITEMS, SuspectColumn
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles
from recsys.features.on_disk import stretches

BELOW_CHANCE: Final = 0.5
"""Variance of later means against chance's below which a column knows them; chance alone gives at least 1
(films: 1.9 and more; measured)."""
ENOUGH: Final = 100
"""Entities with values both before and after."""
LATE: Final = 0.1
"""Share of the log, at its end, that a column of all time must know."""
STRETCHES: Final = (0.3, 0.25, 0.2, 0.15, 0.1)


Whole = npt.NDArray[np.integer]


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
    size = events.n_items if table == ITEMS else events.n_users
    whole, count = _mean(log, table, size)
    if count.sum() < 2 * ENOUGH:
        return None
    variance = _variance(log, table, whole, count)
    if variance is None:
        return None
    late = [
        (share, *_mean(log, table, size, round((1 - share) * log.slices))) for share in STRETCHES
    ]
    return Means(whole, count, late, max(variance, 1e-9))


def _values(log: LoggedData, table: str) -> Iterator[tuple[Whole, Doubles, Whole]]:
    """(item or user, value, slice of the log) of the events that have a value, a stretch at a time."""
    events = log.events
    entity = events.item if table == ITEMS else events.user
    for part in stretches(len(events)):
        known = np.isfinite(events.value[part])
        value = events.value[part][known].astype(np.float64)
        yield entity[part][known], value, log.slice_of[part][known]


def _mean(log: LoggedData, table: str, size: int, first: int = 0) -> tuple[Doubles, Doubles]:
    """(mean value, how many it is of), each float64[n], of the events from a slice of the log on."""
    total, count = np.zeros(size), np.zeros(size)
    for entity, value, slice_ in _values(log, table):
        after = slice_ >= first
        total += np.bincount(entity[after], value[after], size)
        count += np.bincount(entity[after], minlength=size)
    return total / np.maximum(count, 1), count


def _variance(log: LoggedData, table: str, mean: Doubles, count: Doubles) -> float | None:
    """Of a single value about the mean of its item or user, where that is one of several; None where all
    values are one."""
    lowest, highest, number, total, squares = np.inf, -np.inf, 0, 0.0, 0.0
    wider = np.sqrt(count / np.maximum(count - 1, 1))
    for entity, value, _ in _values(log, table):
        lowest, highest = min(lowest, value.min(initial=np.inf)), max(highest, value.max(initial=-np.inf))  # fmt: skip
        several = count[entity] > 1
        spread = ((value - mean[entity]) * wider[entity])[several]
        number += len(spread)
        total += float(spread.sum())
        squares += float((spread**2).sum())
    if lowest == highest:
        return None
    return squares / number - (total / number) ** 2 if number else 0.0


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
