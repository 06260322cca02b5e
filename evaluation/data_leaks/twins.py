"""Accounts that are one another's copies: what one did earlier tells what the other is going to do.

Shapes: U users, N items.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.report_context import REFUSE, WARN
from recsys.features.interactions import EMPTY_HISTORY, Histories, Longs, places_by_owner
from recsys.features.on_disk import empty, taken
from recsys.features.ragged import offsets_of, offsets_of_owners

NAME: Final = "no account is another's copy"
MOST_USERS: Final = 1000
LEAST: Final = 5
"""Distinct items of a history below which a copy may be chance."""
RARE: Final = 20
"""Items of a history, the least popular, by which a copy is looked for."""
POPULAR: Final = 500
"""Users of an item from which it tells no copy."""
ALIKE: Final = 0.8
"""Shared items over all items of two histories (Jaccard) from which they are one (films: the likest of 613
users came to 0.77, who all began with the same few films; measured)."""
MANY, SOME = 0.02, 0.005
"""Share of the users with a copy that refuses, and that is warned of (sound logs: up to 0.004; measured)."""
FEW: Final = 5
"""Users with a copy below which nothing is said."""


class ItemHistories(NamedTuple):
    """Distinct items of users."""

    items: Any
    """U × N, 1 where a user acted on an item."""
    sizes: Longs
    popularity: Longs


def copied_accounts(log: LoggedData) -> list[Finding]:
    """How many users have a copy, and how much of what they did last the copy had done before."""
    histories = _histories(log)
    asked = log.users_among(histories.sizes >= LEAST, MOST_USERS, "copies")
    if not len(asked):
        return [Finding.passed(NAME, f"nobody acted on {LEAST} items")]
    user, other = _copies(histories, asked)
    count = len(np.unique(user))
    share = count / len(asked)
    said = f"{count:,} of {len(asked):,} users have a copy"
    if count < FEW or share < SOME:
        return [Finding.passed(NAME, said)]
    told = _told(log, user, other)
    detail = (
        f"{said} with {ALIKE:.0%} of its items or more the same; for {told:.0%} of their last fifth of "
        "events the copy had acted on the same item before: leave one account of each pair out"
    )
    return [Finding.failed(NAME, detail, REFUSE if share >= MANY else WARN)]


def _histories(log: LoggedData) -> ItemHistories:
    """Some users at a time: pairs of all events at once would be sorted in memory."""
    events = log.events
    width, offsets = np.int64(events.n_items), offsets_of_owners(events.user, events.n_users)
    acted_on = taken(events.item, places_by_owner(events.user, offsets))
    items, pairs = empty(len(events), np.int32), 0
    sizes, popularity = np.zeros(events.n_users, np.int64), np.zeros(events.n_items, np.int64)
    for some in Histories(offsets, EMPTY_HISTORY).stretches():
        bounds = offsets[some.start : some.stop + 1]
        owner = np.repeat(np.arange(some.stop - some.start), np.diff(bounds))
        pair = np.unique(owner * width + acted_on[bounds[0] : bounds[-1]])
        sizes[some] = np.bincount(pair // width, minlength=some.stop - some.start)
        items[pairs : pairs + len(pair)] = pair % width
        popularity += np.bincount(pair % width, minlength=events.n_items)
        pairs += len(pair)
    ones = empty(pairs, np.float32)
    ones[:] = 1
    shape = (events.n_users, events.n_items)
    table = sp.csr_matrix((ones, items[:pairs], offsets_of(sizes)), shape, copy=False)
    return ItemHistories(table, sizes, popularity)


def _copies(histories: ItemHistories, asked: Longs) -> tuple[Longs, Longs]:
    """Pairs (one of those asked, another user) whose histories are one."""
    theirs = histories.items[asked].tocoo()
    order = np.lexsort((histories.popularity[theirs.col], theirs.row))
    row, item = theirs.row[order], theirs.col[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    rare = (place < RARE) & (histories.popularity[item] <= POPULAR)
    # Only these items are looked up by who acted on them: the others' users are most of the table.
    wanted, column = np.unique(item[rare], return_inverse=True)
    shape = (len(asked), len(wanted))
    few = sp.csr_matrix((np.ones(int(rare.sum()), np.float32), (row[rare], column)), shape)
    met = (few @ histories.items[:, wanted].T).tocoo()
    needed = 0.5 * np.asarray(few.sum(axis=1)).ravel()[met.row]
    near = (met.data >= np.maximum(needed, 2)) & (met.col != asked[met.row])
    user, other = asked[met.row[near]], met.col[near].astype(np.int64)
    sizes = histories.sizes
    likely = np.minimum(sizes[user], sizes[other]) >= ALIKE * np.maximum(sizes[user], sizes[other])
    user, other = user[likely], other[likely]
    shared = np.asarray(histories.items[user].multiply(histories.items[other]).sum(axis=1)).ravel()
    alike = (shared >= LEAST) & (shared >= ALIKE * (sizes[user] + sizes[other] - shared))
    return user[alike], other[alike]


def _told(log: LoggedData, user: Longs, other: Longs) -> float:
    """Share of the users' last fifth of events on items on which a copy had acted before."""
    events = log.events
    first = events.time[len(events) * 4 // 5]
    mine = np.isin(events.user, user) & (events.time >= first)
    width = np.int64(events.n_items)
    earliest: dict[int, int] = {}
    theirs = np.isin(events.user, other)
    for key, time in zip(
        (events.user[theirs] * width + events.item[theirs]).tolist(),
        events.time[theirs].tolist(),
        strict=True,
    ):
        earliest.setdefault(key, time)
    copies: dict[int, list[int]] = {}
    for one, two in zip(user.tolist(), other.tolist(), strict=True):
        copies.setdefault(one, []).append(two)
    rows = zip(
        events.user[mine].tolist(),
        events.item[mine].tolist(),
        events.time[mine].tolist(),
        strict=True,
    )
    told = [
        any(earliest.get(copy * int(width) + item, time) < time for copy in copies[one])
        for one, item, time in rows
    ]
    return float(np.mean(told)) if told else 0.0
