"""Planted leaks are found and named; honest data passes."""

import numpy as np
import pytest

from recsys.evaluation import leaks
from recsys.evaluation.lists import Truth

NAMES = ["a", "b", "leak"]


def rows(seed: int, n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three features, the first mildly useful; ten rows per group."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.2).astype(int)
    x = rng.normal(size=(n, 3))
    x[:, 0] += 0.7 * y
    return x, y, np.arange(n) // 10


def test_honest_features_pass() -> None:
    check = leaks.single_features(*rows(1), NAMES)
    assert check.passed
    assert check.detail.startswith("strongest: a (AUC 0.")


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_feature_that_knows_the_label_is_named(direction: float) -> None:
    x, y, groups = rows(2)
    x[:, 2] = direction * (y * 3.0) + 0.3 * x[:, 2]
    check = leaks.single_features(x, y, groups, NAMES)
    assert not check.passed
    assert check.detail.startswith("leak (AUC 0.99") or check.detail.startswith("leak (AUC 1.0")
    assert "a (" not in check.detail


def test_presence_of_a_value_can_be_the_leak() -> None:
    x, y, groups = rows(3)
    x[y == 0, 2] = np.nan
    assert not leaks.single_features(x, y, groups, NAMES).passed


def test_a_feature_that_stands_far_out_is_suspected() -> None:
    x, y, groups = rows(4)
    x[:, 2] += 2.2 * y
    check = leaks.single_features(x, y, groups, NAMES)
    assert not check.passed
    assert "leak (AUC 0.9" in check.detail


def test_a_feature_encoded_over_its_own_rows_collapses() -> None:
    train, validation = rows(5), rows(6)
    train[0][:, 2] += 1.5 * train[1]
    check = leaks.no_collapse(train, validation, NAMES)
    assert not check.passed
    assert check.detail.startswith("leak (AUC")
    assert leaks.no_collapse(rows(7), rows(8), NAMES).passed


def test_a_feature_that_changes_without_the_future_is_named() -> None:
    x, _, _ = rows(11)
    assert leaks.blind_to_the_future(x, x * (1 + 1e-9), NAMES, 1e-5).passed
    later = x.copy()
    later[7, 2] += 1.0
    check = leaks.blind_to_the_future(later, x, NAMES, 1e-5)
    assert not check.passed
    assert check.detail.startswith("leak (")
    assert "a (" not in check.detail
    absent = x.copy()
    absent[3, 1] = np.nan
    assert not leaks.blind_to_the_future(x, absent, NAMES, 1e-5).passed


def test_parts_fitted_on_the_rows_they_score_are_named() -> None:
    found = leaks.fitted_before({"als": 999, "encoder": 1000, "popular": -(2**62)}, 1000, "test")
    assert [(c.name, c.passed) for c in found] == [
        ("als was fitted before test", True),
        ("encoder was fitted before test", False),
        ("popular was fitted before test", True),
    ]
    assert "never fitted" in found[2].detail


def test_test_events_in_training_are_counted() -> None:
    truth = Truth.of(
        np.array([0, 0, 1]), np.array([5, 6, 5]), np.ones(3, int), np.array([1, 2]),
        np.array([100, 200]),
    )  # fmt: skip
    user, item = np.array([1, 1, 2]), np.array([5, 7, 5])
    earlier = leaks.no_test_events(user, item, np.array([99, 150, 150]), truth, "als")
    assert earlier.passed
    late = leaks.no_test_events(user, item, np.array([100, 150, 150]), truth, "als")
    assert not late.passed
    assert late.detail.startswith("1 of 3 test events")
    nothing = leaks.no_test_events(user[:0], item[:0], np.empty(0, np.int64), truth, "als")
    assert nothing.passed
