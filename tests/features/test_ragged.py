"""Groups of rows, against lists of lists."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.ragged import (
    Ragged,
    chosen_groups,
    list_column,
    offsets_of,
    offsets_of_owners,
)

LISTS = st.lists(st.lists(st.integers(-3, 9), max_size=4), max_size=6)


@dataclass(frozen=True)
class Bags(Ragged):
    """A table with a column of each sort."""

    offsets: np.ndarray
    value: np.ndarray
    double: dict[str, np.ndarray]
    absent: np.ndarray | None
    name: np.ndarray
    inner: "Bags | None"
    whole: str
    group_columns: ClassVar = ("name", "inner")
    row_columns: ClassVar = ("value", "double", "absent")

    def lists(self) -> list[tuple]:
        """Each group by itself: its name, its values, its doubled values."""
        return [
            (
                int(self.name[g]),
                self.value[self.rows_of(g)].tolist(),
                self.double["x"][self.rows_of(g)].tolist(),
            )
            for g in range(len(self))
        ]


def bags(lists: list[list[int]], inner: bool = True) -> Bags:
    flat = np.array([v for row in lists for v in row], np.int32)
    return Bags(
        offsets_of([len(row) for row in lists]),
        flat,
        {"x": 2 * flat},
        None,
        np.arange(len(lists)) + 100,
        bags([row[:1] for row in lists], inner=False) if inner else None,
        "all",
    )


def plain(lists: list[list[int]]) -> list[tuple]:
    return [(100 + g, row, [2 * v for v in row]) for g, row in enumerate(lists)]


@given(LISTS)
def test_rows_know_their_group_and_place(lists):
    table = bags(lists)
    assert len(table) == len(lists)
    assert table.lists() == plain(lists)
    assert table.lengths.tolist() == [len(row) for row in lists]
    assert table.owner.tolist() == [g for g, row in enumerate(lists) for _ in row]
    assert table.place.tolist() == [p for row in lists for p in range(len(row))]
    assert offsets_of_owners(table.owner, len(lists)).tolist() == table.offsets.tolist()


@given(LISTS, st.data())
def test_groups_are_taken_cut_and_joined_with_all_their_columns(lists, data):
    table, rows = bags(lists), plain(lists)
    chosen = data.draw(
        st.lists(st.integers(0, len(lists) - 1), max_size=8) if lists else st.just([])
    )
    first = data.draw(st.integers(0, len(lists)))
    until = data.draw(st.integers(first, len(lists)))
    taken, part = table.take(np.array(chosen, np.int64)), table.part(first, until)
    assert taken.lists() == [rows[g] for g in chosen]
    assert part.lists() == rows[first:until]
    for some, names in ((taken, chosen), (part, range(first, until))):
        assert some.inner.name.tolist() == [100 + g for g in names]
        assert some.inner.lengths.tolist() == [min(1, len(lists[g])) for g in names]
        assert (some.absent, some.whole) == (None, "all")
    both = Bags.join([table, taken])
    assert both.lists() == rows + [rows[g] for g in chosen]
    assert both.inner.name.tolist() == [row[0] for row in both.lists()]
    assert both.offsets.dtype == np.int64


@given(LISTS, st.data())
def test_rows_are_left_out_and_groups_stay(lists, data):
    table = bags(lists)
    count = len(table.value)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    flags = iter(keep.tolist())
    left = [[v for v in row if next(flags)] for row in lists]
    assert table.keeping(keep).lists() == plain(left)
    assert len(table.keeping(keep).inner) == len(lists)


@given(LISTS, st.data())
def test_rows_of_chosen_groups(lists, data):
    offsets = offsets_of([len(row) for row in lists])
    chosen = data.draw(
        st.lists(st.integers(0, len(lists) - 1), max_size=8) if lists else st.just([])
    )
    edges, rows = chosen_groups(offsets, np.array(chosen, np.int64))
    wanted = [np.arange(offsets[g], offsets[g + 1]).tolist() for g in chosen]
    assert [rows[a:b].tolist() for a, b in pairwise(edges)] == wanted


@settings(deadline=None)  # Arrow's functions are loaded on first use
@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3), max_size=6), st.integers(0, 6))
def test_a_column_of_lists_whole_in_chunks_or_cut(lists, cut):
    wanted = [row or [] for row in lists]
    column = pa.array(lists, pa.list_(pa.int32()))
    chunks = pa.chunked_array([column[:cut], column[cut:]])
    for one in (column, chunks, pa.concat_arrays([column, column])[len(lists) :]):
        offsets, values = list_column(one)
        assert offsets.tolist() == offsets_of([len(row) for row in wanted]).tolist()
        assert values.to_pylist() == [v for row in wanted for v in row]
    assert list_column(pa.chunked_array([], column.type))[0].tolist() == [0]
