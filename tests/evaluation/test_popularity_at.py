"""Popularity and coldness as of each list's own moment."""

import numpy as np
import pytest

from recsys.evaluation import popularity_at as module
from recsys.evaluation.lists import Truth
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.segments import by_item_popularity
from recsys.features.interactions import Interactions

N_ITEMS = 3


def events(*rows: tuple[int, int]) -> Interactions:
    """(item, time) by one user, in order."""
    n = len(rows)
    return Interactions(
        np.zeros(n, np.int32),
        np.array([item for item, _ in rows], np.int32),
        np.zeros(n, np.int16),
        np.array([time for _, time in rows], np.int64),
        np.full(n, np.nan, np.float32),
        np.ones(n, np.float32),
        np.ones(n, np.int8),
        np.arange(n, dtype=np.int64),
        np.array(["u"], object),
        ("click",),
        N_ITEMS,
    )


LOG = events((0, 10), (1, 20), (1, 25), (0, 30))


def test_events_strictly_before_a_lists_moment_count() -> None:
    found = PopularityAt.of(LOG, np.array([20, 10, 31, 20]), N_ITEMS)
    held = [found.counts[row].tolist() for row in found.snapshot]
    assert held == [[1, 0, 0], [0, 0, 0], [2, 2, 0], [1, 0, 0]]


def test_an_item_is_cold_for_an_early_list_and_not_for_a_later_one() -> None:
    time = np.array([20, 31])
    truth = Truth.of(
        np.array([0, 1, 1]), np.array([1, 1, 2]), np.array([1, 1, 1]), np.array([0, 0]), time
    )
    labels = by_item_popularity(truth, PopularityAt.of(LOG, time, N_ITEMS))
    cold = labels.labels.index("cold_items")
    assert [code == cold for code in labels.code.tolist()] == [True, False, True]


def test_too_many_moments_take_the_last_snapshot_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 2 * N_ITEMS)
    found = PopularityAt.of(LOG, np.array([10, 20, 26, 31]), N_ITEMS)
    held = [found.counts[row].tolist() for row in found.snapshot]
    assert held == [[0, 0, 0], [0, 0, 0], [1, 2, 0], [1, 2, 0]]


def test_items_beyond_the_table_are_new() -> None:
    found = PopularityAt.same(np.array([4, 2]), groups=2, size=3)
    assert found.held(np.array([0, 1]), np.array([2, 7])).tolist() == [0, 0]
