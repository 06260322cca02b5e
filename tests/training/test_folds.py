"""Users held out in turn choose; what they chose is fitted on all."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from recsys.data_schemas.config import RankerConfig
from recsys.training import ranker
from recsys.training.ranker import (
    FOLDS,
    FOLDS_OF_MANY,
    MORE_ROUNDS,
    fit_like,
    fit_ranker,
    refitted,
)
from recsys.training.ranker_trees import CHECKPOINT, ROWS_PER_THREAD, curve, tree_settings
from recsys.training.ranking_groups import Groups, matched

NAMES = ["good", "noise", "more"]


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


@pytest.fixture(scope="module")
def curved(groups):
    """The same rows; what is acted on has a first feature near zero, which no line can say."""
    grade = np.zeros((150, 10), np.int8)
    grade[np.arange(150), np.abs(groups.x[:, 0]).reshape(150, 10).argmin(1)] = 1
    return replace(groups, grade=grade.ravel())


def test_a_users_groups_are_in_one_fold(groups):
    fold = ranker._folds(groups, seed=3)
    assert set(fold) == set(range(FOLDS))
    assert all(len(set(fold[groups.user == user])) == 1 for user in set(groups.user))


def test_few_groups_are_all_learned_from_and_all_evaluated(groups):
    settings = RankerConfig(trees=20, seeds=1)
    fitted = fit_ranker(groups, NAMES, settings, seed=3, workers=1)
    assert fitted.facts["folds"] == FOLDS
    assert fitted.facts["train_groups"] == fitted.facts["validation_groups"] == 150
    quality = fitted.facts["validation_ndcg@10"]
    assert quality["linear"] > 0.8
    # Trees are taken only when they help those held out.
    assert bool(fitted.boosters) == (quality["linear+trees"] > quality["linear"])
    again = fit_ranker(groups, NAMES, settings, seed=3, workers=1)
    np.testing.assert_array_equal(fitted.score(groups.x), again.score(groups.x))


def test_trees_are_fitted_on_all_groups_with_more_rounds_than_chose(curved):
    settings = RankerConfig(trees=80, seeds=2)
    fitted = fit_ranker(curved, NAMES, settings, seed=3, workers=1)
    rounds = fitted.facts["rounds"]
    assert rounds % CHECKPOINT == 0
    assert rounds > 0
    expected = min(80, round(rounds * MORE_ROUNDS))
    assert [b.num_trees() for b in fitted.boosters] == [expected, expected]
    quality = fitted.facts["validation_ndcg@10"]
    assert quality["linear+trees"] > quality["linear"] + 0.05


def test_one_users_positives_alone_hold_nobody_out(groups):
    only = np.where(groups.user == groups.user[0], 0, 1) == 0
    grade = groups.grade * np.repeat(only, 10).astype(np.int8)
    alone = Groups(groups.x, grade, groups.offsets, groups.user, groups.relevant)
    assert not ranker._in_folds(alone, seed=3)
    fitted = fit_ranker(alone, NAMES, RankerConfig(), seed=3, workers=1)
    assert not fitted.boosters
    assert fitted.facts["penalty"] == max(ranker.PENALTIES)


def test_of_many_groups_some_folds_are_held_out(groups, monkeypatch):
    monkeypatch.setattr(ranker, "FOLDS_TRIED", ((140, FOLDS),))
    fitted = fit_ranker(groups, NAMES, RankerConfig(trees=10), seed=3, workers=1)
    assert fitted.facts["folds"] == FOLDS_OF_MANY
    assert fitted.facts["validation_groups"] < fitted.facts["train_groups"] == 150


def test_a_fusion_that_knows_better_takes_its_share(groups):
    """The features say nothing that holds for others; the fused score does."""
    draw = np.random.default_rng(1)
    fused = (groups.grade + draw.normal(size=len(groups.x)) / 3).astype(np.float32)
    x = np.column_stack([fused, draw.normal(size=(len(fused), 30))]).astype(np.float32)
    few = replace(groups, x=x).take(np.arange(40))
    names = ["fused.score", *map(str, range(30))]
    fitted = fit_ranker(few, names, RankerConfig(), seed=3, workers=1)
    quality = fitted.facts["validation_ndcg@10"]
    share = fitted.facts["share of the fusion"]
    assert quality["blend"] >= max(quality["linear"], quality["fusion"])
    assert share > 0
    assert fitted.blend.fusion > 0
    assert fitted.blend.own == 1 - share


def test_a_fusion_that_knows_nothing_takes_none(groups):
    draw = np.random.default_rng(1)
    x = np.column_stack([groups.x, draw.normal(size=len(groups.x))]).astype(np.float32)
    fitted = fit_ranker(
        replace(groups, x=x), [*NAMES, "fused.score"], RankerConfig(trees=10), seed=3, workers=1
    )
    assert fitted.blend.fusion == 0.0
    assert fitted.blend.own == 1.0
    assert fitted.facts["share of the fusion"] == 0.0


def test_a_comparison_takes_over_what_was_chosen(curved):
    config = RankerConfig(trees=40, seeds=1)
    full = fit_ranker(curved, NAMES, config, seed=3, workers=1)
    same = fit_like(full, curved, NAMES, config, seed=3, workers=1)
    np.testing.assert_array_equal(same.score(curved.x), full.score(curved.x))
    part = replace(curved, x=np.ascontiguousarray(curved.x[:, :2]))
    fewer = fit_like(full, part, NAMES[:2], config, seed=3, workers=1)
    assert fewer.features == tuple(NAMES[:2])
    assert [b.num_trees() for b in fewer.boosters] == full.facts["trees"]


def test_items_with_few_events_gain_what_the_others_can_pay(groups):
    """The first feature decides; items without events are acted on too, more than it says."""
    draw = np.random.default_rng(2)
    events = draw.choice([0.0, 50.0], 1500, p=[0.2, 0.8])
    best = groups.x[:, 0] + 2.0 * (events == 0) + draw.gumbel(size=1500) / 3
    grade = np.zeros((150, 10), np.int8)
    grade[np.arange(150), best.reshape(150, 10).argmax(1)] = 1
    known = replace(
        groups, x=np.column_stack([groups.x[:, 0], events]).astype(np.float32), grade=grade.ravel()
    )
    names = ["good", "count.item.any.all"]
    gains = []
    for cost in (0.0, 0.05, 1.0):
        config = RankerConfig(trees=10, seeds=1, cold_cost=cost)
        fitted = fit_ranker(known, names, config, seed=3, workers=1)
        assert "nDCG@10" in fitted.facts["items with few events"]["0"]
        gains.append(float(fitted.facts["items with few events"]["gain"]))
    assert gains == sorted(gains)
    assert gains[0] < gains[-1] == max(ranker.GAINS)


def test_a_gain_costs_what_those_who_will_be_asked_pay_for_it(groups):
    """Items without events are acted on by every second group alone: what the others lose bounds
    the gain where they are those who will be asked, and does not where they are not."""
    draw = np.random.default_rng(2)
    events = draw.choice([0.0, 50.0], 1500, p=[0.2, 0.8])
    eager = np.repeat(np.arange(150) % 2, 10)
    best = groups.x[:, 0] + np.where(events == 0, 6.0 * eager - 3.0, 0) + draw.gumbel(size=1500) / 3
    grade = np.zeros((150, 10), np.int8)
    grade[np.arange(150), best.reshape(150, 10).argmax(1)] = 1
    x = np.column_stack([groups.x[:, 0], events]).astype(np.float32)
    gains = []
    for asked in (0.0, 1.0):
        stands_for = np.where(np.arange(150) % 2 == 1, 1.0 - asked, asked)
        known = replace(groups, x=x, grade=grade.ravel(), stands_for=stands_for)
        config = RankerConfig(trees=10, seeds=1, cold_cost=0.05)
        fitted = fit_ranker(known, ["good", "count.item.any.all"], config, seed=3, workers=1)
        gains.append(float(fitted.facts["items with few events"]["gain"]))
    assert gains[0] > gains[1]


def test_the_released_ranker_learns_from_later_groups_by_the_recipe_that_was_judged(curved, groups):
    settings = RankerConfig(trees=200, seeds=2)
    judged = fit_ranker(curved, NAMES, settings, seed=3, workers=1)
    rounds = judged.facts["rounds"]
    assert rounds > 0
    half = curved.take(np.arange(75))
    unlike = replace(half, user=half.user + 1000)
    found = refitted(judged, curved.joined(unlike), 75, settings, seed=3, workers=1)
    trees = [b.num_trees() for b in found.boosters]
    assert trees == [round(round(rounds * 1.5) * MORE_ROUNDS)] * 2  # half as many groups again
    assert found.facts["released"] == {"groups": 225, "later": 75, "trees": trees}
    assert found.facts["trees"] == judged.facts["trees"]
    assert found.blend == judged.blend
    # What is learned is in both: of labels that contradict, as many say the one as the other.
    backward = replace(curved, grade=groups.grade)
    both = refitted(judged, curved.joined(backward), len(backward), settings, seed=3, workers=1)
    assert matched(backward, both.score(curved.x), 10).mean() > 0.02 + (
        matched(backward, judged.score(curved.x), 10).mean()
    )


def test_groups_that_all_hold_a_positive_are_not_copied(groups):
    told = groups.of_positives()
    assert len(told) == len(groups.with_positive())
    assert told.of_positives() is told


def test_columns_that_one_side_does_without_are_joined(groups):
    weight = np.full(len(groups.grade), 0.5, np.float32)
    part = replace(groups.take(np.arange(2)), shown=np.array([True, False]))
    whole = replace(groups, weight=weight).joined(part)
    assert whole.offsets.tolist()[-3:] == [1500, 1510, 1520]
    assert (whole.weight[:1500] == 0.5).all()
    assert (whole.weight[1500:] == 1).all()
    assert whole.shown.tolist() == [False] * 150 + [True, False]
    np.testing.assert_array_equal(whole.take(np.arange(150, 152)).x, part.x)
    assert groups.joined(groups).weight is None


def test_a_small_table_is_fitted_by_one_thread_and_a_large_one_by_what_it_pays_for(
    curved, monkeypatch
):
    import lightgbm

    made = []
    real = lightgbm.Booster

    def noted(params=None, *args, **kwargs):
        made.extend([params["num_threads"]] if params else [])
        return real(params, *args, **kwargs)

    monkeypatch.setattr(lightgbm, "Booster", noted)
    settings = RankerConfig(trees=10, seeds=1)
    fit_ranker(curved, NAMES, settings, seed=3, workers=8)
    assert set(made) == {1}
    made.clear()
    monkeypatch.setattr("recsys.training.ranker_trees.ROWS_PER_THREAD", 400)
    fit_ranker(curved, NAMES, settings, seed=3, workers=8)
    assert made[-1] == 1500 // 400, "all groups"
    assert set(made) <= {1500 // 400, 1500 // 400 - 1}, "without those held out"
    assert ROWS_PER_THREAD > 1500


def test_the_ranker_s_minutes_end_the_trees(curved, monkeypatch):
    """With a clock that counts a second at each look, so that no machine is too fast."""
    config = RankerConfig(trees=200, seeds=1)
    free = fit_ranker(curved, NAMES, config, seed=3, workers=1)
    assert "ended by time" not in free.facts
    clock = count()
    for module in ("ranker", "ranker_trees"):
        monkeypatch.setattr(f"recsys.training.{module}.perf_counter", lambda: float(next(clock)))
    bound = fit_ranker(curved, NAMES, config, seed=3, workers=1, seconds=25.0)
    assert "ended by time" in bound.facts
    assert 0 < bound.facts["rounds"] < free.facts["rounds"]
    settings = tree_settings(config, 3, 1, NAMES, None)
    start = np.zeros(len(curved.x))
    found = curve(curved, curved, NAMES, start, start, settings, 200, seconds=2.5)
    assert len(found) == 3, "the first look after the seconds is the last one"


def test_a_single_list_that_falls_does_not_end_the_gain():
    gain = np.array(ranker.GAINS)
    fallen = np.where(gain >= 0.25, 0.979, 1.0) - 0.01 * gain**2
    assert ranker._largest_gain(fallen, 0.02) >= 0.5  # a rule by single points: 0.125
    assert ranker._largest_gain(1 - 0.2 * gain, 0.02) == 0.0
    assert ranker._largest_gain(1 + 0.1 * gain, 0.02) == ranker.GAINS[-1]
