"""What is evaluated: the truth of each group, and each system's ranked lists.

Shapes: G groups, R relevant (group, item) pairs in all, K positions of a list, N items.
A group is one question put to every system: "what does this user want at this moment?". One user
may have several groups; the user is what the bootstrap resamples.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.features.draws import Doubles, least
from recsys.features.interactions import Floats, History, Ints, Longs
from recsys.features.ragged import Ragged, first_of_runs, offsets_of, offsets_of_owners

Grades = npt.NDArray[np.int8]

PADDING = -1
"""Item index at positions a short list does not fill."""
RELEVANT_FROM = 1
"""Least grade that counts as relevant; lower ones are kept but never count as hits."""


@dataclass(frozen=True)
class Truth(Ragged):
    """What the users of G groups did next: a user at a moment each.

    Group g's graded items are `items[offsets[g]:offsets[g + 1]]`, each at most once, with their
    `grades`; a grade below 1 is "seen, not relevant". `user` (int32[G]) is the cluster for the
    bootstrap, `time` (int64[G], µs UTC) the moment the list is asked for. Training calls the groups
    moments: what a ranker learns from and what it is tested on are of one make.

    Raises:
        RecsysError: lengths do not fit, or a group names an item twice.
    """

    offsets: Longs
    items: Ints
    grades: Grades
    user: Ints
    time: Longs
    group_columns: ClassVar = ("user", "time")
    row_columns: ClassVar = ("items", "grades")

    def __post_init__(self) -> None:
        groups = len(self)
        if groups < 0 or self.offsets[0] != 0 or (np.diff(self.offsets) < 0).any():
            raise _wrong("truth.offsets", "not a rising sequence from 0", "int64[G+1] from 0")
        _same("truth.items", len(self.items), int(self.offsets[-1]))
        _same("truth.grades", len(self.grades), len(self.items))
        _same("truth.user", len(self.user), groups)
        _same("truth.time", len(self.time), groups)
        if (self.items < 0).any():
            raise _wrong("truth.items", "a negative item index", "item indices from 0")
        keys = self.owner * _width(self.items) + self.items
        if len(np.unique(keys)) != len(keys):
            raise _wrong("truth.items", "an item twice in one group", "each item once per group")

    @property
    def n_groups(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        return len(np.unique(self.user))

    @property
    def group_of_item(self) -> Ints:
        """int32[R]: the group each graded item belongs to."""
        return self.owner.astype(np.int32)

    @classmethod
    def of(
        cls,
        group: npt.NDArray[np.integer],
        items: npt.NDArray[np.integer],
        grades: npt.NDArray[np.integer],
        user: npt.NDArray[np.integer],
        time: npt.NDArray[np.integer],
    ) -> "Truth":
        """From one row per graded item.

        An item named several times in a group keeps its highest grade.

        Args:
            group: int[R], the group of each row, an index into `user` and `time`.
            items: int[R], item indices.
            grades: int[R], relevance grades, 1 and above relevant.
            user: int[G], user of each group.
            time: int[G], moment of each group, µs UTC.
        """
        width = _width(items)
        order = np.lexsort((-grades.astype(np.int64), items, group))
        key = group[order].astype(np.int64) * width + items[order]
        kept = order[first_of_runs(key)]
        return cls(
            offsets_of_owners(group[kept], len(user)),
            items[kept].astype(np.int32),
            grades[kept].astype(np.int8),
            user.astype(np.int32),
            time.astype(np.int64),
        )

    def restricted(self, keep: npt.NDArray[np.bool_]) -> "Truth":
        """The same groups with only the graded items of `keep` (bool[R])."""
        _same("keep", len(keep), len(self.items))
        return self.keeping(keep)

    def sample(self, limit: int, chances: Doubles) -> "Truth":
        """The at most `limit` groups with the smallest chances (float64[G]), order kept."""
        return self if len(self) <= limit else self.take(least(chances, limit))


@dataclass(frozen=True)
class PastItems(Ragged):
    """Items each group's user had before."""

    offsets: Longs
    items: Ints
    row_columns: ClassVar = ("items",)

    def contains(self, group: Longs, item: Ints) -> npt.NDArray[np.bool_]:
        """bool[n]: whether each (group, item) is among them; groups of -1 hold nothing."""
        found: npt.NDArray[np.bool_] = np.isin(
            group.astype(np.int64) << 32 | item, self.owner << 32 | self.items
        )
        return found

    @classmethod
    def of(cls, histories: Iterable[History]) -> "PastItems":
        """From what each group's user had done before."""
        items = [np.unique(history.item) for history in histories]
        flat = np.concatenate(items) if items else np.empty(0)
        return cls(offsets_of([len(i) for i in items]), flat.astype(np.int32))


@dataclass(frozen=True)
class RankedLists:
    """One system's lists: `items` int32[G, K] best first, -1 padding at the end; `scores`
    float32[G, K], ignored at padding. The order of the list is the ranking; scores only tell
    ties (equal neighbours) and calibration.

    Raises:
        RecsysError: shapes differ, or a list has an item after padding.
    """

    name: str
    items: Ints
    scores: Floats

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or self.items.shape != self.scores.shape:
            raise _wrong(
                f"lists '{self.name}'",
                f"items {self.items.shape}, scores {self.scores.shape}",
                "both [groups, positions]",
            )
        held = self.items >= 0
        if (held[:, 1:] & ~held[:, :-1]).any():
            raise _wrong(f"lists '{self.name}'", "an item after padding", "padding at the end")

    @property
    def n_groups(self) -> int:
        return len(self.items)

    @property
    def length(self) -> int:
        return int(self.items.shape[1])

    @classmethod
    def of(
        cls, name: str, lists: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], length: int
    ) -> "RankedLists":
        """From G pairs (items, scores) of any lengths, cut or padded to `length`."""
        items = np.full((len(lists), length), PADDING, np.int32)
        scores = np.full((len(lists), length), -np.inf, np.float32)
        for row, (found, score) in enumerate(lists):
            head = np.asarray(found, np.int32)[:length]
            items[row, : len(head)] = head
            scores[row, : len(head)] = np.asarray(score, np.float32)[:length]
        return cls(name, items, scores)


OwnMetric = Callable[[RankedLists, Truth], npt.ArrayLike]
"""A metric of a user's own: a value for each list, float[G], NaN where it has no meaning."""


def check_groups(truth: Truth, lists: RankedLists) -> None:
    """Raise RecsysError unless there is one list per group."""
    _same(f"lists '{lists.name}' (groups)", lists.n_groups, truth.n_groups)


def _width(items: npt.NDArray[np.integer]) -> int:
    return int(items.max()) + 1 if len(items) else 1


def _same(label: str, found: int, expected: int) -> None:
    if found != expected:
        raise _wrong(label, f"length {found}", f"length {expected}")


def _wrong(label: str, found: object, expected: object) -> RecsysError:
    return UsageError(
        "the evaluation's arrays do not fit together", where=label, found=found, expected=expected
    )
