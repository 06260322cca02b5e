"""Trees scored by bits give LightGBM's own numbers, to the last bit; explained by an integral, its
TreeSHAP values."""

from itertools import combinations
from math import factorial

import lightgbm
import numpy as np
import pytest

from recsys.ranker.model import Ranker
from recsys.ranker.tree_shares import LANES, TreeShares
from recsys.ranker.trees import ROWS_AT_ONCE, FastTrees

GROUPS, SIZE, FEATURES = 40, 50, 12


def rows(draw, count):
    """float32[count, F] with missing values, infinities, zeros and whole numbers."""
    x = draw.normal(size=(count, FEATURES)).astype(np.float32)
    x[:, 1] = np.round(x[:, 1])
    x[:, 2] *= 1e-38
    x[:, 3] *= 1e30
    x[draw.random(x.shape) < 0.15] = np.nan
    x[draw.random(x.shape) < 0.05] = 0.0
    x[draw.random(x.shape) < 0.02] = np.inf
    x[draw.random(x.shape) < 0.02] = -np.inf
    x[:, 4] = np.where(np.isnan(x[:, 4]), 0.0, x[:, 4])  # never missing where it is fitted
    return x


def fitted(leaves=31, trees=60, **more):
    draw = np.random.default_rng(5)
    x = rows(draw, GROUPS * SIZE)
    y = (np.nan_to_num(x[:, 0], posinf=0, neginf=0) + draw.normal(size=len(x)) > 0.7).astype(int)
    settings = {"objective": "lambdarank", "num_leaves": leaves, "min_data_in_leaf": 3}
    settings |= {"verbose": -1, "num_threads": 1, "seed": 1} | more
    data = lightgbm.Dataset(x, y, group=[SIZE] * GROUPS)
    return lightgbm.train(settings, data, trees)


@pytest.mark.parametrize("leaves", [2, 15, 31, 32])
def test_the_same_bits_as_predict(leaves):
    booster = fitted(leaves)
    trees = FastTrees.of(booster)
    draw = np.random.default_rng(6)
    for count in (1, 7, 100, ROWS_AT_ONCE + 3):
        x = rows(draw, count)
        x[:, 4] = np.where(draw.random(count) < 0.2, np.nan, x[:, 4])
        ours = trees.score(x)
        np.testing.assert_array_equal(ours, booster.predict(x, raw_score=True, num_threads=1))


def test_values_that_are_the_thresholds_themselves():
    booster = fitted()
    trees = FastTrees.of(booster)
    x = np.zeros((len(trees.threshold), FEATURES), np.float32)
    for row, (feature, limit) in enumerate(zip(trees.feature, trees.threshold, strict=True)):
        x[row, feature] = limit
    for near in (x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))):
        np.testing.assert_array_equal(trees.score(near), booster.predict(near, raw_score=True))


def test_no_rows_and_trees_that_say_nothing():
    booster = fitted(trees=3, min_data_in_leaf=10_000)
    x = rows(np.random.default_rng(7), 9)
    np.testing.assert_array_equal(
        FastTrees.of(booster).score(x), booster.predict(x, raw_score=True)
    )
    assert FastTrees.of(booster).score(x[:0]).shape == (0,)


def test_what_bits_cannot_say_is_left_to_lightgbm():
    assert FastTrees.of(fitted(leaves=40)) is None
    assert FastTrees.of(fitted(zero_as_missing=True)) is None
    kind = np.arange(400) % 5
    data = lightgbm.Dataset(kind[:, None], kind == 2, categorical_feature=[0])
    assert FastTrees.of(lightgbm.train({"verbose": -1, "min_data_per_group": 1}, data, 3)) is None


def test_the_rounds_that_early_stopping_chose():
    booster = fitted(trees=20)
    booster.best_iteration = 6
    x = rows(np.random.default_rng(8), 50)
    np.testing.assert_array_equal(
        FastTrees.of(booster).score(x), booster.predict(x, raw_score=True)
    )


# --- what each feature adds --------------------------------------------------------------------


def shares_of(booster):
    return TreeShares.of(booster, FastTrees.of(booster))


@pytest.mark.parametrize("leaves", [2, 5, 31, 32])
@pytest.mark.parametrize("count", [1, LANES, LANES + 3])
def test_as_treeshap_gives_them(leaves, count):
    booster = fitted(leaves)
    draw = np.random.default_rng(6)
    x = rows(draw, count)
    x[:, 4] = np.where(draw.random(count) < 0.2, np.nan, x[:, 4])  # missing where it never was
    expected = booster.predict(x, pred_contrib=True, num_threads=1)[:, :-1]
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(shares_of(booster).contributions(x), expected, rtol=0, atol=1e-6)


def test_a_row_is_explained_alike_whatever_is_beside_it():
    shares = shares_of(fitted())
    x = rows(np.random.default_rng(7), 2 * LANES + 5)
    together = shares.contributions(x)
    for row in (0, LANES, len(x) - 1):
        np.testing.assert_array_equal(shares.contributions(x[row : row + 1])[0], together[row])


def test_by_the_definition_of_shapley_values():
    """One tree, three features, every coalition written out; what is left out is averaged by rows."""
    draw = np.random.default_rng(8)
    x = draw.normal(size=(400, 3)).astype(np.float32)
    y = x[:, 0] * (x[:, 1] > 0) + 0.3 * x[:, 2]
    options = {"num_leaves": 12, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(options, lightgbm.Dataset(x, y), 1)
    tree = booster.dump_model()["tree_info"][0]["tree_structure"]

    def worth(node, row, known):
        if "leaf_value" in node:
            return node["leaf_value"]
        sides = [node["left_child"], node["right_child"]]
        if node["split_feature"] in known:
            return worth(sides[int(row[node["split_feature"]] > node["threshold"])], row, known)
        sizes = [side.get("leaf_count", side.get("internal_count")) for side in sides]
        return sum(n * worth(s, row, known) for n, s in zip(sizes, sides, strict=True)) / sum(sizes)

    asked = x[:5]
    expected = np.zeros((5, 3))
    for place, row in enumerate(asked):
        for feature in range(3):
            others = [f for f in range(3) if f != feature]
            for size in range(3):
                part = factorial(size) * factorial(2 - size) / factorial(3)
                for known in combinations(others, size):
                    with_it, without = worth(tree, row, {*known, feature}), worth(tree, row, known)
                    expected[place, feature] += part * (with_it - without)
    np.testing.assert_allclose(shares_of(booster).contributions(asked), expected, atol=1e-9)


def test_trees_that_say_nothing_have_no_share():
    booster = fitted(trees=3, min_data_in_leaf=10_000)
    x = rows(np.random.default_rng(7), 9)
    assert not shares_of(booster).contributions(x).any()
    assert shares_of(booster).contributions(x[:0]).shape == (0, FEATURES)


def test_what_bits_cannot_say_is_explained_by_lightgbm():
    booster = fitted(leaves=40)
    assert shares_of(booster) is None
    x = rows(np.random.default_rng(9), 20)
    ranker = Ranker(tuple(f"f{n}" for n in range(FEATURES)), None, [booster])
    expected = booster.predict(x, pred_contrib=True)[:, :-1]
    np.testing.assert_array_equal(ranker.contributions(x), expected)


def test_shares_of_several_boosters_sum_to_the_score():
    boosters = [fitted(trees=20), fitted(trees=30, leaves=7)]
    ranker = Ranker(tuple(f"f{n}" for n in range(FEATURES)), None, boosters)
    x = rows(np.random.default_rng(10), 40)
    beside = ranker.score(x) - ranker.contributions(x).sum(axis=1)
    np.testing.assert_allclose(beside, beside[0], atol=1e-9)  # the expectation, alike for all
