"""Drift: arithmetic of the measures, silence on samples of one distribution, words on the rest."""

import numpy as np
import pytest

from recsys.evaluation import drift


def test_psi_and_jensen_shannon_by_arithmetic() -> None:
    before, after = np.array([49.5, 49.5]), np.array([79.5, 19.5])  # smoothed: 50:50 and 80:20
    expected = 0.3 * np.log(0.8 / 0.5) - 0.3 * np.log(0.2 / 0.5)
    assert drift.psi(before, after) == pytest.approx(expected)
    assert drift.jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(1.0)
    assert drift.jensen_shannon(before, before) == 0.0


def test_jensen_shannon_equals_scipy() -> None:
    from scipy.spatial.distance import jensenshannon

    p, q = np.array([3.0, 5, 0, 2]), np.array([1.0, 1, 6, 2])
    assert drift.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)


@pytest.mark.parametrize("size", [30, 300, 30_000])
def test_two_samples_of_one_distribution_are_no_drift(size: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert drift.numbers("x", rng.normal(size=5000), rng.normal(size=size)).level == "ok"
        letters = rng.integers(0, 40, 5000), rng.integers(0, 40, size)
        assert drift.categories("c", *letters).level == "ok"


def test_a_shift_warns_and_another_world_stops() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=5000)
    assert drift.numbers("x", reference, rng.normal(size=2000) + 0.8).level == "warn"
    stopped = drift.numbers("x", reference, rng.normal(size=2000) + 3)
    assert stopped.level == "stop"
    assert "highest" in stopped.detail


def test_missing_values_are_a_bin_of_their_own() -> None:
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=2000), rng.normal(size=2000)
    current[:1500] = np.nan
    found = drift.numbers("x", reference, current)
    assert found.level == "stop"
    assert found.detail.startswith("largest change: missing from 0.0% to 75.0%")
    assert drift.numbers("x", np.full(50, np.nan), np.full(50, np.nan)).level == "ok"


def test_rare_categories_are_pooled() -> None:
    rng = np.random.default_rng(0)
    reference, current = rng.integers(0, 5000, 20_000), rng.integers(0, 5000, 20_000)
    assert drift.categories("items", reference, current).level == "ok"
    assert drift.categories("items", np.zeros(500, int), np.ones(500, int)).level == "stop"


def test_an_empty_window_is_said() -> None:
    found = drift.categories("events", [], ["click"])
    assert (found.level, found.detail) == ("warn", "no rows in the reference window")


def test_shares_and_words() -> None:
    assert drift.share("cold", 0.1, 0.15).level == "ok"
    assert drift.share("cold", 0.1, 0.9).level == "stop"
    found = drift.vocabulary("titles", ["the old film"], ["The new film", "new films"])
    assert found.value == pytest.approx(3 / 5)
    assert found.detail == "most frequent new words: new, films"
    assert drift.vocabulary("titles", ["a"], []).value == 0.0


def test_only_a_rise_of_the_unknown_is_a_finding() -> None:
    fallen, risen = drift.rise("new users", 0.6, 0.1), drift.rise("new users", 0.1, 0.6)
    assert (fallen.level, fallen.value) == ("ok", 0.0)
    assert fallen.detail == "from 60.0% to 10.0%"
    assert (risen.level, risen.value) == ("stop", pytest.approx(0.5))
    assert drift.rise("new users", 0.1, 0.25).level == "warn"
    assert drift.share("missing", 0.6, 0.1).level == "stop"  # either way for other shares


def test_the_worst_comes_first() -> None:
    rows = [drift.share("a", 0, 0.01), drift.share("b", 0, 0.9), drift.share("c", 0, 0.2)]
    assert [r["what"] for r in drift.summary(rows)] == ["b", "c", "a"]


def test_a_finding_in_words_has_no_exponents() -> None:
    row = drift.Drift("age of the newest event", "days", 1130.4, 3.0, "warn", "late")
    assert row.in_words() == "age of the newest event: days 1,130, limit 3 (late)"
    assert drift.in_digits(999.96) == "1000"
    assert drift.in_digits(0.0000123) == "0.0000123"
    assert drift.in_digits(0.0) == "0"
    dear = drift.numbers("feature price", np.arange(2e6), np.arange(1e6))
    assert "e+" not in dear.detail
