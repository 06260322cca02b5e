"""Checks that a number was not earned by looking ahead.

Every check returns `Check` rows (name, passed, detail); one that fails is shown first on the page
and refuses promotion. They work on arrays, whatever made them.

Shapes: n rows, F features.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import Truth
from recsys.evaluation.report_context import Check, day_and_time
from recsys.features.draws import Doubles
from recsys.features.future_check import group_auc
from recsys.features.interactions import Longs

TOO_GOOD_ALONE = 0.97
"""Within-group AUC that no honest single feature reached on the bundled data (assumed)."""
STANDS_OUT = 0.15
"""A feature this far above every other one, and above 0.85, is suspected too (assumed)."""
COLLAPSE = 0.10
"""Fall of a feature's AUC from training to validation that is suspected (assumed)."""
Matrix = npt.NDArray[np.floating]
Whole = npt.NDArray[np.integer]


def fitted_before(fit_until: Mapping[str, int], first_row: int, rows: str) -> list[Check]:
    """Each part's `fit_until` must lie before the first of the rows it scores (µs, strictly)."""
    return [
        Check(
            f"{name} was fitted before {rows}",
            until < first_row,
            f"fitted until {day_and_time(until)}; first row {day_and_time(first_row)}",
        )
        for name, until in fit_until.items()
    ]


def no_test_events(user: Whole, item: Whole, time: Longs, truth: Truth, name: str) -> Check:
    """No relevant (user, item) of the truth may be among training events at or after its
    group's moment.

    Args:
        user, item: int[E] of the training events, coded as the truth is.
        time: int64[E], µs UTC.
        truth: test groups with their relevant items.
        name: of the check.
    """
    pairs = truth.user[truth.group_of_item].astype(np.int64) << 32 | truth.items
    moment = truth.time[truth.group_of_item]
    late = np.asarray(time) >= (moment.min() if len(moment) else np.iinfo(np.int64).max)
    keys, times = user[late].astype(np.int64) << 32 | item[late].astype(np.int64), time[late]
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    last = np.searchsorted(keys, pairs, "right") - 1
    found = np.zeros(len(pairs), bool)
    inside = last >= 0
    found[inside] = (keys[last[inside]] == pairs[inside]) & (times[last[inside]] >= moment[inside])
    count = int(found.sum())
    return Check(
        f"test events are not in {name}",
        count == 0,
        f"{count:,} of {len(pairs):,} test events are among the {len(user):,} training events"
        if count
        else f"none of {len(pairs):,} test events",
    )


def single_features(x: Matrix, y: Whole, groups: Whole, names: Sequence[str]) -> Check:
    """No feature alone may separate the labels almost perfectly within groups.

    `x` float[n, F], `y` int[n] (relevant from 1), `groups` int[n]. Both directions count, and
    so does the mere presence of a value.
    """
    strength = feature_strength(x, y, groups)
    order = np.argsort(-strength)
    suspects = [int(f) for f in order if strength[f] >= TOO_GOOD_ALONE]
    if not suspects and len(order) > 1:
        first, second = strength[order[0]], strength[order[1]]
        if first > 0.85 and first - second > STANDS_OUT:
            suspects = [int(order[0])]
    said = ", ".join(f"{names[f]} (AUC {strength[f]:.3f})" for f in suspects)
    if said:
        return Check("no single feature gives the label away", False, said)
    best = f"strongest: {names[int(order[0])]} (AUC {strength[order[0]]:.3f})" if len(order) else ""
    return Check("no single feature gives the label away", True, best)


def blind_to_the_future(
    with_future: Matrix, without: Matrix, names: Sequence[str], tolerance: float
) -> Check:
    """No feature may change when all that happened from the rows' moment on is taken away.

    Both float[n, F], the same rows; `tolerance` is the largest relative change that is rounding.
    """
    a, b = np.asarray(with_future, np.float64), np.asarray(without, np.float64)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), 1.0)
    known = np.isfinite(a) & np.isfinite(b)
    moved = np.abs(np.where(known, a - b, 0.0)) > tolerance * scale
    moved |= np.isfinite(a) != np.isfinite(b)
    said = []
    for f in np.flatnonzero(moved.any(axis=0)).tolist():
        row = int(np.argmax(moved[:, f]))
        said.append(f"{names[f]} ({a[row, f]:g} with later events, {b[row, f]:g} without)")
    return Check(
        "no feature knows what happened later",
        not said,
        ", ".join(said) or f"{len(a):,} rows read again without the future: nothing changed",
    )


def no_collapse(
    train: tuple[Matrix, Whole, Whole],
    validation: tuple[Matrix, Whole, Whole],
    names: Sequence[str],
) -> Check:
    """No feature may be strong in training rows and weak in validation rows.

    Each side is (x, y, groups). A target encoded over its own rows, or a score fitted on the
    rows it scores, looks like this.
    """
    before, after = feature_strength(*train), feature_strength(*validation)
    fall = before - after
    suspects = [int(f) for f in np.argsort(-fall) if fall[f] > COLLAPSE]
    said = ", ".join(
        f"{names[f]} (AUC {before[f]:.3f} in training, {after[f]:.3f} in validation)"
        for f in suspects
    )
    return Check(
        "no feature is stronger in training than in validation",
        not suspects,
        said if suspects else f"largest fall {fall.max(initial=0.0):.3f}",
    )


def feature_strength(x: Matrix, y: Whole, groups: Whole) -> Doubles:
    """float64[F]: within-group AUC of each feature alone, in its better direction, or of its
    presence; 0.5 where it says nothing."""
    strength = np.full(x.shape[1], 0.5)
    relevant, place = np.asarray(y) >= 1, np.unique(groups, return_inverse=True)[1]
    for f in range(x.shape[1]):
        column = np.asarray(x[:, f], np.float64)
        known = np.isfinite(column)
        low = column[known].min() - 1.0 if known.any() else 0.0
        found = [group_auc(np.where(known, column, low), relevant, place)]
        if not known.all():
            found.append(group_auc(known.astype(np.float64), relevant, place))
        strength[f] = max(max(v, 1.0 - v) for v in found)
    return strength
