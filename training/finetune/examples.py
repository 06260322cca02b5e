"""What the encoder learns from: (history as of t, the item acted on at t), never later than asked.

Shapes: E events, Q examples (queries), B examples of a step, N history places.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_schemas.errors import DataRefused
from features.interactions import Floats, Histories, Interactions, Longs
from recsys.encoder.tower import age_place, grade_place

USER_CAP = 100
"""Examples of one user at most, the latest (assumed): the busiest few must not dominate."""
VALIDATION_SHARE = 0.1
"""Users whose examples are kept for validation."""
VALIDATION_USERS = 400
"""Validation users at most: each costs encoding its history at every validation."""
VALIDATION_EXAMPLES = 600
"""Examples of the validation users wanted; with few users, several of the last of each count."""
EXAMPLES_OF_ONE = 20
"""Validation examples of one user at most."""


class Batch(NamedTuple):
    """B examples, histories padded on the left with item -1; oldest first, most recent last."""

    item: npt.NDArray[np.int64]
    """[B, N]"""
    kind: npt.NDArray[np.int64]
    grade: npt.NDArray[np.int64]
    """[B, N]: place in the grade tables."""
    age: npt.NDArray[np.int64]
    """[B, N]: place in the age table."""
    weight: Floats
    """[B, N]: log(1 + collaborative weight)."""
    target: npt.NDArray[np.int64]
    """[B]"""
    strength: Floats
    """[B]: weight of the example in the loss."""


@dataclass(frozen=True)
class Examples:
    """All examples of a fit: rows of a histories table that are positive and have a past."""

    histories: Histories
    row: Longs
    """[Q]: the event's row in the table."""
    start: Longs
    """[Q]: first row of its history; row `end` is its first event not before t."""
    end: Longs
    places: int
    n_kinds: int
    n_items: int

    def __len__(self) -> int:
        return len(self.row)

    @property
    def target(self) -> npt.NDArray[np.int32]:
        """Item acted on, [Q]."""
        return self.histories.events.item[self.row]

    def take(self, which: npt.NDArray[np.integer]) -> "Examples":
        """Some of the examples."""
        return Examples(
            self.histories,
            self.row[which],
            self.start[which],
            self.end[which],
            self.places,
            self.n_kinds,
            self.n_items,
        )

    def batch(self, which: npt.NDArray[np.integer]) -> Batch:
        """The arrays of B examples."""
        events = self.histories.events
        end, row = self.end[which][:, None], self.row[which]
        place = end - np.arange(self.places, 0, -1)[None, :]
        there = place >= self.start[which][:, None]
        place = np.where(there, place, 0)
        now = np.broadcast_to(events.time[row][:, None], place.shape)
        kind = events.kind[place].astype(np.int64)
        kind = np.where((kind >= 0) & (kind < self.n_kinds), kind, self.n_kinds)
        weight = np.log1p(np.maximum(events.weight[place], np.float32(0.0)))
        return Batch(
            np.where(there, events.item[place].astype(np.int64), -1),
            kind,
            grade_place(events.grade[place]),
            _ages(now, events.time[place]),
            weight.astype(np.float32),
            events.item[row].astype(np.int64),
            np.sqrt(np.maximum(events.grade[row], 1)).astype(np.float32),
        )


def _ages(now: Longs, time: Longs) -> npt.NDArray[np.int64]:
    return age_place(0, time - now)


class Split(NamedTuple):
    """Examples to learn from, and the last examples of the validation users."""

    train: Examples
    valid: Examples

    @property
    def items(self) -> npt.NDArray[np.int64]:
        """All items that an example names, ascending."""
        return np.unique(self.train.histories.events.item).astype(np.int64)


def make_examples(interactions: Interactions, *, fit_until: int, places: int, seed: int) -> Split:
    """Examples of events up to `fit_until`; validation users are kept apart wholly.

    An example is an event with a positive grade by a user who acted on something before: its
    history is strictly before it.

    Raises:
        DataRefused: an event lies after fit_until (a leak), or fewer than 50 examples remain.
    """
    if len(interactions) and int(interactions.time.max()) > fit_until:
        raise DataRefused(
            "events after the end of the encoder's window were given to its fit",
            where="encoder fit",
            found=f"{int((interactions.time > fit_until).sum())} events after {fit_until} µs",
            expected="events up to fit_until only",
            fix="cut the interactions before fitting",
        )
    histories = interactions.histories()
    events, offsets = histories.events, histories.offsets
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    row = np.arange(len(events.item), dtype=np.int64)
    start = offsets[owner]
    # The first row of the same user and time: ties are not part of the history.
    fresh = np.ones(len(row), bool)
    if len(row) > 1:
        fresh[1:] = (owner[1:] != owner[:-1]) | (events.time[1:] != events.time[:-1])
    end = np.maximum.accumulate(np.where(fresh, row, 0))
    latest = offsets[owner + 1] - row <= USER_CAP
    keep = (events.grade > 0) & (end > start) & latest
    if keep.sum() < 50:
        raise DataRefused(
            "there is too little behaviour to tune the encoder on",
            where="events up to fit_until",
            found=f"{int(keep.sum())} positive events of users with an earlier event",
            expected="at least 50",
            fix="give more events, or set encoder.fine_tune: false",
        )
    every = Examples(
        histories,
        row[keep],
        start[keep],
        end[keep],
        places,
        len(interactions.kinds),
        interactions.n_items,
    )
    return _split(every, owner[keep], seed)


def _split(every: Examples, owner: npt.NDArray[np.int64], seed: int) -> Split:
    """Put some users aside; their last examples validate, and none of theirs is trained on."""
    rng = np.random.default_rng([seed, 1])
    users = np.unique(owner)
    count = min(VALIDATION_USERS, max(20, int(VALIDATION_SHARE * len(users))), len(users) // 2)
    held = np.isin(owner, rng.choice(users, max(1, count), replace=False))
    places = np.flatnonzero(held)
    each = min(EXAMPLES_OF_ONE, -(-VALIDATION_EXAMPLES // max(1, count)))
    # Place of an example among its user's, counted from the last.
    ends = np.searchsorted(owner[places], owner[places], "right")
    last = places[ends - np.arange(len(places)) <= each]
    if held.all():
        return Split(every, every.take(last))
    return Split(every.take(np.flatnonzero(~held)), every.take(last))
