"""What the encoder learns from: (history as of t, the item acted on at t), never later than asked.

Shapes: E events, Q examples (queries), B examples of a step, N history places, K negatives of an
example's own.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import DataRefused
from recsys.encoder.tower import age_place, grade_place
from recsys.features.draws import Doubles, chance, hash_ids
from recsys.features.impressions import Impressions
from recsys.features.interactions import (
    SECOND,
    Floats,
    Histories,
    History,
    Interactions,
    Longs,
    places_by_owner,
)
from recsys.features.on_disk import empty, filled, joined, kept
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import (
    Ragged,
    chosen_groups,
    first_of_runs,
    offsets_of,
    offsets_of_owners,
)

USER_CAP = 100
"""Examples of one user at most, the latest (assumed): the busiest few must not dominate."""
HELD_SHARE, HELD_MOST, HELD_LEAST = 0.1, 400, 20
"""Items held out of a fit for validation: a share of those acted on, at most and at least so many (assumed; a
few hundred tell one fit from another, and more would be missed in large catalogues)."""
HELD_LARGEST_SHARE = 0.25
"""Share that is held out at most, however few items there are."""
VALIDATION_EXAMPLES = 800
"""Validation examples wanted: each costs encoding its history at every validation."""
EXAMPLES_OF_ONE = 20
"""Validation examples of one user at most."""
FEWEST_VALIDATIONS = 20
"""Fewer validation examples decide nothing, so nothing is tuned."""
WEAK_SHARE = 1 / 3
"""Share of the draws that behaviour without a grade (a view) may have (assumed): it is by far the most
numerous, and says the least."""
OWN_NEGATIVES = 8
"""Items of a shown list that an example is held against at most."""


MATCHED = 1 << 17
"""Events of whole users whose shown lists are looked at together (assumed: some 100 MB)."""
SOON = 30 * 60 * SECOND
"""Longest time from a list to what followed it (the usual end of a session)."""


class TooLittle(DataRefused):
    """There is too little behaviour to tune on; the encoder can still be used as it is."""


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
class Unclicked(Ragged):
    """Shown and not acted on, by row of a histories table: row r's are offsets[r]:offsets[r+1]."""

    offsets: Longs
    items: npt.NDArray[np.int32]

    def of(self, rows: Longs, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """[B, K]: K of each row's items drawn with repetition; -1 for rows without any."""
        low, high = self.offsets[rows], self.offsets[rows + 1]
        drawn = low[:, None] + (
            rng.random((len(rows), OWN_NEGATIVES)) * (high - low)[:, None]
        ).astype(np.int64)
        there = (high > low)[:, None] & np.ones_like(drawn, bool)
        own = np.full(drawn.shape, -1, np.int64)
        own[there] = self.items[drawn[there]]
        return own


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
    unclicked: Unclicked | None = None
    """None without impressions."""

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
            self.unclicked,
        )

    def own(
        self, which: npt.NDArray[np.integer], rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """[B, K]: items shown beside each example's target and not acted on; -1 where absent."""
        if self.unclicked is None:
            return np.empty((len(which), 0), np.int64)
        return self.unclicked.of(self.row[which], rng)

    def with_own(self) -> int:
        """Examples beside whose target something was shown that was not acted on."""
        if self.unclicked is None:
            return 0
        return int((self.unclicked.lengths[self.row] > 0).sum())

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
    """Examples to learn from, and what people did on items that were held out of them."""

    train: Examples
    valid: Examples
    """Their targets are held-out items; their histories hold none."""
    held: npt.NDArray[np.int64]
    """Items without any part in training, ascending: among these a validation example's target is looked
    for."""
    asker: npt.NDArray[np.int64]
    """[V]: user of each validation example."""

    @property
    def known(self) -> npt.NDArray[np.int64]:
        """All items that training names, ascending."""
        return np.unique(self.train.histories.events.item).astype(np.int64)

    @property
    def items(self) -> npt.NDArray[np.int64]:
        """All items that an example names, ascending."""
        return np.union1d(self.known, self.held)

    @property
    def users(self) -> int:
        """Users with an event."""
        return int(np.count_nonzero(self.train.histories.lengths))


def make_examples(
    interactions: Interactions,
    *,
    fit_until: int,
    places: int,
    seed: int,
    shown: Impressions | None = None,
) -> Split:
    """Examples of events up to `fit_until`; some items are held out wholly, and validate.

    An example is an event by a user who did something before, with a positive grade or, weakly, of
    a type without one (a view); its history is strictly before it. Neutral ratings and dislikes
    are history, never targets. With `shown` lists an example knows what stood beside its target.

    Args:
        interactions: events, none later than `fit_until`.
        fit_until: end of what may be seen, µs UTC.
        places: history items of an example at most.
        seed: of the choice of held-out items.
        shown: lists that users saw; None without.

    Raises:
        DataRefused: an event lies after fit_until (a leak).
        TooLittle: fewer than 50 examples remain, or next to nobody acted on a held-out item.
    """
    _check_window(interactions, fit_until)
    held = _held(interactions, seed)
    taught = interactions.where(~held[interactions.item])
    train = _to_learn_from(taught, places, None if shown is None else _without(shown, held))
    valid, asker = _asked_for(interactions, train, held, seed)
    if len(valid) < FEWEST_VALIDATIONS:
        raise TooLittle(
            "there is too little behaviour to see whether tuning the encoder helps",
            where="events up to fit_until",
            found=f"{len(valid)} positive events on the {int(held.sum())} items held out for that, of "
            "users with an earlier event",
            expected=f"at least {FEWEST_VALIDATIONS}",
            fix="give more events, or set encoder.fine_tune: false",
        )
    return Split(train, valid, np.flatnonzero(held), asker)


def _to_learn_from(interactions: Interactions, places: int, shown: Impressions | None) -> Examples:
    """Examples of all events that are positive, or weakly so, and have a past.

    Raises:
        TooLittle: fewer than 50 of them are positive.
    """
    histories = interactions.histories()
    weak = _weak(interactions)
    row, start, end = (empty(len(interactions), np.int64) for _ in range(3))
    found = graded_ones = 0
    for users in histories.stretches():
        some = histories.part(users.start, users.stop)
        first, owner = int(histories.offsets[users.start]), some.owner
        own = np.arange(len(owner), dtype=np.int64)
        begun = some.offsets[owner]
        # The first row of the same user and time: ties are not part of the history.
        fresh = first_of_runs(owner, some.events.time)
        until = np.maximum.accumulate(np.where(fresh, own, 0))
        usable = (until > begun) & (some.offsets[owner + 1] - own <= USER_CAP)
        graded = usable & (some.events.grade > 0)
        graded_ones += int(graded.sum())
        keep = graded | (usable & weak[first : first + len(own)])
        part = slice(found, found + int(keep.sum()))
        for column, values in ((row, own), (start, begun), (end, until)):
            column[part] = first + values[keep]
        found = part.stop
    if graded_ones < 50:
        raise TooLittle(
            "there is too little behaviour to tune the encoder on",
            where="events up to fit_until",
            found=f"{graded_ones} positive events of users with an earlier event",
            expected="at least 50",
            fix="give more events, or set encoder.fine_tune: false",
        )
    return Examples(
        histories,
        row[:found],
        start[:found],
        end[:found],
        places,
        len(interactions.kinds),
        interactions.n_items,
        None if shown is None else match_shown(interactions, shown),
    )


def _held(interactions: Interactions, seed: int) -> npt.NDArray[np.bool_]:
    """bool[n_items]: items acted on whose events validate and teach nothing.

    An item's number and the seed decide, and the share only falls as items come in: an item that an earlier
    fit learned from is never held out of a later one, which starts from its weights.
    """
    acted = np.bincount(interactions.item, minlength=interactions.n_items) > 0
    count = max(1, int(acted.sum()))
    share = max(min(HELD_SHARE, HELD_MOST / count), min(HELD_LEAST / count, HELD_LARGEST_SHARE))
    lot = chance(np.arange(interactions.n_items), "encoder validation items", seed)
    return np.asarray(acted & (lot < share))


def _without(shown: Impressions, held: npt.NDArray[np.bool_]) -> Impressions:
    """The lists with unknown items in place of those held out."""
    out = np.append(held, False)[shown.items]
    return replace(shown, items=np.where(out, -1, shown.items).astype(np.int32))


def _asked_for(
    interactions: Interactions, train: Examples, held: npt.NDArray[np.bool_], seed: int
) -> tuple[Examples, npt.NDArray[np.int64]]:
    """What people did on held-out items, by what they had done on others before; and who did.

    The last of each user, several where users are few. Each example is a history of its own in the table of
    these examples, its target last.
    """
    events, offsets = train.histories.events, train.histories.offsets
    acted = np.flatnonzero(held[interactions.item] & (interactions.grade > 0))
    user, time = interactions.user[acted], interactions.time[acted]
    turn = np.lexsort((-time, _lot(interactions.user_ids, seed)[user]))
    each = min(EXAMPLES_OF_ONE, -(-VALIDATION_EXAMPLES // max(1, len(np.unique(user)))))
    places: list[Longs] = []
    rows: list[int] = []
    asker: list[int] = []
    given: dict[int, int] = {}
    for i in turn:
        if len(rows) == VALIDATION_EXAMPLES:
            break
        low, high = offsets[user[i]], offsets[user[i] + 1]
        end = low + int(np.searchsorted(events.time[low:high], time[i], "left"))
        past = np.arange(max(low, end - train.places), end)
        if given.get(int(user[i]), 0) < each and (events.grade[past] >= 0).any():
            given[int(user[i])] = given.get(int(user[i]), 0) + 1
            places.append(np.append(past, len(events.item) + len(rows)))
            rows.append(int(acted[i]))
            asker.append(int(user[i]))
    picked = np.array(rows, np.int64)
    order = np.concatenate([np.empty(0, np.int64), *places]).astype(np.int64)
    target = order >= len(events.item)
    columns = []
    for name, column in events._asdict().items():
        values = np.empty(len(order), column.dtype)
        values[~target] = column[order[~target]]
        values[target] = getattr(interactions, name)[picked[order[target] - len(events.item)]]
        columns.append(values)
    table = Histories(offsets_of([len(p) for p in places]), History(*columns))
    start, last = table.offsets[:-1], table.offsets[1:] - 1
    valid = replace(train, histories=table, row=last, start=start, end=last, unclicked=None)
    return valid, np.array(asker, np.int64)


def _check_window(interactions: Interactions, fit_until: int) -> None:
    late = int((interactions.time > fit_until).sum())
    if late:
        raise DataRefused(
            "events after the end of the encoder's window were given to its fit",
            where="encoder fit",
            found=f"{late} events after {fit_until} µs",
            expected="events up to fit_until only",
            fix="cut the interactions before fitting",
        )


def fewer_users(interactions: Interactions, items: int, seed: int) -> Interactions:
    """The events of as many users as name at most so many items together; all where they do.

    Whole users, by the lot that also draws whose actions validate: those come first.
    """
    if len(np.unique(interactions.item)) <= items:
        return interactions
    place = np.empty(interactions.n_users, np.int64)
    place[np.argsort(_lot(interactions.user_ids, seed), kind="stable")] = np.arange(len(place))
    turn = place[interactions.user]
    first = np.full(interactions.n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, interactions.item, turn)
    return interactions.where(turn < np.sort(first)[items])


def _lot(user_ids: PackedStrings, seed: int) -> Doubles:
    """float64[U]: a lot for each user that stays the same from fit to fit."""
    return chance(hash_ids(user_ids), "encoder validation", seed)


def _weak(interactions: Interactions) -> npt.NDArray[np.bool_]:
    """[E], in the order of the histories table: behaviour without a grade that is no star rating."""
    order = interactions.by_user()

    def plain(part: slice) -> npt.NDArray[np.bool_]:
        rows = order[part]
        unrated = np.isnan(interactions.value[rows]) & (interactions.grade[rows] == 0)
        return np.asarray(unrated & (interactions.weight[rows] > 0))

    return filled(len(order), np.bool_, plain)


def match_shown(interactions: Interactions, shown: Impressions) -> Unclicked:
    """What stood beside each event's item in the latest list its user saw before it, at most `SOON`
    earlier; items the user acted on at any time of the fit are no negatives."""
    n = np.int64(interactions.n_items)
    histories = interactions.histories()
    theirs = np.flatnonzero(shown.user >= 0)
    edges = offsets_of_owners(shown.user[theirs], interactions.n_users)
    lists = theirs[places_by_owner(shown.user[theirs], edges)]
    offsets, beside, listed = empty(len(interactions) + 1, np.int64), 0, []
    offsets[0] = 0
    for users in histories.stretches(MATCHED):
        some = histories.part(users.start, users.stop)
        few = _chosen(shown, np.sort(lists[edges[users.start] : edges[users.stop]]))
        user = some.owner + users.start
        pair = user * n + some.events.item
        row, owner = _lists_before(pair, some.events.time, n, few)
        bounds, places = chosen_groups(few.offsets, owner)
        row, items = np.repeat(row, np.diff(bounds)), few.items[places]
        # What was shown and is unknown is nobody's: it stays, as an empty place.
        left = (items < 0) | ~np.isin(user[row] * n + items, np.unique(pair))
        first = int(histories.offsets[users.start])
        counts = np.cumsum(np.bincount(row[left], minlength=len(pair)))
        offsets[first + 1 : first + 1 + len(pair)] = beside + counts
        beside += int(left.sum())
        listed.append(kept(items[left]))
    return Unclicked(offsets, joined(listed, np.int32))


def _chosen(shown: Impressions, lists: Longs) -> Impressions:
    """Some of the lists, without what only their requests said."""
    offsets, rows = chosen_groups(shown.offsets, lists)
    return Impressions.of(offsets, shown.items[rows], shown.time[lists], user=shown.user[lists])


def _lists_before(pair: Longs, time: Longs, n: np.int64, shown: Impressions) -> tuple[Longs, Longs]:
    """(event, list) for each event that follows a list with its item within `SOON`, by event.

    pair [E] is user × n + item of the events, time [E] theirs.
    """
    owner = shown.owner
    told = shown.user[owner].astype(np.int64) * n + shown.items
    known = shown.items >= 0
    told, owner = told[known], owner[known]
    # Lists and events in one order by (pair, time), a list before an event of the same moment.
    pairs = np.concatenate([told, pair])
    times = np.concatenate([shown.time[owner], time])
    event = np.arange(len(pairs)) >= len(told)
    order = np.lexsort((event, times, pairs))
    latest = np.maximum.accumulate(np.where(event[order], -1, np.arange(len(order))))
    place = np.flatnonzero(event[order] & (latest >= 0))
    source, row = order[latest[place]], order[place] - len(told)
    near = (pairs[source] == pair[row]) & (time[row] - times[source] <= SOON)
    row, chosen = row[near], owner[source[near]]
    by_event = np.argsort(row, kind="stable")
    return row[by_event], chosen[by_event]
