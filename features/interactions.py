"""Events as arrays, and a user's history as the models see it.

Shapes: E events, U users, h events of one history, N items of the vocabulary.
All times are int64 microseconds since 1970-01-01 UTC.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    user_ids: npt.NDArray[np.object_]
    kinds: tuple[str, ...]
    n_items: int

    def __len__(self) -> int:
        return len(self.item)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    def where(self, mask: Bools) -> "Interactions":
        """The events of a mask (bool[E]); vocabularies are kept."""
        columns = ("user", "item", "kind", "time", "value", "weight", "grade", "position")
        return replace(self, **{name: getattr(self, name)[mask] for name in columns})

    def before(self, now: int) -> "Interactions":
        """Events strictly before `now`."""
        return self.where(self.time < now)

    def histories(self) -> "Histories":
        """All users' histories as one CSR table."""
        order = np.argsort(self.user, kind="stable")
        return Histories(
            offsets_of_owners(self.user, self.n_users),
            History(self.item, self.kind, self.time, self.weight, self.grade).each(
                lambda column: column[order]
            ),
        )


@dataclass(frozen=True)
class Histories(Ragged):
    """Histories of U users: user u's events are rows offsets[u]:offsets[u+1]."""

    offsets: Longs
    events: History

    def of(self, user: int) -> History:
        """One user's whole history; a negative user is unknown and has none."""
        if user < 0:
            return EMPTY_HISTORY
        low, high = self.offsets[user], self.offsets[user + 1]
        return self.events.each(lambda column: column[low:high])
