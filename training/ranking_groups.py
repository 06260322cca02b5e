"""Ranking groups as a ranker learns from them, and the measure that decides.

Shapes: R rows, F features, G groups in CSR form (rows offsets[g]:offsets[g+1]).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.ragged import Ragged
from recsys.ranker.linear import Matrix, Offsets


@dataclass(frozen=True)
class Groups(Ragged):
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

    group_columns: ClassVar = ("user", "relevant", "shown", "stands_for")
    row_columns: ClassVar = ("x", "grade", "weight")

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
        return Groups.join([self._with_columns_of(other), other._with_columns_of(self)])

    def _with_columns_of(self, other: "Groups") -> "Groups":
        """These groups with the columns that only the other has written out."""
        absent = {"weight": np.float32(1.0), "shown": np.False_, "stands_for": 1.0}
        columns: dict[str, Any] = {
            name: np.full(len(self.grade if name in self.row_columns else self.user), value)
            for name, value in absent.items()
            if getattr(self, name) is None and getattr(other, name) is not None
        }
        return replace(self, **columns)

    def with_positive(self) -> npt.NDArray[np.int64]:
        """Indices of groups in which recall found at least one positive."""
        return np.flatnonzero(self.any_of(self.grade > 0))

    def of_positives(self) -> "Groups":
        """Those groups: these themselves, not a copy, where all are such."""
        told = self.with_positive()
        return self if len(told) == len(self) else self.take(told)


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
