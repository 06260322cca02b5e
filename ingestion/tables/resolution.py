"""What the times of a table can be trusted for: seconds, hours, days, or order alone.

Some published logs hold undated histories whose events were spread a fixed step apart, stepping
back from one common moment D: every user's last event up to D lies exactly at D, and the events
before it lie one step apart. Order within such a user is real, nothing else about time is.
"""

from typing import Literal, NamedTuple

import numpy as np

from recsys.features.interactions import (
    DAY,
    HOUR,
    Ints,
    Longs,
)

Kind = Literal["seconds", "hours", "days", "ordinal"]

SAMPLE_EVENTS = 500_000
"""Beyond this, every m-th user is looked at; the pattern is one of all users."""
MOMENTS = 5
"""Most crowded moments that are tried as the common end. Assumed."""
LEAST_MOMENTS = 3
"""Distinct times below which nothing can be said of their rounding."""
AGREEMENT = 0.9
"""Share of users that have to follow the pattern. Measured: 1.0 on spread histories."""
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
    """µs: the unit that times are rounded to, the step of ordinal histories; 0 for seconds."""


UNITS: dict[Kind, int] = {"seconds": 0, "hours": HOUR, "days": DAY}


def detect_resolution(user: Ints, time: Longs) -> Resolution:
    """Time resolution of E events: `user` int32[E] codes, `time` int64[E] µs; any order."""
    if len(time) == 0:
        return Resolution("seconds", None, "there are no events")
    user, time = _sample(np.asarray(user), np.asarray(time, np.int64))
    order = np.lexsort((time, user))
    user, time = user[order], time[order]
    until, step, share = _spread_until(user, time)
    if until is None:
        kind, why = _rounding(time)
        return Resolution(kind, None, why, UNITS[kind])
    spread = (
        f"{share:.1%} of the users with two or more events have them exactly {_say(step)} apart,"
        f" ending at {np.datetime64(until, 'us')}Z: order within a user is real, dates are not"
    )
    later = time[time > until]
    if len(later) == 0:
        return Resolution("ordinal", until, spread, step)
    kind, why = _rounding(later)
    return Resolution(kind, until, f"up to then {spread}; later {why}", UNITS[kind])


def _sample(user: Ints, time: Longs) -> tuple[Ints, Longs]:
    """All events of every m-th user, at most about `SAMPLE_EVENTS`."""
    if len(user) <= SAMPLE_EVENTS:
        return user, time
    every = -(-len(user) // SAMPLE_EVENTS)
    kept = user % every == 0
    return (user[kept], time[kept]) if kept.any() else (user, time)


def _spread_until(user: Ints, time: Longs) -> tuple[int | None, int, float]:
    """The common end D, the step (µs) and the share of users that agree; (None, 0, 0) if none.

    `user`, `time` sorted by user, then time. The latest moment that fits wins.
    """
    first_at_moment = np.ones(len(user), bool)
    first_at_moment[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    moments, users_there = np.unique(time[first_at_moment], return_counts=True)
    # Of equally crowded moments the later: where all histories are long, each of their steps is one.
    pooled = moments[np.lexsort((-moments, -users_there))[:MOMENTS]]
    for until in sorted((int(m) for m in pooled), reverse=True):
        step, share = _agreement(user, time, until)
        if share >= AGREEMENT:
            return until, step, share
    return None, 0, 0.0


def _agreement(user: Ints, time: Longs, until: int) -> tuple[int, float]:
    """Step (µs) and share of users following the pattern that ends at `until`."""
    upto = time <= until
    user, time = user[upto], time[upto]
    starts = np.flatnonzero(np.r_[True, user[1:] != user[:-1]])
    events = np.diff(np.r_[starts, len(user)])
    ends_there = time[starts + events - 1] == until
    several = events > 1
    if several.sum() < LEAST_USERS or ends_there.mean() < AGREEMENT:
        return 0, 0.0
    gaps = np.diff(time)
    inside = user[1:] == user[:-1]
    values, counts = np.unique(gaps[inside], return_counts=True)
    step = int(values[np.argmax(counts)])
    if step == 0:
        return 0, 0.0
    odd = np.zeros(len(user), np.int64)
    odd[1:] = inside & (gaps != step)
    exact = (np.add.reduceat(odd, starts) == 0) & ends_there
    return step, float(exact[several].mean())


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
