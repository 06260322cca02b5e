"""Arrays of all events: the same values in files as in memory, and nothing left behind."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features import on_disk
from recsys.features.counted_events import Counted
from recsys.features.counters import CounterTable
from recsys.features.interactions import Interactions, places_by_owner
from recsys.features.on_disk import arrays_in, empty, filled, stretches, taken
from recsys.features.ragged import offsets_of_owners


@pytest.fixture
def in_files(tmp_path, monkeypatch):
    """Every array in a file, a few rows at a time."""
    monkeypatch.setattr(on_disk, "LEAST_BYTES", 1)
    monkeypatch.setattr(on_disk.stretches, "__defaults__", (3,), raising=False)
    with arrays_in(tmp_path):
        yield tmp_path


def mapped():
    """Nameless files that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return sum(("(deleted)" in line and "array-" in line) or "/#" in line for line in lines)


def test_large_arrays_lie_in_files_without_a_name_that_go_with_the_array(in_files):
    before = mapped()
    array = empty(5, np.int64)
    array[:] = np.arange(5)
    assert mapped() == before + 1
    assert list(in_files.iterdir()) == []
    del array
    assert mapped() == before


def test_without_a_folder_and_below_a_size_they_stay_in_memory(tmp_path):
    before = mapped()
    kept = [empty(1 << 20, np.int64)]
    with arrays_in(tmp_path):
        kept.append(empty(10, np.int64))
    assert mapped() == before
    assert [len(array) for array in kept] == [1 << 20, 10]


@pytest.mark.usefixtures("in_files")
def test_values_are_those_of_plain_indexing():
    column = np.arange(10, dtype=np.int32) * 7
    mask = column % 2 == 0
    places = np.array([9, 0, 4, 4])
    assert taken(column, mask).tolist() == column[mask].tolist()
    assert taken(column, places).tolist() == column[places].tolist()
    assert taken(column, np.zeros(10, bool)).tolist() == []
    assert filled(7, np.float32, lambda part: np.sqrt(column[part])).tolist() == [
        np.float32(np.sqrt(value)) for value in column[:7]
    ]
    assert [part.stop for part in stretches(7)] == [3, 6, 7]


def test_a_full_disk_is_an_error_and_no_signal(in_files, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(on_disk.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        empty(1000, np.int64)


def events_of(rows):
    """Interactions of (user, item, kind), a second apart."""
    user, item, kind = (np.array(column) for column in zip(*rows, strict=True))
    count = len(rows)
    return Interactions(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        kind=kind.astype(np.int16),
        time=np.arange(count, dtype=np.int64) // 2,
        value=np.full(count, np.nan, np.float32),
        weight=np.ones(count, np.float32),
        grade=np.ones(count, np.int8),
        position=np.arange(count, dtype=np.int64),
        user_ids=np.array([f"u{u}" for u in range(5)], object),
        kinds=("view", "buy"),
        n_items=6,
        ordered=True,
    )


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=40
)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.integers(-1, 25))
def test_an_early_part_of_ordered_events_is_a_view_of_the_same(rows, now):
    events = events_of(rows)
    early, other = events.before(now), replace(events, ordered=False).before(now)
    for name in ("user", "item", "time", "position"):
        assert getattr(early, name).tolist() == getattr(other, name).tolist()
    assert early.item.base is not None
    assert not events.where(np.arange(len(events))[::-1]).ordered
    assert events.where(events.user > 1).ordered


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_events_by_user_are_those_of_a_stable_sort(rows):
    events = events_of(rows)
    order = np.argsort(events.user, kind="stable")
    assert events.by_user().tolist() == order.tolist()
    assert events.histories().events.item.tolist() == events.item[order].tolist()
    offsets = offsets_of_owners(events.item, 6)
    found = places_by_owner(events.item, offsets)
    assert found.tolist() == np.argsort(events.item, kind="stable").tolist()
    histories = events.histories()
    for rows_at_once in (1, 3, 100):
        parts = list(histories.stretches(rows_at_once))
        assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
        assert (parts[0].start, parts[-1].stop) == (0, 5)
        sizes = [histories.lengths[part] for part in parts]
        assert all(size.sum() <= rows_at_once or len(size) == 1 for size in sizes)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 1), st.integers(0, 9)), max_size=40),
    st.integers(1, 50),
)
def test_counts_do_not_depend_on_how_events_come(rows, cut):
    whole = np.array(rows, np.int64).reshape(-1, 3)
    known = whole[whole[:, 0] >= 0]

    def cells(part):
        return part[:, 0].astype(np.int32), part[:, 1].astype(np.int16), part[:, 2]

    def table(parts):
        return CounterTable.of_stretches(lambda: [cells(part) for part in parts], 4, 2)

    one = CounterTable.build(*cells(whole), 4, 2)
    for parts in ([known], [known[:cut], known[cut:]], [known[cut:], known[:cut]]):
        found = table(parts)
        for name in ("_offsets", "_bucket", "_running"):
            assert getattr(found, name).tolist() == getattr(one, name).tolist()
    assert one.compacted(4, 2) is one
    for entity in range(4):
        kinds, bucket, count = one.cells_of(entity)
        mine = known[known[:, 0] == entity]
        pairs, counted = np.unique(mine[:, 1:], axis=0, return_counts=True)
        expected = sorted(
            (*pair, n) for pair, n in zip(pairs.tolist(), counted.tolist(), strict=True)
        )
        assert sorted(zip(kinds.tolist(), bucket.tolist(), count.tolist(), strict=True)) == expected


def test_counted_events_are_chosen_column_by_column():
    columns = [np.arange(3, dtype=kind) for kind in (np.int32, np.int16, np.int64, np.int64)]
    assert [c.tolist() for c in Counted(*columns).where(np.array([2, 0]))] == [[2, 0]] * 4
