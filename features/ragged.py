"""Rows in groups (CSR): group g is rows offsets[g]:offsets[g+1] of each column.

Histories of users, items of shown lists, candidates of moments and tokens of texts are all such tables.
What each of them is says the class that derives from `Ragged`; how rows belong to groups is said here.
Kernels take the plain arrays.

Shapes: G groups, R rows of all groups; k chosen groups with r rows together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Whole = npt.NDArray[np.int64]
_CHUNK = 1 << 22
"""Rows that are counted at once: numpy makes int64 of them first."""


def offsets_of(sizes: npt.ArrayLike) -> Whole:
    """int64[G+1]: the bounds of G groups of these sizes, one after the other.

    >>> offsets_of([2, 0, 3])
    array([0, 2, 2, 5])
    """
    each = np.asarray(sizes)
    offsets = np.zeros(len(each) + 1, np.int64)
    np.cumsum(each, out=offsets[1:])
    return offsets


def offsets_of_owners(owner: npt.NDArray[np.integer], groups: int) -> Whole:
    """int64[G+1]: the bounds of `groups` groups, given the group of each row in ascending order.

    >>> offsets_of_owners(np.array([0, 0, 2, 2, 2]), 3)
    array([0, 2, 2, 5])
    """
    return offsets_of(sizes_of_groups(owner, groups))


def sizes_of_groups(owner: npt.NDArray[np.integer], groups: int) -> Whole:
    """int64[G]: how many rows each of `groups` groups has, given the group of each row in any order.

    >>> sizes_of_groups(np.array([2, 0, 2]), 4)
    array([1, 0, 2, 0])
    """
    sizes = np.bincount(owner[:_CHUNK], minlength=groups)
    for low in range(_CHUNK, len(owner), _CHUNK):
        sizes += np.bincount(owner[low : low + _CHUNK], minlength=groups)
    return sizes


def owners_of(offsets: npt.NDArray[np.integer]) -> Whole:
    """int64[R]: the group of each row.

    >>> owners_of(np.array([0, 2, 2, 5]))
    array([0, 0, 2, 2, 2])
    """
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def places_of(offsets: npt.NDArray[np.integer]) -> Whole:
    """int64[R]: the place of each row in its group, from 0.

    >>> places_of(np.array([0, 2, 2, 5]))
    array([0, 1, 0, 1, 2])
    """
    return np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], np.diff(offsets))


def first_of_runs(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """bool[n]: rows in which one of the columns is not as in the row before; the first is one.

    >>> first_of_runs(np.array([3, 3, 3, 5]), np.array([1, 1, 2, 2]))
    array([ True, False,  True,  True])
    """
    first = np.ones(len(columns[0]), bool)
    first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return first


def ranges_of(first: npt.NDArray[np.integer], sizes: npt.NDArray[np.integer]) -> Whole:
    """int64[r]: the rows of G ranges, one after the other: `sizes[g]` rows from `first[g]` on.

    >>> ranges_of(np.array([7, 0]), np.array([2, 3]))
    array([7, 8, 0, 1, 2])
    """
    edges = offsets_of(sizes)
    return np.arange(edges[-1], dtype=np.int64) + np.repeat(first - edges[:-1], sizes)


def chosen_groups(
    offsets: npt.NDArray[np.integer], chosen: npt.NDArray[np.integer]
) -> tuple[Whole, Whole]:
    """(offsets int64[k+1], rows int64[r]) of some groups of a table, in the order given.

    >>> chosen_groups(np.array([0, 2, 2, 5]), np.array([2, 0]))
    (array([0, 3, 5]), array([2, 3, 4, 0, 1]))
    """
    sizes = np.diff(offsets)[chosen]
    return offsets_of(sizes), ranges_of(offsets[:-1][chosen], sizes)


def list_column(column: Any) -> tuple[Whole, pa.ChunkedArray]:
    """(offsets int64[G+1], all values) of an Arrow column of lists; a null is an empty list.

    >>> offsets, values = list_column(pa.array([[7, 8], None, [9]]))
    >>> offsets.tolist(), values.to_pylist()
    ([0, 2, 2, 3], [7, 8, 9])
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    sizes = [c.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for c in chunks]
    values = pa.chunked_array([c.flatten() for c in chunks], column.type.value_type)
    return offsets_of(np.concatenate([np.empty(0, np.int64), *sizes])), values


class Ragged:
    """A frozen dataclass of G groups of rows, whose columns hold a value for each group or each row.

    A column may be None (absent), another `Ragged`, or several columns by name. Fields that are named in
    neither of the two class variables belong to the whole table.
    """

    offsets: Whole
    """int64[G+1]: group g is rows offsets[g]:offsets[g+1]."""
    group_columns: ClassVar[tuple[str, ...]] = ()
    row_columns: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Whole:
        """int64[G]."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> Whole:
        """int64[R]: the group of each row."""
        return owners_of(self.offsets)

    @property
    def place(self) -> Whole:
        """int64[R]: the place of each row in its group, from 0."""
        return places_of(self.offsets)

    def per_row(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values [G] repeated for the rows of each group: [R]."""
        return np.repeat(values, self.lengths)

    def any_of(self, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool[G]: groups with at least one of some rows (bool[R])."""
        return np.bincount(self.owner[rows], minlength=len(self.offsets) - 1) > 0

    def rows_of(self, group: int) -> slice:
        """The rows of a group."""
        return slice(int(self.offsets[group]), int(self.offsets[group + 1]))

    def take(self, chosen: npt.NDArray[np.integer]) -> Self:
        """Some of the groups (int[k]), in the order given."""
        offsets, rows = chosen_groups(self.offsets, chosen)
        return self._with(offsets, chosen, rows)

    def part(self, first: int, until: int) -> Self:
        """The groups first..until-1, as views."""
        low, high = self.offsets[first], self.offsets[until]
        offsets = self.offsets[first : until + 1] - low
        return self._with(offsets, slice(first, until), slice(int(low), int(high)))

    def keeping(self, rows: npt.NDArray[np.bool_]) -> Self:
        """All groups, with some of their rows (bool[R])."""
        left = offsets_of(rows)
        return self._with(left[self.offsets], slice(None), rows)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The groups of several tables, one after the other: their columns, where all have them; what belongs
        to the whole is the first's."""
        columns = {
            name: _joined([getattr(part, name) for part in parts])
            for name in (*cls.group_columns, *cls.row_columns)
        }
        offsets = offsets_of(np.concatenate([part.lengths for part in parts]))
        return cast(Self, replace(cast(Any, parts[0]), offsets=offsets, **columns))

    def _with(self, offsets: Whole, groups: Any, rows: Any) -> Self:
        columns = {name: _chosen(getattr(self, name), groups) for name in self.group_columns}
        columns |= {name: _chosen(getattr(self, name), rows) for name in self.row_columns}
        return cast(Self, replace(cast(Any, self), offsets=offsets, **columns))


def _chosen(column: Any, which: Any) -> Any:
    if column is None:
        return None
    if isinstance(column, Mapping):
        return {name: _chosen(values, which) for name, values in column.items()}
    if isinstance(column, Ragged):
        if isinstance(which, slice):
            return column.part(*which.indices(len(column))[:2])
        return column.take(which)
    if isinstance(column, tuple):
        return type(column)(*(_chosen(values, which) for values in column))
    return column[which]


def _joined(columns: Iterable[Any]) -> Any:
    found = list(columns)
    if any(column is None for column in found):
        return None
    if isinstance(found[0], tuple):
        return type(found[0])(*map(_joined, zip(*found, strict=True)))
    if isinstance(found[0], Mapping):
        return {name: _joined(one[name] for one in found) for name in found[0]}
    if isinstance(found[0], Ragged):
        return type(found[0]).join(found)
    return np.concatenate(found)
