"""Lists that a report was made from, kept beside it, so that two versions can be compared later.

One row per list: who was asked when, what turned out relevant, and what each kept system answered.
Users are named by their ids, for their numbers are another night's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.evaluation.lists import PADDING, PastItems, RankedLists, Truth
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import list_column, offsets_of
from recsys.storage.files import atomic_file

FILE = "lists.parquet"
TIME, RELEVANT, GRADES, PAST = "time", "relevant", "grades", "past"
PREFIX = "list/"
MAIN = "recsys"
"""Name of the system that a night is about."""
CHAMPION = re.compile(r"champion \(version (\d+)\b")
"""How a night names the champion it was compared with."""


@dataclass(frozen=True)
class SavedLists:
    """G lists with their truth; users are numbered in the order of `user_ids`."""

    user_ids: PackedStrings | npt.NDArray[np.object_]
    truth: Truth
    past: PastItems
    systems: dict[str, RankedLists]

    def take(self, groups: npt.NDArray[np.integer]) -> "SavedLists":
        """Some of the lists, in the order given."""
        systems = {
            name: RankedLists(name, lists.items[groups], lists.scores[groups])
            for name, lists in self.systems.items()
        }
        return SavedLists(self.user_ids, self.truth.take(groups), self.past.take(groups), systems)

    def keys(self) -> list[tuple[str, int]]:
        """(user id, moment) of each list."""
        return [
            (str(self.user_ids[u]), int(t))
            for u, t in zip(self.truth.user, self.truth.time, strict=True)
        ]

    def shared(self, other: "SavedLists") -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rows of the lists that both hold (the same user at the same moment), in one order."""
        place = {key: row for row, key in enumerate(other.keys())}
        pairs = [(row, place[key]) for row, key in enumerate(self.keys()) if key in place]
        rows = np.array(pairs, np.intp).reshape(-1, 2)
        return rows[:, 0], rows[:, 1]

    def champion(self) -> tuple[int, RankedLists] | None:
        """The champion of that night with its lists; None where it had none."""
        for name, lists in self.systems.items():
            found = CHAMPION.match(name)
            if found:
                return int(found[1]), lists
        return None


def write_lists(
    folder: Path,
    truth: Truth,
    past: PastItems,
    systems: Sequence[RankedLists],
    user_ids: PackedStrings | npt.NDArray[np.object_],
) -> Path:
    """Write lists.parquet into a report's folder, aside and renamed.

    Args:
        folder: the report's folder.
        truth: G groups with their relevant items.
        past: histories of the groups.
        systems: lists of each system, one per group.
        user_ids: str[U], id of each user code of `truth`.
    """
    columns: dict[str, Any] = {
        c.USER_ID: pa.array([str(user_ids[u]) for u in truth.user], pa.string()),
        TIME: truth.time,
        RELEVANT: _csr(truth.offsets, truth.items),
        GRADES: _csr(truth.offsets, truth.grades),
        PAST: _csr(past.offsets, past.items),
    }
    for lists in systems:
        held = lists.items >= 0
        columns[PREFIX + lists.name] = _csr(offsets_of(held.sum(1)), lists.items[held])
    path = folder / FILE
    with atomic_file(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")
    return path


def read_lists(report: Path) -> SavedLists | None:
    """The lists kept beside a report's page; None where there are none."""
    folder = report if report.is_dir() else report.parent
    try:
        table = pq.read_table(folder / FILE).combine_chunks()
        users, user = np.unique(table[c.USER_ID].to_numpy().astype(str), return_inverse=True)
        offsets, items = _arrays(table[RELEVANT])
        past = PastItems(*_arrays(table[PAST]))
        grades = _arrays(table[GRADES])[1].astype(np.int8)
    except (OSError, pa.ArrowInvalid, KeyError):
        return None
    truth = Truth(offsets, items, grades, user.astype(np.int32), table[TIME].to_numpy())
    systems = {
        name.removeprefix(PREFIX): _listed(name.removeprefix(PREFIX), table[name])
        for name in table.column_names
        if name.startswith(PREFIX)
    }
    return SavedLists(users.astype(object), truth, past, systems)


def _csr(offsets: npt.NDArray[np.integer], values: npt.NDArray[Any]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def _arrays(column: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    offsets, values = list_column(column)
    return offsets, values.to_numpy().astype(np.int32)


def _listed(name: str, column: Any) -> RankedLists:
    """Scores were not kept: places stand for them, so that no tie is made up."""
    offsets, items = _arrays(column)
    sizes = np.diff(offsets)
    length = int(sizes.max(initial=1))
    held = np.arange(length)[None, :] < sizes[:, None]
    table = np.full(held.shape, PADDING, np.int32)
    table[held] = items
    scores = np.where(held, -np.arange(length, dtype=np.float32)[None, :], -np.inf)
    return RankedLists(name, table, scores.astype(np.float32))
