"""Lists kept beside a report come back as they were, with people named by their ids."""

from pathlib import Path

import numpy as np

from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.saved_lists import read_lists, write_lists


def test_lists_come_back_as_they_were(tmp_path: Path) -> None:
    truth = Truth.of(
        np.array([0, 0, 2]), np.array([5, 3, 7]), np.array([1, 2, 3]), np.array([1, 0, 1]),
        np.array([10, 20, 30]),
    )  # fmt: skip
    past = PastItems(np.array([0, 1, 1, 3]), np.array([9, 8, 4], np.int32))
    lists = RankedLists.of("recsys", [([3, 1], [2.0, 1.0]), ([], []), ([7], [0.5])], 3)
    write_lists(tmp_path, truth, past, [lists], np.array(["anna", "ben"], object))
    kept = read_lists(tmp_path / "report.html")
    assert kept is not None
    assert kept.keys() == [("ben", 10), ("anna", 20), ("ben", 30)]
    assert kept.truth.offsets.tolist() == truth.offsets.tolist()
    assert kept.truth.items.tolist() == truth.items.tolist()
    assert kept.truth.grades.tolist() == truth.grades.tolist()
    assert kept.past.items.tolist() == [9, 8, 4]
    assert kept.systems["recsys"].items.tolist() == [[3, 1], [-1, -1], [7, -1]]
    part = kept.take(np.array([2, 0]))
    assert part.keys() == [("ben", 30), ("ben", 10)]
    assert part.truth.items.tolist() == [7, 3, 5]
    assert part.past.items.tolist() == [8, 4, 9]
    assert part.systems["recsys"].items.tolist() == [[7, -1], [3, 1]]


def test_a_report_without_lists_has_none(tmp_path: Path) -> None:
    assert read_lists(tmp_path / "gone" / "report.html") is None
    (tmp_path / "lists.parquet").write_bytes(b"no parquet")
    assert read_lists(tmp_path) is None
