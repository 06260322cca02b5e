"""Trees scored by bits give LightGBM's own numbers, to the last bit."""

import lightgbm
import numpy as np
import pytest

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
