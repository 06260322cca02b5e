"""Attributes of users that are the kind of item they are going to choose most.

Nobody's attribute is, for nine users in ten, exactly the commonest kind among what they chose late, where
that is not what they chose before.

Shapes: U users, C kinds.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from recsys.evaluation.data_leaks.leaky_columns import SuspectColumn
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles
from recsys.features.interactions import Longs
from recsys.features.on_disk import filled, taken

MOST_KINDS: Final = 300
LEAST: Final = 3
"""Late events of a user, at least."""
ENOUGH: Final = 40
"""Users with a late favourite that they did not have before."""
EXACT: Final = 0.9
"""Share of them whose attribute it is (an honest one: up to 0.7; generated logs, measured)."""
COMMON: Final = 0.7
"""Share of the commonest favourite among them, at most: else an attribute that says it says nothing."""
STRETCHES: Final = (0.3, 0.25, 0.2, 0.15, 0.1)


def foretold_favourites(
    log: LoggedData, users: Sequence[SuspectColumn], items: Sequence[SuspectColumn]
) -> list[tuple[SuspectColumn, str]]:
    """(attribute of users, what it knows in words)."""
    attributes = [column for column in users if column.own and column.named]
    kinds = [column for column in items if column.own and column.named]
    asked = log.users_looked_at
    found = []
    for kind in kinds:
        codes = kind.codes(MOST_KINDS)
        if not attributes or codes.max(initial=0) > MOST_KINDS:
            continue
        tallies = list(_tallies(log, asked, codes))
        for column in attributes:
            how = _foretold(column.codes(MOST_KINDS)[asked], tallies)
            if how is not None:
                found.append((column, f"it is the {kind.name} that {how}"))
    return found


def _tallies(
    log: LoggedData, asked: Longs, codes: Longs
) -> Iterator[tuple[float, Doubles, Doubles]]:
    """(share of the log, events by user and kind in that last stretch, the same before): of the positive
    events, then of all."""
    events, width = log.events, int(codes.max()) + 1
    place = np.full(events.n_users, -1, np.int32)
    place[asked] = np.arange(len(asked))
    theirs = filled(
        len(events),
        bool,
        lambda part: (place[events.user[part]] >= 0) & (codes[events.item[part]] > 0),
    )
    user, item = taken(events.user, theirs), taken(events.item, theirs)
    key, slice_ = place[user] * np.int64(width) + codes[item], taken(log.slice_of, theirs)
    for only in (taken(log.positive, theirs), np.ones(len(key), bool)):
        for share in STRETCHES:
            after = slice_ >= round((1 - share) * log.slices)
            late, early = (
                np.bincount(key[side & only], minlength=len(asked) * width)
                .reshape(-1, width)
                .astype(np.float64)
                for side in (after, ~after)
            )
            yield share, late, early


def _foretold(attribute: Longs, tallies: Sequence[tuple[float, Doubles, Doubles]]) -> str | None:
    """Of which stretch the attribute is the favourite kind, in words."""
    best = EXACT, ""
    for share, late, early in tallies:
        for favourite, when in (
            (late, f"in the last {share:.0%} of the log"),
            (late + early, "of all time"),
        ):
            told = (attribute > 0) & (late.sum(axis=1) >= LEAST)
            now, before = favourite.argmax(axis=1), early.argmax(axis=1)
            told &= (early.sum(axis=1) == 0) | (
                early[np.arange(len(early)), now] < early.max(axis=1)
            )
            told &= (now != before) | (early.sum(axis=1) == 0)
            if told.sum() < ENOUGH or np.bincount(now[told]).max() > COMMON * told.sum():
                continue
            share_met = _met(attribute[told], favourite[told])
            best = max(
                best, (share_met, f"{share_met:.0%} of {told.sum():,} users choose most {when}")
            )
    return best[1] or None


def _met(attribute: Longs, favourite: Doubles) -> float:
    """Share of users whose attribute stands for a kind of which they have no fewer events than of any
    other. A value stands for the kind most often the favourite of the other users who have it."""
    top = favourite == favourite.max(axis=1, keepdims=True)
    values, place = np.unique(attribute, return_inverse=True)
    votes = np.zeros((len(values), favourite.shape[1]))
    np.add.at(votes, place, top.astype(np.float64))
    others = votes[place] - top
    meant = others.argmax(axis=1)
    sure = others.max(axis=1) > 0
    return float((top[np.arange(len(top)), meant] & sure).mean())
