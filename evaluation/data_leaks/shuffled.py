"""Events whose items were mixed up: what a user does next no longer goes with what the user did before.

For many events, the item acted on is held against the item of another user's event of about the same time,
drawn at random. Two judges say which of the two goes better with the user's earlier items: what other users
did (half of the users teach, the other half is asked), and the items' words. Where the items of events were
shuffled, each of the two is right half of the time, whatever is popular when.

Shapes: E events, P pairs, H items of a history, N items.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.leaky_words import table_of, weighted
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import mean_and_error, owners_of, slices_of
from recsys.evaluation.report_context import REFUSE, WARN
from recsys.features.interactions import Bools, Interactions, Longs
from recsys.features.ragged import first_of_runs

NAME: Final = "users go on as they began"
DOES: Final = "tell what a user acts on"
ASKS: Final = "were items renumbered or mixed up there?"
SLICES: Final = 10
PAIRS: Final = 1000
"""Pairs of a slice, at most."""
HISTORY: Final = 20
"""Latest items of a history that are asked."""
NEAR: Final = 100
"""The other event lies among the nearest E / NEAR ones on either side."""
TRIES: Final = 12
CHANCE: Final = 0.03
"""Above one half, less than which a judge knows nothing (shuffled logs: up to 0.02; sound ones from 0.06 by
other users, from 0.14 by words; measured)."""
FALLEN: Final = 0.4
"""Share of a judge's usual advantage under which a slice has lost it."""
SURE: Final = 3.0
"""Standard errors by which it is under it."""
ENOUGH: Final = 100
"""Pairs of a slice, and a tenth of those of the log, from which anything is said."""
PEOPLE: Final = 12
"""Users in a slice, and a third of those of the log, from which anything is said (assumed)."""
MOST_CELLS: Final = 20_000_000
"""(pair, teacher) cells at most; bounds memory."""


class Pairs(NamedTuple):
    """P pairs of an event's item and another one of about the same time."""

    user: Longs
    item: Longs
    other: Longs
    slice_: Longs
    past: Any
    """P × N, 1 at the user's earlier items."""

    def take(self, rows: npt.NDArray[np.integer]) -> "Pairs":
        return Pairs(*(part[rows] for part in self))


class Verdict(NamedTuple):
    """How often a judge was right, by slice."""

    judge: str
    advantage: float
    """Share of right answers less one half, of all pairs it could tell apart."""
    error: float
    told: float
    """Share of the pairs it could tell apart."""
    asked: int
    by_slice: list[tuple[int, float, float]]
    """(slice, advantage, standard error) where enough were asked."""


def mixed_up_items(log: LoggedData) -> list[Finding]:
    """Whether the items of all events, or of those of a time, or the texts of all items were mixed up."""
    asked = log.chance_of_users("asked") < 0.5
    events = log.of_some_users.events
    pairs = _pairs(events, asked)
    if pairs is None:
        return [Finding.passed(NAME, "too few histories to tell")]
    verdicts = [
        _verdict("other users' histories", pairs, _by_users(events, pairs, ~asked)),
        _verdict("the items' words", pairs, _by_words(log, pairs)),
    ]
    found = [lost for verdict in verdicts for lost in fallen(verdict, NAME, DOES, ASKS)]
    if not found:
        found = _never(*verdicts)
    said = ", ".join(f"{0.5 + v.advantage:.2f} by {v.judge}" for v in verdicts)
    return found or [Finding.passed(NAME, f"AUC {said}; 0.5 is chance")]


def fallen(verdict: Verdict, name: str, does: str, asks: str) -> list[Finding]:
    """A judge that is usually right and in some run of slices knows nothing."""
    worst: tuple[float, float, list[int]] | None = None
    for length in range(1, len(verdict.by_slice) // 2 + 1):
        for begin in range(len(verdict.by_slice) - length + 1):
            run = verdict.by_slice[begin : begin + length]
            rest = [
                advantage for part in verdict.by_slice if part not in run for advantage in part[1:2]
            ]
            low, usual = float(np.mean([a for _, a, _ in run])), float(np.mean(rest))
            error = float(np.sqrt(sum(e**2 for _, _, e in run))) / length
            if low + SURE * error < FALLEN * usual and usual > CHANCE:
                worst = max(worst or (0.0, 0.0, []), (usual - low, usual, [s for s, _, _ in run]))
    if worst is None:
        return []
    lost, usual, where = worst
    detail = (
        f"from {where[0] / SLICES:.0%} to {(where[-1] + 1) / SLICES:.0%} of the log, {verdict.judge} do not "
        f"{does} (AUC {0.5 + usual - lost:.2f}, elsewhere {0.5 + usual:.2f}): {asks}"
    )
    return [Finding.failed(name, detail, REFUSE)]


def _never(users: Verdict, words: Verdict) -> list[Finding]:
    """Nobody's next item goes with the earlier ones, by any judge; or the texts alone tell nothing."""
    enough = 10 * ENOUGH
    blind = [v.advantage + v.error < CHANCE for v in (users, words)]
    telling = words.told >= 0.5 and words.asked * words.told >= enough
    if users.asked * users.told >= enough and blind[0] and (blind[1] or not telling):
        detail = (
            f"what {users.asked:,} users' events show next has nothing to do with what came before (AUC "
            f"{0.5 + users.advantage:.2f} by {users.judge}, {0.5 + words.advantage:.2f} by {words.judge}; "
            "0.5 is chance): were the items of the events mixed up?"
        )
        return [Finding.failed(NAME, detail, REFUSE)]
    if telling and blind[1] and users.advantage > 2 * CHANCE:
        detail = (
            f"{words.judge} tell nothing of what {words.asked:,} events went to (AUC "
            f"{0.5 + words.advantage:.2f}), other users do ({0.5 + users.advantage:.2f}): do texts, tags "
            "and categories belong to these item ids?"
        )
        return [Finding.failed("texts belong to their items", detail, WARN)]
    return []


# -- pairs ----------------------------------------------------------------------------------------


def _pairs(events: Interactions, users: Bools) -> Pairs | None:
    """Events of the asked half of the users on items new to them, each beside another event's item."""
    fresh, met = _first_meetings(events)
    slice_ = slices_of(events.time, SLICES)
    asked = np.flatnonzero(fresh & (met > 0) & users[events.user])
    draw = np.random.default_rng(0)
    if len(asked) < ENOUGH:
        return None
    rows = np.concatenate(
        [draw.permutation(asked[slice_[asked] == s])[:PAIRS] for s in range(int(slice_[-1]) + 1)]
    )
    rows = np.sort(rows)
    other = _others(events, rows, draw)
    rows, other = rows[other >= 0], other[other >= 0]
    if len(rows) < ENOUGH or len(np.unique(events.user[rows])) < 3 * PEOPLE:
        return None
    user, item = events.user[rows].astype(np.int64), events.item[rows].astype(np.int64)
    return Pairs(user, item, other, slice_[rows], _past(events, rows))


def _keys(events: Interactions) -> Longs:
    return events.user.astype(np.int64) * events.n_items + events.item


def _first_meetings(events: Interactions) -> tuple[Bools, Longs]:
    """(bool[E]: whether the item is new to the user; int64[E]: events of the user strictly before)."""
    fresh = np.zeros(len(events), bool)
    fresh[np.unique(_keys(events), return_index=True)[1]] = True
    order = np.argsort(events.user, kind="stable")
    user, time = events.user[order], events.time[order]
    begins, moves = first_of_runs(user), first_of_runs(user, time)
    at = np.arange(len(user))
    moment, first = np.maximum.accumulate(at * moves), np.maximum.accumulate(at * begins)
    met = np.empty(len(user), np.int64)
    met[order] = moment - first
    return fresh, met


def _others(events: Interactions, rows: Longs, draw: np.random.Generator) -> Longs:
    """int64[P]: the item of a near event of another user, new to the asked user too; -1 for none."""
    reach = max(len(events) // NEAR, 50)
    keys = _keys(events)
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    low, high = np.maximum(rows - reach, 0), np.minimum(rows + reach, len(events))
    other = np.full(len(rows), -1, np.int64)
    for _ in range(TRIES):
        near = low + (draw.random(len(rows)) * (high - low)).astype(np.int64)
        key = events.user[rows].astype(np.int64) * events.n_items + events.item[near]
        at = np.minimum(np.searchsorted(ranked, key), len(ranked) - 1)
        had = (ranked[at] == key) & (order[at] < rows)
        good = (other < 0) & (events.user[near] != events.user[rows]) & ~had
        other[good] = events.item[near[good]]
    return other


def _past(events: Interactions, rows: Longs) -> Any:
    """P × N, 1 at the latest items of each row's user strictly before it."""
    histories = events.histories()
    starts = histories.offsets[events.user[rows]]
    found, owner = [], []
    for place, (row, start) in enumerate(zip(rows.tolist(), starts.tolist(), strict=True)):
        end = histories.offsets[events.user[row] + 1]
        time = histories.events.time[start:end]
        before = start + int(np.searchsorted(time, events.time[row]))
        items = histories.events.item[max(start, before - HISTORY) : before]
        found.append(items)
        owner.append(np.full(len(items), place))
    table = sp.csr_matrix(
        (np.ones(sum(map(len, found)), np.float32), (np.concatenate(owner), np.concatenate(found))),
        shape=(len(rows), events.n_items),
    )
    table.data[:] = 1.0
    return table


# -- judges ---------------------------------------------------------------------------------------


def _by_users(events: Interactions, pairs: Pairs, teach: Bools) -> npt.NDArray[np.float64]:
    """float64[P]: how much better the acted-on item goes with the past than the other, by users who
    teach (bool[U]): the weights of those with items in common, summed over those who have the item."""
    key = np.unique(_keys(events)[teach[events.user]])
    user, item = key // events.n_items, key % events.n_items
    popularity = np.bincount(item, minlength=events.n_items)
    teachers = np.unique(user)
    most = max(200, MOST_CELLS // max(len(pairs.user), 1))
    if len(teachers) > most and popularity.max(initial=0) > most // HISTORY:
        teachers = np.sort(np.random.default_rng(0).permutation(teachers)[:most])
    place = np.searchsorted(teachers, user)
    kept = (place < len(teachers)) & (teachers[np.minimum(place, len(teachers) - 1)] == user)
    had = sp.csr_matrix(
        (np.ones(int(kept.sum()), np.float32), (place[kept], item[kept])),
        shape=(len(teachers), events.n_items),
    )
    rare = (1 / np.sqrt(np.maximum(popularity, 1))).astype(np.float32)
    broad = 1 / np.sqrt(np.maximum(np.asarray(had.sum(axis=1)).ravel(), 1))
    had = (sp.diags_array(broad.astype(np.float32)) @ had).tocsr()
    near = (pairs.past @ sp.diags_array(rare)) @ had.T.tocsr()
    by_item = had.T.tocsr()

    def score(items: Longs) -> npt.NDArray[np.float64]:
        return np.asarray(near.multiply(by_item[items]).sum(axis=1)).ravel() * rare[items]

    return np.asarray(score(pairs.item) - score(pairs.other))


def _by_words(log: LoggedData, pairs: Pairs) -> npt.NDArray[np.float64]:
    """float64[P]: the same by tags, category and the words of title and description."""
    catalogue = log.catalogue
    codes = catalogue.category_codes
    labelled = np.concatenate([[0], np.cumsum(codes >= 0)])
    offsets, tags = catalogue.tags_csr()
    words = weighted(
        sp.hstack(
            [
                table_of(offsets, tags, len(catalogue.tag_names)),
                table_of(labelled, codes[codes >= 0], len(catalogue.category_names)),
                *(words.table for words in log.words.values()),
            ]
        ).tocsr()
    )
    profile = (pairs.past @ words).tocsr()

    def score(items: Longs) -> npt.NDArray[np.float64]:
        return np.asarray(profile.multiply(words[items]).sum(axis=1), np.float64).ravel()

    return np.asarray(score(pairs.item) - score(pairs.other))


def _verdict(judge: str, pairs: Pairs, better: npt.NDArray[np.float64]) -> Verdict:
    """How often a judge was right among the pairs that it tells apart."""
    telling = np.flatnonzero(np.abs(better) > 1e-9)
    right = (better[telling] > 0) - 0.5
    user, slice_ = pairs.user[telling], pairs.slice_[telling]
    mean, error = mean_and_error(right, user)
    users = owners_of(user, slice_, SLICES)
    by_slice = [
        (s, *mean_and_error(right[slice_ == s], user[slice_ == s]))
        for s in range(SLICES)
        if (slice_ == s).sum() >= ENOUGH and users[s] >= PEOPLE
    ]
    told = len(telling) / max(len(better), 1)
    return Verdict(judge, mean if len(right) else 0.0, error, told, len(better), by_slice)
