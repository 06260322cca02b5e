"""Counts by bucket: adding up events one by one is the reference."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.counters import CounterTable

N, K = 4, 3
event = st.tuples(st.integers(0, N - 1), st.integers(0, K - 1), st.integers(-5, 20))
WIDTHS = np.array([0, 1, 3, 10])


def arrays(events):
    columns = zip(*events, strict=True) if events else ([], [], [])
    entity, kind, bucket = (np.array(column) for column in columns)
    return entity.astype(np.int32), kind.astype(np.int16), bucket.astype(np.int64)


def counted(events, entity, kind, width, now):
    return sum(
        amount
        for (e, k, b), amount in events
        if e == entity and k == kind and b < now and (width == 0 or b >= now - width)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(event), st.lists(st.tuples(event, st.sampled_from([1, 1, 2, -1]))), st.integers(-6, 22)
)
def test_reads_what_was_added_whenever_it_is_asked(base, later, now):
    table = CounterTable.build(*arrays(base), N, K)
    amounts = np.array([amount for _, amount in later], np.int64)
    table.add(*arrays([e for e, _ in later]), amounts)
    everything = [(e, 1) for e in base] + later
    expected = [
        [[counted(everything, e, k, w, now) for w in WIDTHS] for k in range(K)] for e in range(N)
    ]
    asked = np.arange(N, dtype=np.int32), np.arange(K, dtype=np.int16)
    found = table.read(*asked, WIDTHS, now)
    assert found[:, :K].tolist() == expected
    assert (found[:, K] == found[:, :K].sum(axis=1)).all()
    compact = table.compacted(N + 1, K + 1)
    assert compact.read(*asked, WIDTHS, now)[:, :K].tolist() == expected
    for e in range(N):
        kinds, buckets, counts = table.cells_of(e)
        assert counts.sum() == sum(amount for (x, _, _), amount in everything if x == e)
        assert len(kinds) == len(buckets)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.tuples(st.integers(-1, 40), st.sampled_from([0, 1, 300]), st.integers(0, 30)),
                st.sampled_from([1, 2, -1]),
            )
        ),
        max_size=8,
    ),
    st.integers(-1, 32),
)
def test_batches_of_any_size_and_order_add_up(batches, now):
    """Runs grow, move and are merged into at any place; an unknown entity counts nothing."""
    table = CounterTable.build(*arrays([]), 0, 0)
    for batch in batches:
        table.add(*arrays([e for e, _ in batch]), np.array([a for _, a in batch], np.int64))
    everything = [row for batch in batches for row in batch]
    kinds = [0, 1, 300]
    found = table.read(np.arange(41, dtype=np.int32), np.array(kinds, np.int16), WIDTHS, now)
    for e in range(41):
        for place, kind in enumerate(kinds):
            expected = [counted(everything, e, kind, w, now) for w in WIDTHS]
            assert found[e, place].tolist() == expected
    compact = table.compacted(41, 301)
    again = compact.read(np.arange(41, dtype=np.int32), np.array(kinds, np.int16), WIDTHS, now)
    assert (again == found).all()


def test_items_times_types_is_no_table():
    """Only what was met takes memory: 10,000 types took 750 MB of the demo's 1,682 items."""
    table = CounterTable.build(*arrays([]), 0, 0)
    tracemalloc.start()
    table.add(*arrays([(100_000, 10_000, 3)]), np.ones(1, np.int64))
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grown < 1_000_000
    assert table.shape == (100_001, 10_001)


def test_the_unknown_count_nothing():
    table = CounterTable.build(*arrays([(0, 0, 1)]), 1, 1)
    found = table.read(np.array([-1, 0, 99], np.int32), np.array([-1, 0, 9], np.int16), WIDTHS, 5)
    assert found[:, :3, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_room_is_made_for_new_entities_and_kinds():
    table = CounterTable.build(*arrays([]), 0, 0)
    table.add(*arrays([(70, 5, 3)]), np.ones(1, np.int64))
    assert table.read(np.array([70], np.int32), np.array([5], np.int16), WIDTHS, 4)[0, 0, 0] == 1


def test_opens_what_it_saved(tmp_path):
    table = CounterTable.build(*arrays([(0, 0, 1), (0, 0, 1), (2, 1, 4)]), 3, 2)
    table.save(tmp_path, "c")
    opened = CounterTable.open(tmp_path, "c")
    asked = np.arange(3, dtype=np.int32), np.arange(2, dtype=np.int16)
    assert (opened.read(*asked, WIDTHS, 5) == table.read(*asked, WIDTHS, 5)).all()
