"""Events as arrays, and a user's history as the models see it.

Shapes: E events, U users, h events of one history, N items of the vocabulary.
All times are int64 microseconds since 1970-01-01 UTC.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.compiled import compiled
from recsys.features.on_disk import CHUNK, empty, taken
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import Ragged, offsets_of_owners

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR


class History(NamedTuple):
    """One user's events strictly before a moment, oldest first; all arrays have length h."""

    item: Ints
    """Index in the item vocabulary."""
    kind: npt.NDArray[np.int16]
    """Code of the event type."""
    time: Longs
    weight: Floats
    """Collaborative weight; negative for a dislike."""
    grade: npt.NDArray[np.int8]
    """Label grade; -1 dislike, 0 neutral, 1.. positive."""

    def before(self, now: int) -> "History":
        """The part strictly before `now`."""
        end = np.searchsorted(self.time, now, "left")
        return self.each(lambda column: column[:end])

    def last(self, n: int) -> "History":
        """The latest n events."""
        return self.each(lambda column: column[-n:]) if n else EMPTY_HISTORY

    def each(self, change: Callable[[Any], Any]) -> "History":
        """The same change made to every column."""
        return History(*map(change, self))

    def joined(self, later: "History") -> "History":
        """Both histories' events, those of `later` behind."""
        pairs: Any = zip(self, later, strict=True)
        return History(*map(np.concatenate, pairs))


EMPTY_HISTORY = History(
    np.empty(0, np.int32),
    np.empty(0, np.int16),
    np.empty(0, np.int64),
    np.empty(0, np.float32),
    np.empty(0, np.int8),
)


@dataclass(frozen=True)
class Interactions:
    """E accepted events in canonical order (time, then position), as codes.

    `user` indexes `user_ids`; `item` indexes the workspace's item vocabulary of `n_items`.
    """

    user: Ints
    item: Ints
    kind: npt.NDArray[np.int16]
    time: Longs
    value: Floats
    weight: Floats
    grade: npt.NDArray[np.int8]
    position: Longs
    user_ids: PackedStrings
    """Of the U users; an array of strings that is given is packed."""
    kinds: tuple[str, ...]
    n_items: int
    ordered: bool = False
    """Whether they are known to stand in the order of time, so that an early part is a view."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "user_ids", PackedStrings.of(self.user_ids))

    def __len__(self) -> int:
        return len(self.item)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    def where(self, mask: npt.NDArray[Any]) -> "Interactions":
        """The events of a mask (bool[E]), or at given places; vocabularies are kept."""
        columns: dict[str, Any] = {name: taken(getattr(self, name), mask) for name in EVENT_COLUMNS}
        return replace(self, **columns, ordered=self.ordered and mask.dtype == np.bool_)

    def before(self, now: int) -> "Interactions":
        """Events strictly before `now`."""
        if not self.ordered:
            return self.where(self.time < now)
        end = int(np.searchsorted(self.time, now))
        return replace(self, **{name: getattr(self, name)[:end] for name in EVENT_COLUMNS})

    def by_user(self) -> Longs:
        """int64[E]: places of the events by user, each user's in the order they stand in."""
        return places_by_owner(self.user, offsets_of_owners(self.user, self.n_users))

    def histories(self) -> "Histories":
        """All users' histories as one CSR table, made once."""
        return self._histories

    @cached_property
    def _histories(self) -> "Histories":
        offsets = offsets_of_owners(self.user, self.n_users)
        order = places_by_owner(self.user, offsets)
        return Histories(
            offsets,
            History(self.item, self.kind, self.time, self.weight, self.grade).each(
                lambda column: taken(column, order)
            ),
        )


EVENT_COLUMNS: Final = ("user", "item", "kind", "time", "value", "weight", "grade", "position")
"""Arrays of `Interactions`, a value for each event."""


def places_by_owner(owner: npt.NDArray[np.integer], offsets: Longs) -> Longs:
    """int64[n]: places of n rows by their owner, each owner's in the order they stand in.

    Args:
        owner: int[n], from 0.
        offsets: int64[owners+1], `offsets_of_owners` of them.

    >>> places_by_owner(np.array([1, 0, 1]), np.array([0, 1, 3])).tolist()
    [1, 0, 2]
    """
    places = empty(len(owner), np.int64)
    _place_by_owner(np.asarray(owner), offsets[:-1].copy(), places)
    return places


@compiled
def _place_by_owner(owner: Any, following: Longs, places: Longs) -> None:
    for row in range(len(owner)):
        places[following[owner[row]]] = row
        following[owner[row]] += 1


@dataclass(frozen=True)
class Histories(Ragged):
    """Histories of U users: user u's events are rows offsets[u]:offsets[u+1]."""

    offsets: Longs
    events: History

    row_columns: ClassVar = ("events",)

    def stretches(self, rows: int = CHUNK) -> Iterator[slice]:
        """Users, as many at a time as have some `rows` events together, or one who has more."""
        first = 0
        while first < len(self):
            most = np.searchsorted(self.offsets, self.offsets[first] + rows, "right") - 1
            until = min(max(int(most), first + 1), len(self))
            yield slice(first, until)
            first = until

    def of(self, user: int) -> History:
        """One user's whole history; a negative user is unknown and has none."""
        if user < 0:
            return EMPTY_HISTORY
        low, high = self.offsets[user], self.offsets[user + 1]
        return self.events.each(lambda column: column[low:high])
