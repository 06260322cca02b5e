"""Labels weighted by how likely their place was to be looked at."""

import numpy as np
import pytest

from recsys.data_schemas.config import RankerConfig
from recsys.training.ranker import fit_ranker
from recsys.training.ranking_groups import Groups

GROUPS, ROWS = 90, 12


def two_tastes(weighted: bool) -> Groups:
    """Each group has one label: on the row that feature 0 marks in six of ten groups, on the row
    that feature 1 marks in the others, whose labels stand for three times as many."""
    rng = np.random.default_rng(4)
    x = rng.normal(scale=0.1, size=(GROUPS, ROWS, 2)).astype(np.float32)
    x[:, 0, 0] += 1.0
    x[:, 1, 1] += 1.0
    late = np.arange(GROUPS) % 10 >= 6
    grade = np.zeros((GROUPS, ROWS), np.int8)
    grade[~late, 0] = 1
    grade[late, 1] = 1
    weight = np.ones((GROUPS, ROWS), np.float32)
    weight[late, 1] = 3.0
    return Groups(
        x.reshape(-1, 2),
        grade.ravel(),
        np.arange(0, GROUPS * ROWS + 1, ROWS, dtype=np.int64),
        np.arange(GROUPS, dtype=np.int32),
        np.ones(GROUPS, np.int32),
        weight.ravel() if weighted else None,
    )


def test_weights_stay_with_their_rows() -> None:
    groups = two_tastes(weighted=True)
    part = groups.take(np.array([7, 0]))
    assert part.weight is not None
    assert part.weight.tolist() == [1, 3, *[1] * 10, *[1] * 12]
    assert two_tastes(weighted=False).take(np.array([1])).weight is None


@pytest.mark.filterwarnings("default")
def test_labels_of_late_places_count_for_those_that_were_not_seen() -> None:
    probe = np.array([[1, 0], [0, 1]], np.float32)
    settings = RankerConfig(trees=5, seeds=1)
    found = {}
    for weighted in (False, True):
        ranker = fit_ranker(two_tastes(weighted), ["early", "late"], settings, seed=1, workers=1)
        found[weighted] = ranker.score(probe)
    assert found[False][0] > found[False][1]
    assert found[True][1] > found[True][0]
