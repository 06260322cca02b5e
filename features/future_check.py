"""Finding features that know the future.

Two ways: an exact one, which takes the future away and looks whether a value changes, and a
statistical one, which looks at finished rows (x, y, groups) for what only a leak explains.

Shapes: n rows in G groups, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Floats
from recsys.features.kinds.kind import Feature
from recsys.features.parity import LIMIT, relative
from recsys.features.ragged import first_of_runs
from recsys.features.random_world import RandomWorld
from recsys.features.ranking_context import RankingContext
from recsys.features.rows import BatchInputs, Rows

SINGLE_FEATURE_AUC: Final = 0.97
"""Within-group AUC that no honest single feature reaches (assumed)."""
STANDS_OUT: Final = 0.15
"""A feature above 0.85 and this far above all others is suspected (assumed)."""
COLLAPSE: Final = 0.10
"""Loss of AUC from the earlier to the later rows that is suspected (assumed)."""
SHUFFLED_SIGMAS: Final = 5.0
"""Standard errors by which a feature may follow labels that were shuffled (assumed)."""


@dataclass(frozen=True)
class Suspect:
    """A feature that may know what it must not."""

    name: str
    why: str


@dataclass(frozen=True)
class FutureUse(Feature):
    """Planted: whether the user acts on the candidate after the moment. It must be found."""

    entity = "pair"

    @property
    def column(self) -> str:
        return "planted.future"

    def online(self, moment: RankingContext) -> Floats:
        return np.isin(moment.items, moment.history.item).astype(np.float32)

    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        events = inputs.interactions
        out = np.zeros(len(rows), np.float32)
        for group, part in rows.groups():
            later = (events.user == rows.user[group]) & (events.time >= rows.now[group])
            out[part] = np.isin(rows.items[part], events.item[later])
        return out


def seeing_future(
    features: Sequence[Feature], world: RandomWorld, lists: int = 4
) -> dict[str, str]:
    """Features whose batch reading knows the future, with the first row in words.

    The first `lists` are read once in the whole world and once in the world as it was at their
    moment.
    """
    together = FeatureSet(features)
    whole = world.batch(together)
    found: dict[str, str] = {}
    for group, part in islice(world.rows.groups(), lists):
        past = world.without_future(group).batch(together)
        changed = relative(whole[part], past) > LIMIT
        for f in np.flatnonzero(changed.any(axis=0)):
            row = int(np.argmax(changed[:, f]))
            found.setdefault(
                together.columns[f],
                f"it knows the future: list {group}, candidate {row}: "
                f"{whole[part][row, f]:g} with later events, {past[row, f]:g} without them",
            )
    return found


def scan(
    x: Floats,
    y: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    names: Sequence[str],
    *,
    validation_share: float = 0.3,
    seed: int = 0,
) -> list[Suspect]:
    """Features of finished rows that look like leaks, by name.

    Args:
        x: float[n, F].
        y: int[n], relevant from 1.
        groups: int[n], ascending in time: the last groups are the validation.
        names: [F] names of the columns.
        validation_share: share of the groups, the latest, in which a feature must not be weaker.
        seed: of the draws; the same seed gives the same numbers.
    """
    order = np.argsort(groups, kind="stable")
    x, relevant = x[order], np.asarray(y[order]) >= 1
    place = np.unique(groups[order], return_inverse=True)[1]
    split = int(place.max(initial=0) * (1 - validation_share))
    early, late = place <= split, place > split
    rng = np.random.default_rng(seed)
    shuffled = _shuffled_within(relevant, place, rng)
    suspects = []
    whole = [group_auc(x[:, f], relevant, place) for f in range(x.shape[1])]
    strength = np.abs(np.array(whole) - 0.5) + 0.5
    suspects += _too_strong(strength, names)
    error = _standard_error(relevant, place)
    for f, name in enumerate(names):
        fall = _fall(x[:, f], relevant, place, early, late)
        if fall > COLLAPSE:
            suspects.append(Suspect(name, f"its AUC falls by {fall:.3f} on later rows"))
        mixed = abs(group_auc(x[:, f], shuffled, place) - 0.5)
        if mixed > SHUFFLED_SIGMAS * error:
            suspects.append(Suspect(name, f"it follows shuffled labels, AUC off by {mixed:.3f}"))
    return suspects


def _too_strong(strength: npt.NDArray[np.float64], names: Sequence[str]) -> list[Suspect]:
    order = np.argsort(-strength, kind="stable")
    found = [int(f) for f in order if strength[f] >= SINGLE_FEATURE_AUC]
    if not found and len(order) > 1:
        first, second = strength[order[0]], strength[order[1]]
        found = [int(order[0])] if first > 0.85 and first - second > STANDS_OUT else []
    return [
        Suspect(names[f], f"alone it has a within-group AUC of {strength[f]:.3f}") for f in found
    ]


def _fall(
    column: Floats,
    y: npt.NDArray[np.bool_],
    place: npt.NDArray[np.int64],
    early: npt.NDArray[np.bool_],
    late: npt.NDArray[np.bool_],
) -> float:
    """How much less a feature says on the later rows, in its earlier direction.

    Args:
        column: float32[R], values of one feature.
        y: bool[R], relevant rows.
        place: int64[R], group of each row.
        early, late: bool[R], the two parts compared.
    """
    before = group_auc(column[early], y[early], place[early])
    after = group_auc(column[late], y[late], place[late])
    if before < 0.5:
        before, after = 1.0 - before, 1.0 - after
    return before - after


def _shuffled_within(
    y: npt.NDArray[np.bool_], place: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Labels shuffled inside each group; rows are in the order of groups."""
    return y[np.lexsort((rng.random(len(y)), place))]


def _standard_error(y: npt.NDArray[np.bool_], place: npt.NDArray[np.int64]) -> float:
    """Of a group AUC under chance: 1/√(12 · positives) is the rank's share of it."""
    positives = np.bincount(place, weights=y)
    useful = positives[(positives > 0) & (positives < np.bincount(place))].sum()
    return 1.0 / np.sqrt(12.0 * useful) if useful else np.inf


def group_auc(
    score: npt.NDArray[np.floating], y: npt.NDArray[np.bool_], place: npt.NDArray[np.int64]
) -> float:
    """Share of (relevant, other) pairs of a group in the right order, over all groups; ties and
    rows of no value against each other count half; 0.5 where there is no pair."""
    low = np.nanmin(score, initial=0.0) - 1.0
    value = np.where(np.isnan(score), low, score).astype(np.float64)
    order = np.lexsort((value, place))
    group, ranked, positive = place[order], value[order], y[order].astype(np.float64)
    fresh = first_of_runs(group, ranked)
    run = np.cumsum(fresh) - 1
    below = np.concatenate([[0.0], np.cumsum(1.0 - positive)])
    starts = np.flatnonzero(fresh)
    ends = np.append(starts[1:], len(group))
    first_of_group = np.searchsorted(group, group[starts])
    under = below[starts] - below[first_of_group]
    tied = below[ends] - below[starts]
    won = (positive * (under + tied / 2)[run]).sum()
    positives = np.bincount(group, weights=positive)
    pairs = (positives * (np.bincount(group) - positives)).sum()
    return float(won / pairs) if pairs else 0.5
