"""Attributes of users (or of items) that know what is going to be chosen (or by whom): they go with the late
events far better than with those before.

Measured by the lift of an event: how much more likely the item's kind is among users of that attribute, by
the other half of the users, than at large, in nats.

Shapes: E events, n entities.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from recsys.evaluation.data_leaks.leaky_columns import ITEMS, USERS, SuspectColumn
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, mean_and_error
from recsys.features.interactions import Bools, Longs
from recsys.features.on_disk import filled, stretches, taken

MOST_EVENTS: Final = 60_000
LATE: Final = (0.75, 0.85, 0.9)
"""Where the late events begin, as a share of the log; as many before them are the early ones."""
MORE, TIMES, SURE = 0.08, 1.35, 4.0
"""Nats by which the late lift exceeds the early one, how many times it is, and standard errors (sound
attributes: 0.05 nats, 1.25 times; measured)."""
BANDS: Final = 8
PRIOR: Final = 10.0
"""Events that pull a share towards the one at large."""
ENOUGH: Final = 500
"""Events of either time, at least."""


class Events(NamedTuple):
    """Events looked at, as the checks of a pair of columns read them."""

    user: Longs
    item: Longs
    at: Doubles
    """Place in the log, 0 to 1; events of one moment share it."""
    half_of_users: Bools
    """bool[U]"""
    half_of_items: Bools
    """bool[N]"""


class Shift(NamedTuple):
    """How much better an attribute goes with late events than with early ones."""

    column: SuspectColumn
    with_: str
    late: float
    early: float

    @property
    def in_words(self) -> str:
        return (
            f"it goes with {self.with_} of the events far better late in the log than before: lift "
            f"{self.late:.2f} against {self.early:.2f}"
        )


def shifts(
    log: LoggedData, users: Sequence[SuspectColumn], items: Sequence[SuspectColumn]
) -> Iterator[Shift]:
    """Attributes that know the late events; each once, by the pair that shows it best."""
    events = _events(log)
    own_users = [column for column in users if column.own]
    own_items = [column for column in items if column.own]
    suspects: set[str] = set()
    for column in own_users:
        others = [(c.name, c.codes(BANDS)[events.item]) for c in own_items]
        found = _strongest(events, column, [*others, ("the very item", events.item)])
        if found is not None:
            suspects.add(column.name)
            yield found
    trusted = [column for column in own_users if column.name not in suspects]
    for column in own_items:
        found = _strongest(events, column, [(c.name, c.codes(BANDS)[events.user]) for c in trusted])
        if found is not None:
            yield found


def _events(log: LoggedData) -> Events:
    events = log.events
    kept = filled(len(events), bool, lambda part: events.weight[part] > 0)
    if kept.sum() > MOST_EVENTS:
        drawn = log.chance_of_users("tastes") < MOST_EVENTS / kept.sum()
        for part in stretches(len(events)):
            kept[part] &= drawn[events.user[part]]
    at = np.searchsorted(events.time, taken(events.time, kept)) / max(len(events), 1)
    return Events(
        taken(events.user, kept).astype(np.int64),
        taken(events.item, kept).astype(np.int64),
        at,
        log.chance_of_users("halves") < 0.5,
        log.chance_of_items("halves") < 0.5,
    )


def _strongest(
    events: Events, column: SuspectColumn, others: Sequence[tuple[str, Longs]]
) -> Shift | None:
    owner = events.item if column.table == ITEMS else events.user
    mine = column.codes(BANDS)[owner]
    if len(np.unique(mine)) < 2:
        return None
    side = USERS if column.table == ITEMS else ITEMS
    found = [
        shift
        for name, theirs in others
        for begin in LATE
        if (shift := _shift(events, column, owner, mine, theirs, f"{name} ({side})", begin))
        is not None
    ]
    return max(found, key=lambda shift: shift.late - shift.early, default=None)


def _shift(
    events: Events,
    column: SuspectColumn,
    owner: Longs,
    mine: Longs,
    theirs: Longs,
    name: str,
    begin: float,
) -> Shift | None:
    """The lifts after and before a place in the log, of those who act in both; None for no leak."""
    late, early = events.at >= begin, (events.at < begin) & (events.at >= 2 * begin - 1)
    both = np.intersect1d(owner[late], owner[early])
    there = np.isin(owner, both)
    late, early = late & there, early & there
    if min(late.sum(), early.sum()) < ENOUGH:
        return None
    half = (events.half_of_items if column.table == ITEMS else events.half_of_users)[owner]
    (after, error), (before, uncertain) = (
        mean_and_error(_lift(mine[part], theirs[part], half[part]), owner[part])
        for part in (late, early)
    )
    more = after - max(before, 0.0)
    sure = more / max(float(np.hypot(error, uncertain)), 1e-9)
    if more < MORE or after < TIMES * before or sure < SURE:
        return None
    return Shift(column, name, after, before)


def _lift(mine: Longs, theirs: Longs, half: Bools) -> Doubles:
    """float64[e]: log of how much more often `theirs` is met with `mine` than at large, by the events
    of the other half."""
    out = np.zeros(len(mine))
    width = int(theirs.max(initial=0)) + 1
    for side in (False, True):
        taught, asked = half != side, half == side
        if not taught.any() or not asked.any():
            continue
        large = (np.bincount(theirs[taught], minlength=width) + 0.5) / (taught.sum() + 0.5 * width)
        pairs = _times(mine[taught] * width + theirs[taught], mine[asked] * width + theirs[asked])
        alone = _times(mine[taught], mine[asked])
        usual = large[theirs[asked]]
        out[asked] = np.log((pairs + PRIOR * usual) / (alone + PRIOR) / usual)
    return out


def _times(known: Longs, asked: Longs) -> Doubles:
    """float64[a]: how often each asked number is among the known ones."""
    values, counts = np.unique(known, return_counts=True)
    at = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    return np.where(values[at] == asked, counts[at], 0).astype(np.float64)
