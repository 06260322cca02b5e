"""With few groups every user is held out once in turn."""

import numpy as np
import pytest

from recsys.data_schemas.config import RankerConfig
from recsys.training import ranker
from recsys.training.ranker import FOLDS, Groups, fit_ranker


@pytest.fixture(scope="module")
def groups():
    """150 groups of 60 users, ten rows each; the positive tends to have the largest first feature."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(1500, 3)).astype(np.float32)
    best = x[:, 0].reshape(150, 10) + draw.gumbel(size=(150, 10)) / 3
    grade = np.zeros((150, 10), np.int8)
    grade[np.arange(150), best.argmax(1)] = 1
    return Groups(
        x,
        grade.ravel(),
        np.arange(0, 1501, 10),
        draw.integers(0, 60, 150).astype(np.int32),
        np.ones(150, np.int32),
    )


def test_a_users_groups_are_in_one_fold(groups):
    fold = ranker._folds(groups, seed=3)
    assert set(fold) == set(range(FOLDS))
    assert all(len(set(fold[groups.user == user])) == 1 for user in set(groups.user))


def test_few_groups_are_all_learned_from_and_all_evaluated(groups):
    settings = RankerConfig(trees=20, seeds=1)
    fitted = fit_ranker(groups, ["good", "noise", "more"], settings, seed=3, workers=1)
    assert fitted.facts["folds"] == FOLDS
    assert fitted.facts["train_groups"] == fitted.facts["validation_groups"] == 150
    quality = fitted.facts["validation_ndcg@10"]
    assert quality["linear"] > 0.8
    # Trees are taken only when they help those held out, and then as many as helped them.
    assert bool(fitted.boosters) == (quality["linear+trees"] > quality["linear"])
    again = fit_ranker(groups, ["good", "noise", "more"], settings, seed=3, workers=1)
    np.testing.assert_array_equal(fitted.score(groups.x), again.score(groups.x))


def test_one_users_positives_alone_are_held_out_as_usual(groups):
    only = np.where(groups.user == groups.user[0], 0, 1) == 0
    grade = groups.grade * np.repeat(only, 10).astype(np.int8)
    assert not ranker._every_fold_tells(
        Groups(groups.x, grade, groups.offsets, groups.user, groups.relevant), seed=3
    )


def test_many_groups_hold_one_share_out(groups, monkeypatch):
    monkeypatch.setattr(ranker, "FOLDED_GROUPS", 140)
    fitted = fit_ranker(groups, ["good", "noise", "more"], RankerConfig(trees=5), seed=3, workers=1)
    assert "folds" not in fitted.facts
    assert fitted.facts["validation_groups"] < 150
