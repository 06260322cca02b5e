"""What the times of a table can be trusted for: seconds, hours, days, or order alone.

Some published logs hold undated histories whose events were spread a fixed step apart, stepping
back from one common moment D: every user's last event up to D lies exactly at D, and the events
before it lie one step apart. Order within such a user is real, nothing else about time is. Such a log
stays what it is when some of it is lost, or when some events with dates of their own come in.
"""

from typing import Literal, NamedTuple

import numpy as np

from recsys.features.interactions import (
    DAY,
    HOUR,
    Ints,
    Longs,
)
from recsys.features.ragged import first_of_runs

Kind = Literal["seconds", "hours", "days", "ordinal"]

SAMPLE_EVENTS = 500_000
"""Beyond this, every m-th user is looked at; the pattern is one of all users."""
MOMENTS = 5
"""Busiest moments that are tried as the common end. Assumed."""
LEAST_MOMENTS = 3
"""Distinct times below which nothing can be said of their rounding."""
AGREEMENT = 0.9
"""Share of users that have to follow the pattern. Measured: 1.0 on spread histories."""
LONG = 8
"""Moments of the step from which a pattern with exceptions counts too: over so many it is no accident
that most people end together and go in single steps (assumed)."""
ENDS, STEPS, TWICE = 0.75, 0.5, 0.1
"""With exceptions: least share of users who end at D, least share of one person's steps that are exactly
one, largest share that is none, two events at one moment (assumed). Measured on spread histories of which
a tenth (a fifth) is removed or moved: 0.9 (0.8), 0.8 (0.6) or more, 0.0; on dated days over weeks: 0.3, 0.2, 0.1 and more."""
LEAST_USERS = 20
"""Users with two or more events that have to follow it; fewer could be chance. Assumed."""
ROUNDED = 0.99
"""Share of events on the same residual for a table to count as rounded. Assumed."""


class Resolution(NamedTuple):
    """Time resolution of a table of events."""

    kind: Kind
    ordinal_until: int | None
    """µs; events up to and including this moment have an order within their user and no date."""
    why: str
    step: int = 0
    """µs: the unit that times are rounded to, the step of wholly ordinal histories; 0 for seconds."""
    ordinal_step: int = 0
    """µs: the step of the histories up to `ordinal_until`; 0 without."""


UNITS: dict[Kind, int] = {"seconds": 0, "hours": HOUR, "days": DAY}


def detect_resolution(user: Ints, time: Longs, every: int | None = None) -> Resolution:
    """Time resolution of E events: `user` int32[E] codes, `time` int64[E] µs; any order.

    Of more than `SAMPLE_EVENTS` those of every m-th user are looked at; `every` is m where they are
    all that is given.
    """
    if len(time) == 0:
        return Resolution("seconds", None, "there are no events")
    user, time = np.asarray(user), np.asarray(time, np.int64)
    if every is None:
        user, time = _sample(user, time)
    order = np.lexsort((time, user))
    user, time = user[order], time[order]
    spread = _spread_until(user, time)
    if spread is None:
        kind, why = _rounding(time)
        return Resolution(kind, None, why, UNITS[kind])
    later = time[time > spread.until]
    if len(later) == 0:
        return Resolution("ordinal", spread.until, spread.why, spread.step, spread.step)
    kind, why = _rounding(later)
    said = f"up to then {spread.why}; later {why}"
    return Resolution(kind, spread.until, said, UNITS[kind], spread.step)


class Spread(NamedTuple):
    """Undated histories, a fixed step apart, that end together."""

    until: int
    """The common end, µs."""
    step: int
    """µs."""
    why: str


def sampled_users(events: int) -> int:
    """Every how-manyth user is looked at among so many events.

    >>> sampled_users(400_000), sampled_users(1_200_000)
    (1, 3)
    """
    return max(1, -(-events // SAMPLE_EVENTS))


def _sample(user: Ints, time: Longs) -> tuple[Ints, Longs]:
    """All events of every m-th user, at most about `SAMPLE_EVENTS`."""
    every = sampled_users(len(user))
    if every == 1:
        return user, time
    kept = user % every == 0
    return (user[kept], time[kept]) if kept.any() else (user, time)


def _spread_until(user: Ints, time: Longs) -> Spread | None:
    """The pattern that E events follow; None if none.

    `user`, `time` sorted by user, then time. The latest moment that fits wins.
    """
    moments, users_there = np.unique(time[first_of_runs(user, time)], return_counts=True)
    # Of equally busy moments the later: where all histories are long, each of their steps is one.
    busiest = moments[np.lexsort((-moments, -users_there))[:MOMENTS]]
    for until in sorted((int(m) for m in busiest), reverse=True):
        found = _spread_at(user, time, until)
        if found is not None:
            return found
    return None


def _spread_at(user: Ints, time: Longs, until: int) -> Spread | None:
    """The pattern that ends at `until`, where enough users follow it."""
    upto = time <= until
    user, time = user[upto], time[upto]
    starts = np.flatnonzero(first_of_runs(user))
    events = np.diff(np.r_[starts, len(user)])
    ends_there = time[starts + events - 1] == until
    several, ends = events > 1, float(ends_there.mean())
    if several.sum() < LEAST_USERS or ends < ENDS:
        return None
    inside = user[1:] == user[:-1]
    gaps = np.diff(time)[inside]
    values, counts = np.unique(gaps, return_counts=True)
    step = int(values[np.argmax(counts)])
    if step == 0:
        return None
    odd = np.zeros(len(user), np.int64)
    odd[1:][inside] = gaps != step
    exact = float(((np.add.reduceat(odd, starts) == 0) & ends_there)[several].mean())
    end = f"{np.datetime64(until, 'us')}Z: order within a user is real, dates are not"
    if ends >= AGREEMENT and exact >= AGREEMENT:
        of_users = f"{exact:.1%} of the users with two or more events have them"
        return Spread(until, step, f"{of_users} exactly {_say(step)} apart, ending at {end}")
    steps, long = float((gaps == step).mean()), (until - int(time.min())) // step + 1 >= LONG
    if not long or steps < STEPS or (gaps == 0).mean() > TWICE:
        return None
    of_steps = f"{steps:.1%} of the steps between a user's events are exactly {_say(step)}"
    return Spread(until, step, f"{of_steps}, and {ends:.1%} of the users end at {end}")


def _rounding(time: Longs) -> tuple[Kind, str]:
    """Kind of a dated table from the residuals of its times."""
    several = len(np.unique(time)) >= LEAST_MOMENTS
    units: tuple[tuple[int, Kind], ...] = ((DAY, "days"), (HOUR, "hours"))
    for unit, kind in units:
        share = _commonest_residuals(time, unit)
        if several and share >= ROUNDED:
            return kind, (f"{share:.1%} of the events lie at the same moment of their {kind[:-1]}")
    return "seconds", "events lie at their own seconds"


def _commonest_residuals(time: Longs, unit: int) -> float:
    """Share of events on the two commonest residuals (two: a zone with summer time)."""
    _, counts = np.unique(time % unit, return_counts=True)
    return float(np.sort(counts)[-2:].sum() / len(time))


def _say(step: int) -> str:
    named: tuple[tuple[int, str], ...] = ((DAY, "day"), (HOUR, "hour"))
    for unit, noun in named:
        if step % unit == 0:
            return f"{step // unit} {noun}{'s' if step != unit else ''}"
    return f"{step / 1_000_000:g} seconds"
