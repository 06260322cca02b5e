"""Arithmetic that several checks share.

Shapes: n rows.
"""

import numpy as np
import numpy.typing as npt

from recsys.features.draws import Doubles
from recsys.features.interactions import Bools, Longs
from recsys.features.on_disk import filled

__all__ = [
    "Doubles",
    "codes_of",
    "mean_and_error",
    "mean_of_others",
    "owners_of",
    "separation",
    "slices_of",
]


def slices_of(time: Longs, count: int) -> npt.NDArray[np.int8]:
    """int8[n]: slice of each row, from 0, of at most `count` of equal size; rows of one moment share
    one. `time` ascends."""
    if not len(time):
        return np.empty(0, np.int8)
    edges = np.unique(time[np.arange(1, count) * len(time) // count])
    edges = edges[edges > time[0]]
    return filled(len(time), np.int8, lambda part: np.searchsorted(edges, time[part], "right"))


def codes_of(values: npt.NDArray[np.floating], most: int) -> Longs:
    """int64[n]: numbers as codes, 0 where unknown; values of their own while there are at most `most`,
    bands of about equal size otherwise."""
    known = np.isfinite(values)
    codes = np.zeros(len(values), np.int64)
    found, place, times = np.unique(values[known], return_inverse=True, return_counts=True)
    if len(found) > most:
        band = np.minimum((times.cumsum() - 1) * most // times.sum(), most - 1)
        place = np.unique(band, return_inverse=True)[1][place]
    codes[known] = place + 1
    return codes


def mean_of_others(code: npt.NDArray[np.integer], y: Doubles, prior: Doubles | float) -> Doubles:
    """float64[n]: mean of the other rows of the same code, with one row of `prior` among them."""
    place = np.unique(code, return_inverse=True)[1]
    total, count = np.bincount(place, y), np.bincount(place)
    return np.asarray((total[place] - y + prior) / count[place])


def separation(score: Doubles, label: Bools) -> float:
    """Share of (labelled, other) pairs that a score puts in the right order; ties count half (AUC)."""
    found, place, times = np.unique(score, return_inverse=True, return_counts=True)
    if not label.any() or label.all() or len(found) < 2:
        return 0.5
    middle = times.cumsum() - (times - 1) / 2
    ones = int(label.sum())
    return float((middle[place[label]].sum() - ones * (ones + 1) / 2) / ones / (len(label) - ones))


def owners_of(owner: npt.NDArray[np.integer], part: npt.NDArray[np.integer], parts: int) -> Longs:
    """int64[parts]: distinct owners with a row in each part. What a handful of people do says little of
    anything else, however many rows it is."""
    size = np.int64(parts)
    pairs = np.unique(owner.astype(np.int64) * size + part)
    return np.asarray(np.bincount(pairs % size, minlength=parts), np.int64)


def mean_and_error(
    values: npt.NDArray[np.floating], owner: npt.NDArray[np.integer]
) -> tuple[float, float]:
    """Mean, and its standard error when all rows of an owner may say the same."""
    if not len(values):
        return np.nan, np.inf
    mean = float(values.mean())
    off = np.bincount(np.unique(owner, return_inverse=True)[1], values - mean)
    return mean, float(np.sqrt((off**2).sum())) / len(values)
