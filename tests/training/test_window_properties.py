"""Whatever the log looks like, both the ranker and the test have moments, at cuts that are sound."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data_schemas.config import WindowsConfig
from recsys.features.interactions import DAY, HOUR, SECOND, Interactions
from recsys.features.time_buckets import BUCKETS
from recsys.ingestion.tables.resolution import detect_resolution
from recsys.training.windows import common_end, moments_at, plan_windows

BEGIN = 18_000 * DAY
UNITS = {"day": DAY, "hour": HOUR, "second": SECOND}
SHAPES = ("even", "bursts", "gap of a year", "one heavy day", "heavy last day")


def make(user, item, time, grade, n_items):
    """Events in the order of time."""
    order = np.argsort(time, kind="stable")
    n = len(order)
    return Interactions(
        user[order].astype(np.int32),
        item[order].astype(np.int32),
        np.zeros(n, np.int16),
        time[order].astype(np.int64),
        np.full(n, np.nan, np.float32),
        np.ones(n, np.float32),
        grade[order].astype(np.int8),
        np.arange(n, dtype=np.int64),
        np.array([f"u{u}" for u in range(int(user.max()) + 1)], object),
        ("view",),
        n_items,
    )


def dated(draw, n, unit, shape):
    """n times, µs, in whole units."""
    days = draw.integers(0, 40, n)
    if shape == "bursts":
        days = draw.choice([0, 9, 10, 31], n)
    elif shape == "gap of a year":
        days = np.where(draw.random(n) < 0.9, days, days + 365)
    elif shape == "one heavy day":
        days = np.where(draw.random(n) < 0.8, 20, days)
    elif shape == "heavy last day":
        days = np.where(draw.random(n) < 0.9, 40, days)
    within = draw.integers(0, HOUR if shape == "bursts" else DAY, n)
    return (BEGIN + days * DAY + within) // unit * unit


def spread(draw, users):
    """Undated histories of one to twelve events, a day apart, ending together: (user, time)."""
    lengths = draw.integers(1, 13, users)
    back = np.concatenate([np.arange(length)[::-1] for length in lengths])
    return np.repeat(np.arange(users), lengths), BEGIN + (40 - back) * DAY


@st.composite
def logs(draw_from):
    """A log with a share of exceptions: events moved to any second, sent later, or lost."""
    draw = np.random.default_rng(draw_from(st.integers(0, 2**32 - 1)))
    users = draw_from(st.integers(40, 150))
    kind = draw_from(st.sampled_from([*UNITS, "ordinal"]))
    shape = draw_from(st.sampled_from(SHAPES))
    if kind == "ordinal":
        user, time = spread(draw, users)
    else:
        user = draw.integers(0, users, 8 * users)
        time = dated(draw, len(user), UNITS[kind], shape)
    exception = draw.random(len(user)) < draw_from(st.sampled_from([0, 0.02, 0.1, 0.2]))
    how = draw_from(st.sampled_from(["moved", "later", "lost"]))
    if how == "moved":
        time = np.where(exception, draw.integers(BEGIN, BEGIN + 40 * DAY, len(time)), time)
    elif how == "later":
        time = np.where(exception, time.max() + draw.integers(1, 300 * DAY, len(time)), time)
    else:
        user, time = user[~exception], time[~exception]
    item = draw.integers(0, 400, len(user))
    liked = draw.random(len(user)) < draw_from(st.sampled_from([1.0, 0.5, 0.2]))
    return make(user, item, time, liked, 400)


def planned(events, bucket="hour", **wishes):
    found = detect_resolution(events.user, events.time)
    return plan_windows(
        events,
        WindowsConfig(**wishes),
        ordinal_until=found.ordinal_until,
        bucket=BUCKETS[bucket],
        step=found.step,
        ordinal_step=found.ordinal_step,
    )


@settings(max_examples=120, deadline=None)
@given(
    events=logs(),
    bucket=st.sampled_from(sorted(BUCKETS)),
    scheme=st.sampled_from(["auto", "auto", "time", "ordinal"]),
    enough=st.sampled_from([30, 4000]),
)
def test_ranker_and_test_have_moments_at_sound_cuts(events, bucket, scheme, enough):
    # Where so few moments are enough, these logs are cut as large ones are.
    with patch("recsys.training.windows.ENOUGH_MOMENTS", enough):
        windows = planned(events, bucket, scheme=scheme)
    edges = [*windows.cuts, windows.end]
    assert edges == sorted(set(edges))
    assert windows.cuts[0] > events.time.min()
    assert windows.end > events.time.max()
    assert all(edge % BUCKETS[bucket] == 0 for edge in edges)
    for cuts in (windows.ranker, windows.test):
        moments = [moments_at(events, cut, windows.label_end(cut)) for cut in cuts]
        assert sum(map(len, moments)) > 0
        for cut, found in zip(cuts, moments, strict=True):
            assert (found.time == cut).all()
            user = np.repeat(found.user, np.diff(found.offsets))
            for who, item in zip(user.tolist(), found.items.tolist(), strict=True):
                own = (events.user == who) & (events.item == item)
                first, likes = events.time[own].min(), events.time[own & (events.grade > 0)]
                assert first >= cut  # no label before its cut, nothing recommended again
                assert ((likes >= cut) & (likes < windows.label_end(cut))).any()


@pytest.mark.parametrize("lost", [0.0, 0.03, 0.1, 0.2])
def test_ordinal_histories_stay_ordinal_when_items_are_lost(lost):
    """A tenth of the items gone made it a log of days with one cut, and no window for the ranker."""
    draw = np.random.default_rng(3)
    user, time = spread(draw, 2000)
    item = draw.integers(0, 400, len(user))
    kept = draw.random(400)[item] >= lost
    events = make(user[kept], item[kept], time[kept], np.ones(kept.sum()), 400)
    windows = planned(events)
    assert windows.scheme == "ordinal"
    assert windows.cuts == (BEGIN + 39 * DAY, BEGIN + 40 * DAY)
    assert len(moments_at(events, *windows.cuts)) > 1000


def test_a_few_later_dates_do_not_move_the_end_of_ordinal_histories():
    """One event a year later made its moment the last step, and left the ranker nothing."""
    user, time = spread(np.random.default_rng(3), 300)
    user, time = np.append(user, 7), np.append(time, BEGIN + 400 * DAY + 5)
    events = make(user, np.arange(len(user)) % 400, time, np.ones(len(user)), 400)
    windows = planned(events)
    assert common_end(events, BEGIN + 40 * DAY) == BEGIN + 40 * DAY
    assert (windows.scheme, windows.cuts) == ("ordinal", (BEGIN + 39 * DAY, BEGIN + 40 * DAY))
    assert windows.end == BEGIN + 401 * DAY


@pytest.mark.parametrize("step", [HOUR, 7 * DAY])
def test_an_ordinal_log_is_cut_at_its_own_step(step):
    user, time = spread(np.random.default_rng(3), 300)
    time = BEGIN + (time - BEGIN) // DAY * step
    events = make(user, np.arange(len(user)) % 400, time, np.ones(len(user)), 400)
    assert planned(events).cuts == (BEGIN + 39 * step, BEGIN + 40 * step)


def test_ordinal_histories_up_to_an_earlier_night_end_where_that_night_did():
    user, time = spread(np.random.default_rng(3), 300)
    events = make(user, np.arange(len(user)) % 400, time, np.ones(len(user)), 400)
    whole = planned(events)
    found = detect_resolution(events.user, events.time)
    early = plan_windows(
        events.before(BEGIN + 39 * DAY),
        WindowsConfig(),
        ordinal_until=found.ordinal_until,
        ordinal_step=found.ordinal_step,
    )
    assert early.cuts == (BEGIN + 37 * DAY, BEGIN + 38 * DAY)
    assert early.grid == whole.grid  # so that what is kept of one night serves the other


def test_dated_days_that_end_together_are_no_ordinal_histories():
    """A sale on the last day of two months: everybody is there, but people come when they like."""
    draw = np.random.default_rng(2)
    user = np.append(draw.integers(0, 300, 2400), np.arange(300))
    time = np.append(BEGIN + draw.integers(0, 40, 2400) * DAY, np.full(300, BEGIN + 40 * DAY))
    assert detect_resolution(user, time).kind == "days"
    events = make(user, np.arange(len(user)) % 400, time, np.ones(len(user)), 400)
    assert planned(events).scheme == "time"


def test_without_a_moment_to_learn_from_the_plan_says_so():
    events = make(np.array([0, 1, 0, 1]), np.arange(4), np.array([0, 0, DAY, DAY]), np.ones(4), 4)
    windows = planned(events)
    assert windows.ranker == ()
    assert "no window is left for the ranker" in windows.why
