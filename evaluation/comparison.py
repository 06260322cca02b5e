"""Two versions on the same groups: where their lists differ, who gains, who loses.

    comparison = compare_lists(truth, new, old, ...)
    page = write_comparison(comparison, out_dir, titles=titles)

Shapes: G groups, K positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.evaluation.evaluation import Evaluation, plain
from recsys.evaluation.lists import PADDING, RankedLists, Truth, check_groups
from recsys.evaluation.uncertainty import Interval, bootstrap
from recsys.features.compiled import compiled
from recsys.features.draws import Doubles
from recsys.features.interactions import Ints

PERSISTENCE = 0.9
"""RBO's p: the first ten places carry 86 % of the weight (Webber et al. 2010)."""
LEAST_CHANGE = 1e-12
"""A difference of the main metric below this is none."""


@dataclass(frozen=True)
class ChangedList:
    """One group whose quality moved much, for reading."""

    group: int
    user: int
    before: float
    """Main metric of the older version."""
    after: float
    older: Sequence[int]
    """Item indices, best first."""
    newer: Sequence[int]
    relevant: Sequence[int]


@dataclass(frozen=True)
class Comparison:
    """What moved between two versions; `evaluation.main` is the newer one."""

    older: str
    evaluation: Evaluation
    overlap: dict[int, Interval]
    """k → mean share of common items in the first k."""
    rank_biased_overlap: Interval
    same_first: Interval
    """Share of lists with the same item first."""
    gained: int
    """Groups whose main metric rose."""
    lost: int
    unchanged: int
    most_gained: list[ChangedList]
    most_lost: list[ChangedList]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers."""
        tree: dict[str, Any] = {
            name: plain(value) for name, value in vars(self).items() if name != "evaluation"
        }
        return tree | {"evaluation": self.evaluation.to_json()}


def overlap_at(a: RankedLists, b: RankedLists, k: int) -> Doubles:
    """Common items in the first k / k' per group, k' the longer of both lists up to k; NaN when
    both are empty. float64[G]."""
    return np.asarray(_agreement(a.items[:, :k], b.items[:, :k], -1.0), np.float64)


def rank_biased_overlap(a: RankedLists, b: RankedLists, p: float = PERSISTENCE) -> Doubles:
    """RBO, extrapolated beyond the lists (Webber, Moffat, Zobel 2010, eq. 32, with a list that
    ends early agreeing in nothing further); 1 equal, 0 disjoint, NaN when both are empty."""
    return np.asarray(_agreement(a.items, b.items, p), np.float64)


@compiled
def _agreement(a: Ints, b: Ints, p: float) -> Doubles:
    """RBO with persistence p, or plain overlap at the full depth if p is negative."""
    groups = len(a)
    width = 1
    for lists in (a, b):
        for g in range(groups):
            for d in range(lists.shape[1]):
                width = max(width, lists[g, d] + 1)
    in_a, in_b = np.full(width, -1, np.int64), np.full(width, -1, np.int64)
    out = np.full(groups, np.nan)
    for g in range(groups):
        common, total, weight, depth, agreement = 0, 0.0, 1.0, 0, 0.0
        for d in range(max(a.shape[1], b.shape[1])):
            x = a[g, d] if d < a.shape[1] else PADDING
            y = b[g, d] if d < b.shape[1] else PADDING
            if x < 0 and y < 0:
                break
            if x >= 0 and in_a[x] != g:
                in_a[x] = g
                common += in_b[x] == g
            if y >= 0 and in_b[y] != g:
                in_b[y] = g
                common += in_a[y] == g
            depth = d + 1
            agreement = common / depth
            total += (1.0 - p) * weight * agreement
            weight *= p
        if depth:
            out[g] = agreement if p < 0 else total + agreement * weight
    return out


def compare_lists(
    truth: Truth,
    newer: RankedLists,
    older: RankedLists,
    evaluation: Evaluation,
    *,
    examples: int = 5,
) -> Comparison:
    """Hold two systems of an evaluation against each other.

    Args:
        truth: G groups with their relevant items.
        newer: lists of the system that may replace the other, one per group.
        older: lists of the system in use, one per group.
        evaluation: of both systems on this truth, with `main=newer.name`.
        examples: groups listed of those that gained and lost most.

    Raises:
        RecsysError: the lists are not one per group of the truth.
    """
    check_groups(truth, newer)
    check_groups(truth, older)
    metric = evaluation.main_metric
    after = evaluation.per_group[f"{newer.name}/{metric}"].astype(np.float64)
    before = evaluation.per_group[f"{older.name}/{metric}"].astype(np.float64)
    change = np.where(np.isfinite(after - before), after - before, 0.0)
    ks = [k for k in evaluation.ks if k <= max(newer.length, older.length)]
    columns = [overlap_at(newer, older, k) for k in ks]
    columns += [rank_biased_overlap(newer, older), overlap_at(newer, older, 1)]
    result = bootstrap(
        np.column_stack(columns),
        truth.user,
        resamples=evaluation.resamples,
        seed=evaluation.seed,
    )
    intervals = [result.interval(column) for column in range(len(columns))]
    changed = [_changed(truth, newer, older, g, before, after) for g in _extremes(change, examples)]
    return Comparison(
        older=older.name,
        evaluation=evaluation,
        overlap=dict(zip(ks, intervals, strict=False)),
        rank_biased_overlap=intervals[-2],
        same_first=intervals[-1],
        gained=int((change > LEAST_CHANGE).sum()),
        lost=int((change < -LEAST_CHANGE).sum()),
        unchanged=int((np.abs(change) <= LEAST_CHANGE).sum()),
        most_gained=[c for c in changed if c.after > c.before],
        most_lost=[c for c in changed if c.after < c.before],
    )


def _extremes(change: Doubles, examples: int) -> list[int]:
    """Groups with the largest gains, then with the largest losses, each at most `examples`."""
    order = np.argsort(-change, kind="stable")
    best = [int(g) for g in order[:examples] if change[g] > LEAST_CHANGE]
    worst = [int(g) for g in order[::-1][:examples] if change[g] < -LEAST_CHANGE]
    return best + worst


def _changed(
    truth: Truth,
    newer: RankedLists,
    older: RankedLists,
    group: int,
    before: Doubles,
    after: Doubles,
) -> ChangedList:
    held = slice(int(truth.offsets[group]), int(truth.offsets[group + 1]))
    relevant = truth.items[held][truth.grades[held] >= 1]
    return ChangedList(
        group,
        int(truth.user[group]),
        float(before[group]),
        float(after[group]),
        _listed(older.items[group]),
        _listed(newer.items[group]),
        [int(i) for i in relevant],
    )


def _listed(items: Ints) -> list[int]:
    return [int(i) for i in items if i >= 0]
