"""Leaks that are planted must be found, and honest features left alone."""

import numpy as np
import pytest

from recsys.features.future_check import (
    FutureUse,
    group_auc,
    scan,
    seeing_future,
)
from recsys.features.interactions import DAY
from recsys.features.kinds.overlap import Overlap
from recsys.features.kinds.recency import Recency
from recsys.features.kinds.window_count import WindowCount


def test_a_planted_feature_that_knows_the_future_is_found(trial):
    honest = [WindowCount("item", "", DAY), Recency("item"), Overlap("tag")]
    found = seeing_future([*honest, FutureUse()], trial)
    assert list(found) == ["planted.future"]
    assert "with later events" in found["planted.future"]


@pytest.fixture
def rows():
    """300 groups of 10 rows, one relevant; features that say a little, nothing, and too much."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 10)
    y = np.zeros(3000, int)
    y[np.arange(300) * 10 + rng.integers(0, 10, 300)] = 1
    weak = y * 0.7 + rng.normal(size=3000)
    nothing = rng.normal(size=3000)
    return groups, y, np.stack([weak, nothing], axis=1).astype(np.float32), rng


def names_of(suspects):
    return {suspect.name for suspect in suspects}


def test_honest_features_are_left_alone(rows):
    groups, y, x, _ = rows
    assert scan(x, y, groups, ["weak", "nothing"]) == []


def test_a_feature_that_gives_the_label_away_is_suspected(rows):
    groups, y, x, rng = rows
    told = (y + rng.normal(size=3000) * 0.05).astype(np.float32)
    found = scan(np.column_stack([x, told]), y, groups, ["weak", "nothing", "told"])
    assert names_of(found) == {"told"}
    assert "within-group AUC" in found[0].why


def test_a_feature_that_stands_out_is_suspected(rows):
    groups, y, x, rng = rows
    strong = (y * 2.2 + rng.normal(size=3000)).astype(np.float32)
    found = scan(np.column_stack([x[:, 1:], strong]), y, groups, ["nothing", "strong"])
    assert names_of(found) == {"strong"}


def test_a_feature_that_fails_on_later_rows_is_suspected(rows):
    groups, y, x, rng = rows
    encoded = np.where(groups < 210, y * 1.0, 0) + rng.normal(size=3000)
    found = scan(np.column_stack([x, encoded]).astype(np.float32), y, groups, ["a", "b", "encoded"])
    assert names_of(found) == {"encoded"}
    assert "falls" in found[0].why


def test_group_auc_counts_pairs_inside_groups():
    score = np.array([3, 1, 2, 5, 5, 9], np.float32)
    y = np.array([1, 0, 0, 1, 0, 1], bool)
    place = np.array([0, 0, 0, 1, 1, 2])
    assert group_auc(score, y, place) == (1 + 1 + 1 / 2) / 3


def test_group_auc_without_pairs_is_one_half():
    assert group_auc(np.zeros(2, np.float32), np.ones(2, bool), np.zeros(2, int)) == 0.5


def test_group_auc_equals_scikit_learn_within_one_group():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(2)
    y, score = rng.integers(0, 2, 60), rng.integers(0, 8, 60).astype(float)
    assert group_auc(score, y == 1, np.zeros(60, int)) == pytest.approx(roc_auc_score(y, score))


def test_group_auc_compares_only_within_groups():
    y = np.array([1, 0, 1, 0])
    groups = np.array([0, 0, 1, 1])
    assert group_auc(np.array([2.0, 1.0, 9.0, 8.0]), y == 1, groups) == 1.0
    assert group_auc(np.array([2.0, 1.0, 5.0, 8.0]), y == 1, groups) == 0.5
    assert group_auc(np.array([1.0, 1.0, 5.0, 8.0]), y == 1, groups) == 0.25
    assert group_auc(np.array([1.0, 2.0]), np.ones(2, bool), np.zeros(2, int)) == 0.5
