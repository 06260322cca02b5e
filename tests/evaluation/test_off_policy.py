"""Off-policy estimates by arithmetic, on a known bandit, and refused where they must be."""

import numpy as np
import pytest

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.evaluation.off_policy import LoggedChoices, off_policy


def test_estimates_by_arithmetic() -> None:
    log = LoggedChoices(
        np.array([0.5, 0.25]),
        np.array([0.5, 0.5]),
        np.array([1.0, 1.0]),
        np.arange(2),
        predicted=np.array([0.5, 0.5]),
        expected=np.array([0.2, 0.4]),
    )
    found = off_policy(log, least_effective=0.0, resamples=20)
    # Weights 1 and 2.
    assert found.estimates["ips"].value == (1 + 2) / 2
    assert found.estimates["snips"].value == (1 + 2) / (1 + 2)
    assert found.estimates["doubly_robust"].value == pytest.approx(
        (0.2 + 1 * 0.5 + 0.4 + 2 * 0.5) / 2
    )
    assert found.effective == pytest.approx((1 + 2) ** 2 / (1 + 4))
    assert found.logged == 1.0


def bandit(n: int, seed: int) -> tuple[LoggedChoices, float]:
    """Two arms paying 0.2 and 0.6; logged 70:30, the new policy plays 20:80."""
    rng = np.random.default_rng(seed)
    arm = (rng.random(n) < 0.3).astype(int)
    pay, old, new = np.array([0.2, 0.6]), np.array([0.7, 0.3]), np.array([0.2, 0.8])
    reward = (rng.random(n) < pay[arm]).astype(float)
    guess = np.array([0.3, 0.5])
    log = LoggedChoices(
        old[arm], new[arm], reward, np.arange(n) // 3, guess[arm], np.full(n, new @ guess)
    )
    return log, float(new @ pay)


def test_intervals_hold_the_truth_of_a_known_bandit() -> None:
    held = {"ips": 0, "snips": 0, "doubly_robust": 0}
    for seed in range(40):
        log, truth = bandit(2000, seed)
        found = off_policy(log, resamples=200, seed=seed)
        for name, interval in found.estimates.items():
            held[name] += interval.low <= truth <= interval.high
    assert min(held.values()) >= 34, held


def test_a_policy_the_log_says_nothing_about_is_refused() -> None:
    log, _ = bandit(2000, 1)
    strange = LoggedChoices(
        np.where(np.arange(2000) < 3, 1e-4, log.propensity), np.where(np.arange(2000) < 3, 1.0, 0.0),
        log.reward, log.user,
    )  # fmt: skip
    found = off_policy(strange)
    assert found.estimates == {}
    assert found.effective == pytest.approx(3.0)
    assert found.clipped == pytest.approx(3 / 2000)
    assert "only 3 effective choices of 2,000" in str(found.refused)


def test_nothing_logged_is_refused() -> None:
    empty = np.empty(0)
    found = off_policy(LoggedChoices(empty, empty, empty, np.empty(0, int)))
    assert found.refused is not None
    assert found.effective == 0.0


def test_wrong_chances_and_lengths_are_named() -> None:
    one = np.ones(2)
    with pytest.raises(DataRefused, match="1 of 4 values"):
        LoggedChoices(np.array([0.0, 1.0]), one, one, np.arange(2))
    with pytest.raises(DataRefused, match="2 of 4 values"):
        LoggedChoices(np.array([np.nan, 1.0]), np.array([2.0, 1.0]), one, np.arange(2))
    with pytest.raises(UsageError, match=r"lengths \[2, 2, 3, 2\]"):
        LoggedChoices(one, one, np.ones(3), np.arange(2))
    with pytest.raises(UsageError, match="both or neither"):
        LoggedChoices(one, one, one, np.arange(2), predicted=one)
