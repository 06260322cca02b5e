"""What new items gain, carried from the ranker's practice to the lists that are asked for.

The ranker's windows lie further back than the lists it is for: histories were shorter and the sources
knew less, so that the same gain put new items into three times as many places there as it does
later (measured, histories of purchases), and cost the others as many times as much. So the gain is
set to give new items the share of the first places that practice could pay for. Nothing that
anybody did is looked at: the lists of the test are counted, not judged.

Shapes: R rows in G groups, F features.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.ranker import Ranker
from recsys.ranker.model import BLEND_FILE
from recsys.storage.files import link_tree
from recsys.storage.stages import StageResult
from recsys.training.night import fit_ranker
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.ranking_groups import Groups

PLACES = 10
"""First places of a list that are counted, each by its discount in nDCG."""
MOST_GROUPS = 4000
"""Lists counted on either side (assumed: the share is known to a hundredth of itself)."""
HALVINGS = 12
"""Steps of the search, each of which halves what is left between the least and the most."""
MOST_GAIN = 3.0
"""Largest gain, in standard deviations of the score within lists (assumed)."""

Doubles = npt.NDArray[np.float64]


def carried_over(
    night: Night,
    inputs: Inputs,
    rankers: StageResult,
    learned: RankingData | None,
    tested: RankingData | None,
    tests: StageResult,
) -> StageResult:
    """The rankers with the gain that suits the lists of the test; as they are where there is none.

    Args:
        night: tonight's run.
        inputs: tonight's tables, events and windows.
        rankers: stage output of the rankers, with their ablations.
        learned: groups that they learned from; None in a dry run.
        tested: groups of the test windows; None in a dry run.
        tests: their stage output.
    """
    if not rankers.facts.get("ranker", {}).get("items with few events"):
        return rankers

    def action(out: Path) -> dict[str, Any]:
        assert learned is not None
        assert tested is not None
        link_tree(rankers.path, out)
        full = Ranker.load(rankers.path / fit_ranker.FULL)
        practised = replace(
            learned.groups().of_recall(),
            stands_for=fit_ranker.stands_for(learned, fit_ranker.lengths_asked(inputs)),
        )
        found = fitting_gain(full, practised, tested.groups().of_recall())
        facts = rankers.facts["ranker"]
        if full.blend is None or found is None:
            return dict(rankers.facts)
        for folder in filter(Path.is_dir, sorted(out.iterdir())):
            _regain(folder, found)
        told = {**facts["items with few events"], "gain on the lists asked for": f"{found:.3f}"}
        return {**rankers.facts, "ranker": {**facts, "items with few events": told}}

    return night.runner.run(
        "ranker-new-items",
        {"rankers": rankers.key, "tests": tests.key},
        action,
        code=("recsys.training.night.new_item_gain", "recsys.ranker"),
        personal=False,
    )


def fitting_gain(ranker: Ranker, practised: Groups, asked: Groups) -> float | None:
    """The gain at which new items have the share of the first places among the lists asked for that
    they have with the ranker's own in practice; None where either side has no new item.

    Where new items are fewer than in practice, so is their share.
    """
    blend = ranker.blend
    if blend is None or blend.events_column < 0:
        return None
    sides = [_Side.of(ranker, groups) for groups in (practised, asked)]
    rare = [side.new.mean() if len(side.new) else 0.0 for side in sides]
    if min(rare) <= 0:
        return None
    wanted = sides[0].share(blend.few) * min(1.0, rare[1] / rare[0])
    low, high = 0.0, max(blend.few, MOST_GAIN * sides[1].spread)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if sides[1].share(middle) > wanted:
            high = middle
        else:
            low = middle
    return low


class _Side:
    """Some groups with their scores before any gain."""

    def __init__(
        self, score: Doubles, events: Doubles, offsets: npt.NDArray[np.int64], weight: Doubles
    ) -> None:
        self.score, self.events, self.offsets, self.weight = score, events, offsets, weight
        self.new = events <= 0
        self._group = np.repeat(np.arange(len(weight)), np.diff(offsets))

    @classmethod
    def of(cls, ranker: Ranker, groups: Groups) -> "_Side":
        """An even sample of the groups that have rows."""
        told = np.flatnonzero(np.diff(groups.offsets) > 0)
        groups = groups.take(told[:: max(1, len(told) // MOST_GROUPS)])
        assert ranker.blend is not None
        plain = replace(ranker, blend=replace(ranker.blend, few=0.0))
        weight = np.ones(len(groups)) if groups.stands_for is None else groups.stands_for
        events = np.nan_to_num(groups.x[:, ranker.blend.events_column]).astype(np.float64)
        return cls(plain.score(groups.x), np.maximum(events, 0.0), groups.offsets, weight)

    @property
    def spread(self) -> float:
        """Standard deviation of the score within groups."""
        sizes = np.diff(self.offsets)
        mean = np.bincount(self._group, self.score, len(sizes)) / np.maximum(sizes, 1)
        return float(np.sqrt(np.mean((self.score - mean[self._group]) ** 2)))

    def share(self, gain: float) -> float:
        """Share of the first places, each by its discount, that new items have with a gain."""
        score = self.score + gain / (1.0 + self.events)
        order = np.lexsort((-score, self._group))
        place = np.arange(len(order)) - self.offsets[self._group[order]]
        first = order[place < PLACES]
        discount = 1.0 / np.log2(2.0 + place[place < PLACES])
        counted = discount * self.weight[self._group[first]]
        return float((counted * self.new[first]).sum() / max(counted.sum(), 1e-12))


def _regain(folder: Path, gain: float) -> None:
    """The same ranker with another gain, in its folder of links."""
    ranker = Ranker.load(folder)
    if ranker.blend is None or ranker.blend.events_column < 0:
        return
    (folder / BLEND_FILE).unlink()  # a link: what it links to stays as it is
    replace(ranker.blend, few=gain).save(folder)
