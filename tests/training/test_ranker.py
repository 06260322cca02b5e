"""The ranker's own measure on held-out users."""

import numpy as np

from recsys.training.ranker_trees import threads_for
from recsys.training.ranking_groups import ndcg_by_group


def test_threads_come_with_rows():
    """On a tiny table threads wait for each other at every leaf: minutes instead of seconds."""
    assert [threads_for(rows, 8) for rows in (1, 19_999, 40_000, 10**7)] == [1, 1, 2, 8]


def test_a_score_that_is_no_number_wins_no_place():
    offsets, relevant = np.array([0, 3], np.int64), np.array([1], np.int32)
    grade = np.array([0, 0, 1], np.int8)
    known = ndcg_by_group(np.array([3.0, 2.0, 1.0]), grade, offsets, relevant, 2)
    none = ndcg_by_group(np.array([3.0, 2.0, np.nan]), grade, offsets, relevant, 2)
    every = ndcg_by_group(np.full(3, np.nan), grade, offsets, relevant, 2)
    assert known.tolist() == none.tolist() == every.tolist() == [0.0]
    assert ndcg_by_group(np.array([3.0, 2.0, 9.0]), grade, offsets, relevant, 2).tolist() == [1.0]
