"""Ranking groups as a ranker learns from them, and the measure that decides.

Shapes: R rows, F features, G groups in CSR form (rows offsets[g]:offsets[g+1]).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.ragged import chosen_groups
from recsys.ranker.linear import Matrix, Offsets


@dataclass(frozen=True)
class Groups:
    """Ranking groups with features and labels."""

    x: Matrix
    """float32[R,F]"""
    grade: npt.NDArray[np.int8]
    """int8[R]; 0 not acted on, 1.. acted on."""
    offsets: Offsets
    """int64[G+1]"""
    user: npt.NDArray[np.integer]
    """[G]: whose group it is, by a hash of the id; validation holds out users."""
    relevant: npt.NDArray[np.int32]
    """int32[G]: positives of the moment, found by recall or not (the metric's denominator)."""
    weight: npt.NDArray[np.float32] | None = None
    """float32[R]: what each label is worth (see `training.night.position_weights`); None where all count the same."""
    shown: npt.NDArray[np.bool_] | None = None
    """bool[G]: groups that are shown lists and not recall's; None where none is."""
    stands_for: npt.NDArray[np.float64] | None = None
    """float64[G]: how many of the people who will be asked each group stands for; None where all count
    the same."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, groups: npt.NDArray[np.int64]) -> "Groups":
        """The named groups (int[n]), rows copied."""
        offsets, rows = chosen_groups(self.offsets, groups)
        return Groups(
            self.x[rows],
            self.grade[rows],
            offsets,
            self.user[groups],
            self.relevant[groups],
            None if self.weight is None else self.weight[rows],
            None if self.shown is None else self.shown[groups],
            None if self.stands_for is None else self.stands_for[groups],
        )

    def of_recall(self) -> "Groups":
        """Recall's groups, where there are any: what the linear part learns from, and what decides.

        One set of weights cannot hold both kinds: among what recall finds, what tends to be shown is
        acted on, among what was shown that says nothing. A quarter of lists beside recall's groups
        took the rank correlation with the true taste from .59 to .49 on generated data (measured).
        """
        if self.shown is None or self.shown.all():
            return self
        return self.take(np.flatnonzero(~self.shown))

    def joined(self, other: "Groups") -> "Groups":
        """These groups, then the other's, whose columns are the same."""
        return Groups(
            np.concatenate([self.x, other.x]),
            np.concatenate([self.grade, other.grade]),
            np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            np.concatenate([self.user, other.user]),
            np.concatenate([self.relevant, other.relevant]),
            _both(self.weight, other.weight, len(self.grade), len(other.grade), np.float32(1.0)),
            _both(self.shown, other.shown, len(self), len(other), np.False_),
            _both(self.stands_for, other.stands_for, len(self), len(other), 1.0),
        )

    def with_positive(self) -> npt.NDArray[np.int64]:
        """Indices of groups in which recall found at least one positive."""
        positive = np.add.reduceat(
            np.append(self.grade > 0, False), np.minimum(self.offsets[:-1], len(self.grade))
        )
        return np.flatnonzero((positive > 0) & (self.offsets[1:] > self.offsets[:-1]))


def _both(one: Any, other: Any, length: int, further: int, absent: Any) -> Any:
    """Two columns that may each be left out, as one; None where both are."""
    if one is None and other is None:
        return None
    parts = (
        np.full(n, absent) if of is None else of for of, n in ((one, length), (other, further))
    )
    return np.concatenate(list(parts))


@compiled
def ndcg_by_group(
    score: npt.NDArray[np.float64],
    grade: npt.NDArray[np.int8],
    offsets: Offsets,
    relevant: npt.NDArray[np.int32],
    k: int,
) -> npt.NDArray[np.float64]:
    """Binary nDCG@k of each group, float64[G]; positives that recall missed count in the ideal.

    Equal scores share their places at random in the long run; here the later row loses, rows of
    a group being in the order of fused recall.

    Args:
        score: float64[R], the higher the better; NaN is last.
        grade: int8[R], relevant above 0.
        offsets: int64[G+1], bounds of the groups.
        relevant: int32[G], relevant items of each group, found by recall or not.
        k: places that count.
    """
    # A score that is not a number is no first place: every comparison with it is false.
    score = np.where(np.isnan(score), -np.inf, score)
    out = np.zeros(len(offsets) - 1)
    for g in range(len(out)):
        low, high = offsets[g], offsets[g + 1]
        if relevant[g] <= 0:
            out[g] = np.nan
            continue
        ideal = 0.0
        for place in range(min(relevant[g], k)):
            ideal += 1.0 / np.log2(place + 2.0)
        gain = 0.0
        for r in range(low, high):
            if grade[r] <= 0:
                continue
            place = 0
            for other in range(low, high):
                if score[other] > score[r] or (score[other] == score[r] and other < r):
                    place += 1
            if place < k:
                gain += 1.0 / np.log2(place + 2.0)
        out[g] = gain / ideal
    return out


def ndcg(groups: Groups, score: npt.NDArray[np.float64], k: int = 10) -> float:
    """Mean nDCG@k over the groups that have a positive anywhere."""
    return float(np.nanmean(matched(groups, score, k)))


def matched(groups: Groups, score: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """nDCG@k of recall's groups, where there are any, as the test measures them: a list of ten has another
    scale, and its clicks follow the places."""
    found: npt.NDArray[np.float64] = ndcg_by_group(
        score, groups.grade, groups.offsets, groups.relevant, k
    )
    return found if groups.shown is None or groups.shown.all() else found[~groups.shown]
