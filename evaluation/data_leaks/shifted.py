"""Positive events that are dated too early (or too late): what comes would be known before.

Three signs: events dated before the list that they answer; positive events that no longer alternate with
the others of their user; a beginning or an end of the log where there are only the ones or only the others.

Shapes: E events.
"""

from typing import Final

import numpy as np

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import NEVER, LoggedData
from recsys.evaluation.data_leaks.numbers import owners_of, slices_of
from recsys.evaluation.report_context import REFUSE
from recsys.features.interactions import SECOND, Bools
from recsys.features.on_disk import stretches

NAME: Final = "positive events are dated as the others are"
SKEW: Final = 60 * SECOND
"""Clocks of two machines may differ by so much (assumed)."""
BEFORE_SHOWN: Final = 0.02
"""Share of the events that name a list and are dated before it."""
SLICES: Final = 10
APART: Final = 0.3
"""Changes between positive and other events of a user, against those by chance, under which the two lie
apart (sound logs: from 0.8; measured)."""
FALLEN: Final = 0.7
"""The same against the log's other slices."""
PEOPLE: Final = 8
"""Users in a slice, at least."""
ENOUGH: Final = 200
"""Changes by chance in a slice, at least."""
ALONE: Final = 50
"""Events at an end of the log, of at least FEW users, that are all of one grade."""
FEW: Final = 5
CHANCE: Final = 1e-9
"""Probability of such an end under which it is none."""


def shifted_positives(log: LoggedData) -> list[Finding]:
    """Every sign that events, or the positive ones, were moved in time."""
    if not log.dated:
        return [Finding.passed(NAME, "times carry order only")]
    some = log.of_some_users
    signs = [_before_shown(some)]
    if log.graded:
        signs += [_apart(some), _ends(log)]
    found = [Finding.failed(NAME, sign, REFUSE) for sign in signs if sign is not None]
    return found or [Finding.passed(NAME, f"{len(some.events):,} events")]


def _before_shown(log: LoggedData) -> str | None:
    """Events that are dated before the list they name was shown, in words; those of no grade too."""
    if log.listed_at is None:
        return None
    named = log.listed_at != NEVER
    early = log.events.time[named] < log.listed_at[named] - SKEW
    if named.sum() < ENOUGH or early.mean() < BEFORE_SHOWN:
        return None
    return f"{early.mean():.0%} of {len(early):,} events are dated before the list that they name was shown"


def _apart(log: LoggedData) -> str | None:
    """Slices in which the positive and the other events of the users lie apart, in words."""
    events = log.events
    order = np.argsort(events.user, kind="stable")
    user, label = events.user[order], log.positive[order]
    part = slices_of(events.time, SLICES)[order]
    same = (user[1:] == user[:-1]) & (part[1:] == part[:-1])
    run = np.unique(user.astype(np.int64) * SLICES + part, return_inverse=True)[1]
    share = np.bincount(run, label) / np.bincount(run)
    expected = (2 * share * (1 - share))[run][1:]
    changes = (label[1:] != label[:-1]) & same
    by_chance = np.bincount(part[1:][same], expected[same], SLICES)
    seen = np.bincount(part[1:][same], changes[same].astype(np.float64), SLICES)
    told = (by_chance >= ENOUGH) & (owners_of(user, part, SLICES) >= PEOPLE)
    if not told.any():
        return None
    ratio = seen[told] / by_chance[told]
    if seen[told].sum() < APART * by_chance[told].sum():
        return _in_words(float(seen[told].sum() / by_chance[told].sum()), "all along the log")
    low = ratio < FALLEN * np.median(ratio)
    if told.sum() >= 5 and low.any() and (low.sum() > 1 or ratio.min() < 0.5 * np.median(ratio)):
        places = np.flatnonzero(told)[low]
        where = f"between {places[0] / SLICES:.0%} and {(places[-1] + 1) / SLICES:.0%} of the log"
        return _in_words(float(ratio.min()), f"{where}, elsewhere {np.median(ratio):.2f} times")
    return None


def _in_words(ratio: float, where: str) -> str:
    return (
        f"positive and other events of a user change places {ratio:.2f} times as often as by chance {where}: "
        "were the positive ones dated anew?"
    )


def _ends(log: LoggedData) -> str | None:
    """An end of the log without positive events, or without others, in words."""
    share = float(log.positive.mean())
    for name, label, user in (
        ("first", log.positive, log.events.user),
        ("last", log.positive[::-1], log.events.user[::-1]),
    ):
        length = _run(label)
        chance = (share if label[0] else 1 - share) ** length
        if length >= ALONE and chance < CHANCE and len(np.unique(user[:length])) >= FEW:
            which = "positive" if label[0] else "not positive"
            return (
                f"the {name} {length:,} events of the log are all {which}; {share:.0%} of all are"
            )
    return None


def _run(label: Bools) -> int:
    """Events from the beginning that are all graded alike."""
    for part in stretches(len(label)):
        other = label[part] != label[0]
        if other.any():
            return int(part.start + other.argmax())
    return len(label)
