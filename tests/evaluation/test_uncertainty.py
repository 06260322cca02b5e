"""Intervals: by user, paired, decided by the seed, corrected for how often one looks."""

import numpy as np
import pytest

from recsys.evaluation.uncertainty import (
    Interval,
    bootstrap,
    bootstrap_ratios,
    holm,
    jackknife,
    paired_difference,
)

RNG = np.random.default_rng(3)


def test_estimate_is_the_plain_mean_over_defined_groups() -> None:
    columns = np.array([[1.0, np.nan], [3.0, 4.0], [np.nan, np.nan]])
    found = bootstrap(columns, np.array([0, 0, 1]), resamples=50, seed=1)
    np.testing.assert_allclose(found.estimate, [2, 4])
    assert found.groups.tolist() == [2, 1]
    assert found.users.tolist() == [1, 1]


def test_same_seed_same_interval_other_seed_nearly() -> None:
    columns, user = RNG.normal(size=(300, 2)), np.arange(300)
    first = bootstrap(columns, user, resamples=400, seed=9)
    again = bootstrap(columns, user, resamples=400, seed=9)
    other = bootstrap(columns, user, resamples=400, seed=10)
    np.testing.assert_array_equal(first.replicates, again.replicates)
    assert first.interval(0) == again.interval(0)
    assert first.interval(0) != other.interval(0)
    assert first.interval(0).low == pytest.approx(other.interval(0).low, abs=0.03)


def test_a_column_does_not_depend_on_its_neighbours() -> None:
    columns, user = RNG.normal(size=(200, 5)), np.arange(200) // 2
    whole = bootstrap(columns, user, resamples=100, seed=4)
    one_column = bootstrap(columns[:, 3:4], user, resamples=100, seed=4)
    np.testing.assert_allclose(whole.replicates[:, 3], one_column.replicates[:, 0], rtol=1e-12)


def test_width_is_that_of_the_t_interval() -> None:
    values = RNG.normal(2.0, 1.0, 400)
    found = bootstrap(values[:, None], np.arange(400), resamples=4000, seed=2).interval(0)
    error = values.std(ddof=1) / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.966 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.966 * error, abs=0.15 * error)


def test_groups_of_one_user_are_not_independent() -> None:
    """Ten copies of every user's group say no more than one."""
    values = RNG.normal(size=100)
    once = bootstrap(values[:, None], np.arange(100), resamples=500, seed=1).interval(0)
    copies = np.repeat(values, 10)
    many = bootstrap(copies[:, None], np.repeat(np.arange(100), 10), resamples=500, seed=1)
    found = many.interval(0)
    assert found.low == pytest.approx(once.low)
    assert found.high == pytest.approx(once.high)
    assert (found.groups, found.users) == (1000, 100)


def test_paired_differences_are_narrower_than_two_intervals() -> None:
    easy = RNG.normal(size=500) * 5
    a, b = easy + RNG.normal(size=500) * 0.1 + 0.1, easy + RNG.normal(size=500) * 0.1
    found = bootstrap(np.column_stack([a, b, a - b]), np.arange(500), resamples=500, seed=1)
    first, difference = found.interval(0), found.interval(2)
    assert first.high - first.low > 10 * (difference.high - difference.low)
    assert difference.low > 0


def test_too_few_users_get_a_mean_but_no_interval() -> None:
    found = bootstrap(np.ones((9, 1)), np.arange(9), resamples=20, seed=1)
    assert found.interval(0) == Interval(1.0, None, None, 9, 9)
    assert found.p_value(0) is None
    assert found.corrected(0, 5).low is None


def test_nothing_defined_is_said_not_invented() -> None:
    found = bootstrap(np.full((20, 1), np.nan), np.arange(20), resamples=20, seed=1)
    assert found.interval(0) == Interval(None, None, None, 0, 0)
    empty = bootstrap(np.empty((0, 2)), np.empty(0, int), resamples=20, seed=1)
    assert empty.interval(1) == Interval(None, None, None, 0, 0)


def test_corrected_intervals_widen_with_the_number_of_comparisons() -> None:
    found = bootstrap(RNG.normal(size=(200, 1)), np.arange(200), resamples=1000, seed=1)
    one, twenty = found.corrected(0, 1), found.corrected(0, 20)
    plain = found.interval(0)
    assert one.low == pytest.approx(plain.low, abs=0.02)
    # t quantiles at 0.975 and 0.99875 for 199 degrees: 1.972 and 3.064.
    ratio = (twenty.high - twenty.low) / (one.high - one.low)
    assert ratio == pytest.approx(3.064 / 1.972, rel=1e-3)


def test_p_value_is_that_of_the_t_test() -> None:
    from scipy.stats import ttest_1samp

    values = RNG.normal(0.12, 1.0, 300)
    found = bootstrap(values[:, None], np.arange(300), resamples=4000, seed=6)
    assert found.p_value(0) == pytest.approx(ttest_1samp(values, 0).pvalue, abs=0.02)


def test_a_constant_difference_is_certain_and_none_is_no_evidence() -> None:
    found = bootstrap(np.tile([0.0, 0.5], (50, 1)), np.arange(50), resamples=50, seed=1)
    assert found.p_value(0) == 1.0
    assert found.p_value(1) == 0.0


def test_ratio_of_sums() -> None:
    above, below = np.array([[1.0], [3.0]]), np.array([[1.0], [7.0]])
    found = bootstrap_ratios(above, below, np.arange(2), resamples=20, seed=1)
    assert found.estimate[0] == 4 / 8


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = RNG.random(20)
    left_out = np.array([np.delete(values, i).mean() for i in range(20)])
    found = jackknife(left_out, values.mean(), 20)
    half = 2.093 * values.std(ddof=1) / np.sqrt(20)  # t quantile for 19 degrees
    assert found.high - found.value == pytest.approx(half, rel=1e-3)
    assert jackknife(left_out, 0.5, 5).low is None


def test_holm_steps_down_and_keeps_order() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == pytest.approx([0.03, 0.06, 0.06, None])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_paired_difference_is_what_resampling_users_gives() -> None:
    user = np.repeat(np.arange(300), 3)
    theirs = (RNG.random(900) < 0.4).astype(float)
    ours = np.where(RNG.random(900) < 0.3, 1.0 - theirs, theirs)
    ours[5] = np.nan
    found = paired_difference(ours, theirs, user)
    drawn = bootstrap((ours - theirs)[:, None], user, resamples=4000, seed=1)
    assert (found.groups, found.users) == (899, 300)
    assert found.value == pytest.approx(float(drawn.estimate[0]))
    # Its unseen changes add little where many were seen.
    assert found.error == pytest.approx(drawn.standard_error(0), rel=0.05)
    assert found.interval().low == pytest.approx(found.value - 1.968 * found.error, abs=1e-4)
    assert found.interval(20).low < found.interval().low


def test_a_window_where_nothing_changed_is_no_proof_that_nothing_changes() -> None:
    """The chance of a lost hit that was seen in none of h hits may be 3/h (the rule of three)."""
    hits = np.array([1.0] * 60 + [0.0] * 40)
    found = paired_difference(hits, hits, np.arange(100))
    assert found.value == 0.0
    low = found.interval().low
    assert low is not None
    assert -0.08 < low / found.base < -0.03
    many = paired_difference(np.ones(40_000), np.ones(40_000), np.arange(40_000))
    assert many.error < 1e-4


def test_the_smallest_visible_loss_is_found_four_times_in_five() -> None:
    users, draws, seen = 400, 300, 0
    loss = paired_difference(*_pair(users, 0.0, RNG), np.arange(users)).visible_loss()
    assert loss is not None
    for seed in range(draws):
        ours, theirs = _pair(users, loss, np.random.default_rng([1, seed]))
        high = paired_difference(ours, theirs, np.arange(users)).interval().high
        seen += high is not None and high < 0
    assert seen / draws == pytest.approx(0.8, abs=0.08)
    assert paired_difference(np.ones(9), np.ones(9), np.arange(9)).visible_loss() is None
    assert paired_difference(np.ones(20), np.zeros(20), np.arange(20)).visible_loss() is None
    assert paired_difference(np.zeros(0), np.zeros(0), np.zeros(0)).users == 0


def _pair(users: int, loss: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ours, truly a `loss` worse with a noise of its own, and another's."""
    theirs = rng.uniform(0.2, 0.8, users)
    return theirs * (1.0 - loss) + rng.normal(0.0, 0.3, users), theirs
