"""What an event counts as, by visible arithmetic."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.data_schemas.errors import DataRefused, ExitCode, RecsysError
from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning

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


def test_values_that_are_no_stars():
    assert of("purchase", 19.99) == of("purchase", 0.0) == of("purchase", -3.0) == (5, 3)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.one_of(st.just(NOTHING), st.floats(0, 6, width=32))),
        max_size=30,
    )
)
def test_many_events_are_read_as_one_by_one(events):
    kinds = ["view", "purchase", "poke"]
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
