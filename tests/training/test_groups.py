"""Candidate tables, and what of them a ranker learns from."""

import numpy as np
import pytest

from recsys.retrieval.sequence.source import (
    BATCHES_PER_EPOCH,
    POSITIONS_PER_BATCH,
    batch_size,
)
from recsys.training.groups import CandidateTable


@pytest.fixture
def table():
    """Four groups of 2, 3, 0 and 1 rows; the second and the last hold a positive."""
    return CandidateTable(
        np.array([0, 2, 5, 5, 6]),
        np.array([4, 1, 3, 0, 2, 5], np.int32),
        {"als.score": np.arange(6, dtype=np.float32)},
        np.array([0, 0, 0, 2, 0, 1], np.int8),
    )


def test_a_group_has_a_positive_where_recall_found_one(table):
    assert table.has_positive().tolist() == [False, True, False, True]


def test_groups_that_teach_nothing_are_emptied_and_stay_groups(table):
    kept = table.to_learn_from()
    assert kept.offsets.tolist() == [0, 0, 3, 3, 4]
    assert kept.items.tolist() == [3, 0, 2, 5]
    assert kept.grade.tolist() == [0, 2, 0, 1]
    assert kept.signals["als.score"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("positions", [1, 500, 27_000, 5_000_000])
def test_an_epoch_sees_every_position_once(positions):
    size, batches = batch_size(positions)
    assert size * batches == pytest.approx(positions)
    assert size <= POSITIONS_PER_BATCH
    assert size == 64 or batches >= BATCHES_PER_EPOCH
