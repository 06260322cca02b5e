"""Whether tuning helped: the arithmetic, and that chance is no help."""

import numpy as np
import pytest

from recsys.training.finetune.verdict import STANDARD_ERRORS, judge


def test_the_error_is_that_of_a_mean_over_users():
    found = judge([0.2, 0.2, 0.4], [0.3, 0.1, 0.8], np.array([5, 6, 7]))
    assert (found.frozen, found.tuned) == pytest.approx((0.8 / 3, 0.4))
    assert found.users == 3
    assert found.error == pytest.approx(np.std([0.1, -0.1, 0.4], ddof=1) / 3**0.5)


def test_a_user_asked_often_is_one_witness():
    """Ten examples of each of two users are two witnesses."""
    gains = np.array([0.5] * 10 + [0.0] * 10)
    found = judge(np.zeros(20), gains, np.repeat([0, 1], 10))
    assert (found.tuned, found.error) == pytest.approx((0.25, 0.25))
    assert not found.helps
    assert judge(np.zeros(20), gains, np.arange(20)).helps


@pytest.mark.parametrize("gain", [0.0, -0.1])
def test_what_gains_nothing_does_not_help(gain):
    found = judge(np.full(50, 0.3), np.full(50, 0.3 + gain), np.arange(50))
    assert not found.helps
    assert "the frozen text serves" in found.sentence()


def test_what_is_ahead_by_more_than_chance_helps():
    rng = np.random.default_rng(0)
    change = rng.normal(size=400)
    change = (change - change.mean()) / change.std(ddof=1)
    for errors in (STANDARD_ERRORS - 0.1, STANDARD_ERRORS + 0.1):
        found = judge(np.zeros(400), change + errors / 20, np.arange(400))
        assert found.error == pytest.approx(1 / 20)
        assert found.helps == (errors > STANDARD_ERRORS)
        assert ("the tuned text serves" in found.sentence()) == found.helps


def test_weights_that_gave_no_numbers_count_as_nought():
    assert judge([], [0.5, 0.4], np.array([1, 2])).frozen == 0.0
    assert not judge([0.5, 0.4], [], np.array([1, 2])).helps
