"""What an event counts as, by visible arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data_schemas.errors import DataRefused, ExitCode, RecsysError
from recsys.data_schemas.meaning import DEFAULT_TYPES, STARS, EventMeaning, recognised

MEANING = EventMeaning(DEFAULT_TYPES)
NOTHING = float("nan")


def of(kind, value=NOTHING):
    weight, grade = MEANING.of([kind], np.zeros(1, np.int16), np.array([value], np.float32))
    return float(weight[0]), int(grade[0])


def test_defaults():
    assert [of(k) for k in ("view", "click", "comment", "share", "purchase")] == [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
    ]
    assert of("poke") == (1, 1)


def test_stars():
    assert [of("rating", v) for v in (0.5, 2.5, 3.0, 3.5, 4.0, 5.0)] == [
        (-1, -1),
        (-1, -1),
        (1, 0),
        (1, 0),
        (5, 3),
        (5, 3),
    ]


def test_a_number_says_nothing_unless_it_is_a_rating():
    for value in (19.99, 3.0, 1.0, 0.0, -3.0):
        assert of("purchase", value) == (5, 3)
        assert of("poke", value) == (1, 1)


def test_a_rating_outside_its_scale_is_neutral_and_one_without_a_value_is_not_read():
    assert [of("rating", v) for v in (-1.0, 0.0, 0.4, 5.1, 10.0)] == [(1, 0)] * 5
    assert of("rating") == (1, 1)
    unknown = MEANING.with_scales({"rating": None})
    values = np.array([1.0, 5.0])
    assert unknown.of(["rating"], np.zeros(2, int), values)[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("scale", "positive", "neutral", "negative"),
    [
        ((1.0, 5.0), [4, 5], [3], [1, 2]),
        ((0.0, 5.0), [4, 5], [3], [0, 1, 2]),
        ((1.0, 10.0), [8, 9, 10], [6, 7], [1, 2, 3, 4, 5]),
        ((0.0, 100.0), [80, 100], [60, 79], [0, 20, 50]),
        ((0.0, 1.0), [1], [], [0]),
        ((-1.0, 1.0), [1], [0], [-1]),
        ((-10.0, 10.0), [5, 10], [-2, 0, 4], [-10, -3]),
    ],
)
def test_declared_scales(scale, positive, neutral, negative):
    meaning = EventMeaning({}, {"thumb": scale})
    for values, grade in ((positive, 3), (neutral, 0), (negative, -1)):
        found = meaning.of(["thumb"], np.zeros(len(values), int), np.array(values, float))[1]
        assert found.tolist() == [grade] * len(values), (scale, values)


@given(
    st.floats(-100, 100, width=32),
    st.floats(min_value=0.125, max_value=100, width=32),
    st.lists(st.floats(-200, 200, width=32), min_size=2, max_size=20),
)
def test_more_is_never_liked_less(worst, best, values):
    """Whatever the scale, among the ratings on it a higher one has no lower grade."""
    if not worst < best:
        return
    meaning = EventMeaning({}, {"rate": (worst, best)})
    inside = np.sort([v for v in values if worst <= v <= best])
    grade = meaning.of(["rate"], np.zeros(len(inside), int), inside)[1]
    assert (np.diff(grade) >= 0).all()


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.5, 3.5, 5.0], STARS),
        ([1, 2, 3, 4, 5], STARS),
        ([0, 1, 5], STARS),
        ([0, 1], (0.0, 1.0)),
        ([1], (0.0, 1.0)),
        ([-1, 1], (-1.0, 1.0)),
        ([1, 5, 10], (1.0, 10.0)),
        ([0, 5, 10], (0.0, 10.0)),
        ([0, 50, 100], (0.0, 100.0)),
        ([-5, 4], (-5.0, 5.0)),
        ([3, 4000], None),
        ([-3000, 4], None),
    ],
)
def test_scales_are_recognised_by_their_values(values, scale):
    low, high = min(values), max(values)
    assert recognised(low, low, high, 500) == scale
    assert recognised(low, low, high, 3) == STARS


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.just(NOTHING), st.floats(0, 6, width=32))),
        max_size=30,
    )
)
def test_many_events_are_read_as_one_by_one(events):
    kinds = ["view", "purchase", "poke", "rating"]
    kind = np.array([k for k, _ in events], np.int16)
    value = np.array([v for _, v in events], np.float32)
    weight, grade = MEANING.of(kinds, kind, value)
    assert (weight.dtype, grade.dtype) == (np.float32, np.int8)
    assert list(zip(weight.tolist(), grade.tolist(), strict=True)) == [
        of(kinds[k], v) for k, v in events
    ]


def test_errors_say_only_what_is_known():
    error = RecsysError("it broke", where="here", found=0, fix="mend it")
    assert str(error) == "it broke\n  where:    here\n  found:    0\n  do:       mend it"
    assert error.code == ExitCode.FAILED
    assert DataRefused("no").code == 3
    assert DataRefused("no", code=ExitCode.USAGE).code == 2
