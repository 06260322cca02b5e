"""Counting from arrays against a loop over the events."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recsys.features.array_counts import (
    Asked,
    _seek,
    count_windows,
)
from recsys.features.counted_events import Counted
from recsys.features.counter_query import CountColumn
from recsys.features.rows import ANY_POSITION

COLUMNS = (
    CountColumn((), 0),
    CountColumn((), 24),
    CountColumn((1,), 24),
    CountColumn((0, 2), 168),
    CountColumn((9,), 3),
)
TYPES = (np.int32, np.int16, np.int64, np.int64)
event = st.tuples(st.integers(-1, 2), st.integers(0, 2), st.integers(-9, 200), st.integers(0, 50))
bounds = st.one_of(st.just(ANY_POSITION), st.integers(0, 60))
pair = st.tuples(st.integers(0, 4), st.integers(-1, 3), st.integers(-3, 205), bounds)


def arrays(rows, types):
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return [np.array(column, kind) for column, kind in zip(columns, types, strict=True)]


def by_hand(events, pairs, column):
    counts = [0] * 5
    for row, entity, now, bound in pairs:
        counts[row] += sum(
            e == entity >= 0
            and b < now
            and known < bound
            and (not column.width or b >= now - column.width)
            and (not column.kinds or k in column.kinds)
            for e, k, b, known in events
        )
    return counts


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(event, max_size=60), st.lists(pair, max_size=20).map(sorted), st.booleans())
def test_counts_are_those_of_a_loop(events, pairs, in_order):
    if in_order:
        events.sort(key=lambda e: e[2])
    row, entity, now, bound = arrays(pairs, (np.int64, np.int32, np.int64, np.int64))
    bound = bound if (bound != ANY_POSITION).any() else None
    found = count_windows(
        [Counted(*arrays(events, TYPES))], Asked(row, entity, now, bound), COLUMNS, 5
    )
    assert found.tolist() == [by_hand(events, pairs, column) for column in COLUMNS]


@pytest.mark.parametrize("threads_from", [1, 10**9])
def test_threads_share_no_row(monkeypatch, threads_from):
    """Tags: several pairs add up to one row, wherever the rows are cut."""
    monkeypatch.setattr("recsys.features.array_counts._APART", threads_from)
    draw = np.random.default_rng(5)
    events = Counted(
        draw.integers(0, 7, 500).astype(np.int32),
        draw.integers(0, 3, 500).astype(np.int16),
        np.sort(draw.integers(0, 300, 500)),
        np.arange(500),
    )
    row = np.sort(draw.integers(0, 40, 200))
    asked = Asked(row, draw.integers(0, 7, 200).astype(np.int32), draw.integers(0, 320, 200), None)
    found = count_windows([events], asked, COLUMNS[:2], 40)
    one = [
        count_windows([events], asked.where(slice(i, i + 1)), COLUMNS[:2], 40) for i in range(200)
    ]
    np.testing.assert_array_equal(found, np.sum(one, axis=0))
    assert found.any()


@given(st.lists(st.integers(0, 30), max_size=20).map(sorted), st.integers(-1, 32), st.data())
@settings(deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_a_search_ends_in_the_same_place_wherever_it_starts(buckets, limit, data):
    at = data.draw(st.integers(0, len(buckets)))
    found = _seek(np.array(buckets, np.int32), 0, len(buckets), at, limit)
    assert found == np.searchsorted(buckets, limit)
