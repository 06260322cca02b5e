"""Time resolution is read off the data."""

import numpy as np
import pytest

from recsys.features.interactions import DAY, HOUR, SECOND
from recsys.ingestion.tables.resolution import detect_resolution

D = 18_000 * DAY


def spread(users, seed=0, step=DAY, end=D):
    """Undated histories: 1 to 6 events a user, one step apart, ending at `end`."""
    lengths = np.random.default_rng(seed).integers(1, 7, users)
    user = np.repeat(np.arange(users), lengths)
    back = np.concatenate([np.arange(n)[::-1] for n in lengths])
    return user.astype(np.int32), end - back * step


def dated(users, events, unit, seed=1, begin=D + DAY, span=60 * DAY):
    draw = np.random.default_rng(seed)
    time = begin + draw.integers(0, span // unit, events) * unit
    return draw.integers(0, users, events).astype(np.int32), time


def test_spread_histories_are_ordinal():
    found = detect_resolution(*spread(300))
    assert (found.kind, found.ordinal_until) == ("ordinal", D)
    assert "1 day apart" in found.why
    assert "order within a user is real" in found.why


@pytest.mark.parametrize("step", [HOUR, 7 * DAY, 30 * SECOND])
def test_any_step(step):
    assert detect_resolution(*spread(100, step=step)).ordinal_until == D


def test_ordinal_then_days():
    early, late = spread(300), dated(300, 3000, DAY)
    user, time = np.r_[early[0], late[0]], np.r_[early[1], late[1]]
    found = detect_resolution(user, time)
    assert (found.kind, found.ordinal_until) == ("days", D)
    shuffled = np.random.default_rng(4).permutation(len(user))
    assert detect_resolution(user[shuffled], time[shuffled]) == found


@pytest.mark.parametrize(
    ("unit", "kind"), [(SECOND, "seconds"), (HOUR, "hours"), (DAY, "days"), (1, "seconds")]
)
def test_rounding(unit, kind):
    found = detect_resolution(*dated(200, 5000, unit))
    assert (found.kind, found.ordinal_until) == (kind, None)


def test_days_of_a_zone_with_summer_time():
    user, time = dated(200, 5000, DAY)
    shifted = time - np.where(time > D + 30 * DAY, 2, 1) * HOUR
    assert detect_resolution(user, shifted).kind == "days"


def test_everybody_busy_on_one_day_is_no_pattern():
    """A sale on the last day: most users end there, but their gaps differ."""
    user, time = dated(300, 3000, DAY)
    user = np.r_[user, np.arange(300, dtype=np.int32)]
    time = np.r_[time, np.full(300, time.max() + DAY)]
    found = detect_resolution(user, time)
    assert (found.kind, found.ordinal_until) == ("days", None)


def test_few_users_are_no_pattern():
    assert detect_resolution(*spread(12)).ordinal_until is None


def test_no_and_one_event():
    assert detect_resolution(np.zeros(0, np.int32), np.zeros(0, np.int64)).kind == "seconds"
    assert detect_resolution(np.zeros(1, np.int32), np.zeros(1, np.int64)).kind == "seconds"


def test_large_tables_are_sampled_by_user(monkeypatch):
    monkeypatch.setattr("recsys.ingestion.tables.resolution.SAMPLE_EVENTS", 500)
    assert detect_resolution(*spread(2000)).ordinal_until == D


def test_long_histories_end_at_the_last_of_equally_crowded_moments():
    user = np.repeat(np.arange(30, dtype=np.int32), 12)
    time = np.tile(np.arange(12, dtype=np.int64) * DAY, 30)
    found = detect_resolution(user, time)
    assert (found.kind, found.ordinal_until, found.step) == ("ordinal", 11 * DAY, DAY)
