"""Weights of the fusion of ranks, chosen on lists that are already there.

The lists of all sources for all labels are laid out once as rows (label, item) with a column of
reciprocal ranks per source; a set of weights is then evaluated by one product and one comparison.
Shapes: L labels, S sources, R rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Ints
from recsys.features.ragged import offsets_of, owners_of, places_of
from recsys.retrieval.candidates import RRF_OFFSET

Doubles = npt.NDArray[np.float64]

FACTORS: Final = (0.0, 0.25, 0.5, 0.75, 1.5, 2.0, 4.0)
"""Changes of a weight that are tried."""
ROUNDS: Final = 3
RECALL_SHARE: Final = 0.2
"""What a point of recall counts beside a point of nDCG@10 (assumed): a ranker follows."""
TOP: Final = 10


@dataclass(frozen=True)
class Quality:
    """Per label, float64[L]: nDCG@10 and recall at the limit; means over labels as properties."""

    ndcg: Doubles
    recall: Doubles

    @property
    def objective(self) -> Doubles:
        """What tuning maximises, per label."""
        return self.ndcg + RECALL_SHARE * self.recall

    def means(self) -> tuple[float, float]:
        """(nDCG@10, recall)."""
        return (
            (float(self.ndcg.mean()), float(self.recall.mean())) if len(self.ndcg) else (0.0, 0.0)
        )


def quality_of(ranks: Doubles, owner: npt.NDArray[np.int64], sizes: Doubles, limit: int) -> Quality:
    """Quality from the 1-based ranks of the relevant items found (inf: not found).

    `owner` is the label of each; `sizes` float64[L] how many relevant items a label has.
    """
    gain = np.where(ranks <= TOP, 1.0 / np.log2(np.minimum(ranks, 1e9) + 1.0), 0.0)
    ideal = np.cumsum(1.0 / np.log2(np.arange(1, TOP + 1) + 1.0))
    best = ideal[np.minimum(sizes, TOP).astype(np.int64) - 1]
    ndcg = np.bincount(owner, gain, minlength=len(sizes)) / best
    found = np.bincount(owner, (ranks <= limit).astype(np.float64), minlength=len(sizes))
    return Quality(ndcg.astype(np.float64), found / sizes)


class Lists:
    """All sources' lists for L labels, ready to be fused with any weights.

    Args:
        by_source: name → per label the items, best first.
        relevant: per label its relevant items (int32[..], at least one each).
        limit: items kept after fusion.
    """

    def __init__(
        self, by_source: Mapping[str, Sequence[Ints]], relevant: Sequence[Ints], limit: int
    ) -> None:
        self.names = list(by_source)
        self.limit = limit
        self.sizes = np.array([len(r) for r in relevant], np.float64)
        width = np.int64(2**32)
        keys, votes = [], []
        for lists in by_source.values():
            offsets = offsets_of([len(found) for found in lists])
            items = np.concatenate([*lists, np.empty(0, np.int32)]).astype(np.int64)
            keys.append(owners_of(offsets) * width + items)
            votes.append(1.0 / (RRF_OFFSET + 1.0 + places_of(offsets)))
        self._rows = np.unique(np.concatenate([*keys, np.empty(0, np.int64)]))
        self._votes = np.zeros((len(self._rows), len(self.names)), np.float32)
        for s, key in enumerate(keys):
            self._votes[np.searchsorted(self._rows, key), s] = votes[s]
        self._label = self._rows // width
        self._offsets = np.searchsorted(self._label, np.arange(len(relevant) + 1))
        self._owner = np.repeat(
            np.arange(len(relevant), dtype=np.int64), self.sizes.astype(np.int64)
        )
        wanted = self._owner * width + np.concatenate([*relevant, np.empty(0, np.int32)])
        place = np.minimum(np.searchsorted(self._rows, wanted), max(0, len(self._rows) - 1))
        self._found = (
            self._rows[place] == wanted if len(self._rows) else np.zeros(len(wanted), bool)
        )
        self._place = place

    def quality(self, weights: Mapping[str, float]) -> Quality:
        """Quality of the fusion with the given weights (0 where absent)."""
        return quality_of(self.ranks(weights), self._owner, self.sizes, self.limit)

    def ranks(self, weights: Mapping[str, float]) -> Doubles:
        """1-based fused rank of every relevant item, inf where no weighted source lists it."""
        weight = np.array([weights.get(name, 0.0) for name in self.names], np.float32)
        score = self._votes @ weight
        ranks = np.full(len(self._owner), np.inf)
        for r in np.flatnonzero(self._found):
            mine = self._place[r]
            low, high = self._offsets[self._owner[r]], self._offsets[self._owner[r] + 1]
            own = score[mine]
            if own > 0:
                before = np.count_nonzero(score[low:mine] >= own)
                ranks[r] = 1 + before + np.count_nonzero(score[mine + 1 : high] > own)
        return ranks


def choose_weights(lists: Lists, start: Mapping[str, float]) -> dict[str, float]:
    """Coordinate ascent from `start`: a weight changes when the mean objective rises by more than
    one standard error of the paired difference."""
    weights = dict(start)
    best = lists.quality(weights).objective
    for _ in range(ROUNDS):
        changed = False
        for name in lists.names:
            for factor in FACTORS:
                trial = {**weights, name: weights[name] * factor}
                if not any(trial.values()):
                    continue
                outcome = lists.quality(trial).objective
                if better(outcome, best):
                    weights, best, changed = trial, outcome, True
        if not changed:
            break
    top = max(weights.values(), default=1.0) or 1.0
    return {name: round(weight / top, 4) for name, weight in weights.items()}


def better(new: Doubles, old: Doubles) -> bool:
    """Whether the mean rose by more than one standard error of the paired difference."""
    difference = new - old
    if len(difference) < 2:
        return False
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    return bool(difference.mean() > max(error, 1e-9))
