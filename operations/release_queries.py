"""What released models are asked when they are evaluated on later events, and what they answer.

The moments and lists are collected here; what they measure is `evaluation.asked_moments`'. Three protocols:

- `window`: every user of the events is asked once, just before the first of them; all that the
  user then acted on is the truth.
- `leave-last-out`: each user's last positive event, asked at its own time; all earlier events of
  the file are known by then, as a running service would know them.
- `impressions`: each shown list is ranked again at its own time; what was acted on is the truth.

Shapes: G groups (queries), N items, K places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused
from recsys.data_schemas.log_record import LogRecord
from recsys.evaluation import baselines, segments
from recsys.evaluation.asked_moments import AskedMoments
from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.query_sets import (
    grades_of_shown,
    leave_last_out,
    of_impressions,
    of_users,
    ranked_candidates,
)
from recsys.evaluation.segments import SegmentLabels
from recsys.features.draws import chance, hash_ids, least
from recsys.features.impressions import Impressions
from recsys.features.interactions import (
    DAY,
    History,
    Interactions,
    Longs,
)
from recsys.features.packed_strings import PackedStrings
from recsys.operations.evaluation_events import EvaluationEvents, ShownEvents
from recsys.storage.processors import processors

if TYPE_CHECKING:
    from recsys.features.protocols import RecallSource
    from recsys.recommender import LoadedRelease
    from recsys.training.compared_lists import Compared

LIST_LENGTH = 100
WINDOW, LAST, IMPRESSIONS = "window", "leave-last-out", "impressions"
FOREVER = 2**62


@dataclass(frozen=True)
class Queries:
    """G queries put to every system."""

    protocol: str
    users: list[str]
    now: Longs
    truth: Truth
    past: PastItems
    shown: Impressions | None = None
    """The lists to be ranked again; None where the whole catalogue is ranked."""
    types: SegmentLabels | None = None
    """Relevant items by the type of the event, where there are several."""
    notes: list[str] = field(default_factory=list)
    """What bends the numbers, for the page."""
    told: Sequence[LogRecord] = ()
    """What the release was told before it was asked."""

    def __len__(self) -> int:
        return len(self.users)


# -- queries --------------------------------------------------------------------------------------


def queries_of(
    protocol: str,
    loaded: "LoadedRelease",
    held: EvaluationEvents,
    shown: ShownEvents | None,
    limit: int,
    seed: int,
) -> Queries:
    """The queries of a protocol; with `leave-last-out` and `impressions` the events are folded
    into the release's state, so that each query knows what came before it.

    Args:
        protocol: `window`, `leave-last-out` or `impressions`.
        loaded: the release that is asked.
        held: events to evaluate on.
        shown: lists that were shown; needed for `impressions` alone.
        limit: queries at most, a random sample beyond.
        seed: of that sample.

    Raises:
        DataRefused: nothing can be asked.
    """
    if protocol == WINDOW:
        return _window(loaded, held, limit, seed)
    told = fold(loaded, held)
    if protocol == LAST:
        return replace(_last(loaded, held, limit, seed), told=told)
    assert shown is not None
    return replace(_impressions(loaded, held, shown, limit, seed), told=told)


def data_end(loaded: "LoadedRelease") -> int:
    """End of the data that the model was fitted on, µs; strictly after its last event."""
    return int(loaded.bundle.manifest["data_window"][1])


def _window(loaded: "LoadedRelease", held: EvaluationEvents, limit: int, seed: int) -> Queries:
    events = held.events
    first = int(events.time.min())
    # At a moment of the model's grid, as it was tested. Events before the model's own end are an alarm
    # of the caller's; they are then evaluated as of everything known.
    now = max(loaded.moment, loaded.grid.before(first))
    positive = events.where(events.grade > 0)
    everybody = np.unique(positive.user)
    chosen = everybody[_sampled([str(events.user_ids[u]) for u in everybody], limit, seed)]
    users = [str(events.user_ids[u]) for u in chosen]
    moments = np.full(len(users), now, np.int64)
    past = PastItems.of(_histories(loaded, users, moments))
    truth, group, again = of_users(positive, chosen, past, moments)
    notes = _sampling(len(chosen), len(everybody))
    if again:
        notes.append(
            f"{again:,} events are on items that their users had acted on before; they are not "
            "asked for again."
        )
    asked_events = replace(positive, user=group.astype(np.int32)).where(group >= 0)
    types = segments.by_event_type(truth, asked_events)
    return Queries(WINDOW, users, moments, truth, past, types=types, notes=notes)


def _last(loaded: "LoadedRelease", held: EvaluationEvents, limit: int, seed: int) -> Queries:
    users = [str(u) for u in held.events.user_ids]
    known = _joined(loaded, users)
    asked = leave_last_out(known)
    if not asked.truth.n_groups:
        raise DataRefused(
            "no user has a positive event with something before it",
            where=held.where,
            found=f"{len(users):,} users",
            expected="a last event on an item that is new to its user, and an earlier event",
            fix="use --protocol window, which asks new users too",
        )
    chosen = _sampled([users[u] for u in asked.truth.user], limit, seed)
    truth, past = asked.truth.take(chosen), asked.past.take(chosen)
    notes = _sampling(len(chosen), asked.truth.n_groups)
    left = len(users) - asked.truth.n_groups
    if left:
        notes.append(
            f"{left:,} users are left out: nothing is known of them before their last positive event, "
            "or it is on an item they had acted on before."
        )
    return Queries(LAST, [users[u] for u in truth.user], truth.time, truth, past, notes=notes)


def _impressions(
    loaded: "LoadedRelease", held: EvaluationEvents, shown: ShownEvents, limit: int, seed: int
) -> Queries:
    asked = shown.lists
    names = [f"{shown.user_ids[u]} {t}" for u, t in zip(asked.user, asked.time, strict=True)]
    lists = asked.take(_sampled(names, limit, seed))
    users = [str(shown.user_ids[u]) for u in lists.user]
    place = {str(u): code for code, u in enumerate(held.events.user_ids)}
    known_as = np.array([place.get(u, -1) for u in users], np.int64)
    grades = grades_of_shown(replace(lists, user=known_as), held.events, within=DAY)
    lists = replace(lists, user=np.unique(lists.user, return_inverse=True)[1])
    truth = of_impressions(lists, grades)
    past = PastItems.of(_histories(loaded, users, lists.time))
    notes = _sampling(len(lists), len(asked), "shown lists")
    notes.append(
        "What was acted on depends on the place where it was shown: the order that made the log is "
        "flattered, and every other order is measured by clicks it did not get."
    )
    return Queries(IMPRESSIONS, users, lists.time, truth, past, lists, notes=notes)


def fold(loaded: "LoadedRelease", held: EvaluationEvents) -> list[LogRecord]:
    """Let the release's state know the events, each at its own time, and say which were news to it;
    those it knows stay single."""
    events, state = held.events, loaded.state
    known = events.item < state.catalogue.n_items
    for user, rows in _by_user(events):
        known[rows[_repeated(state, user, events, rows)]] = False
    start = state.log_position + 1
    records = [
        LogRecord(
            start + place,
            "event",
            {
                c.USER_ID: str(events.user_ids[events.user[row]]),
                c.ITEM_ID: str(held.item_ids[row]),
                c.EVENT_TYPE: str(events.kinds[events.kind[row]]),
                c.TIMESTAMP: int(events.time[row]),
                c.VALUE: None if np.isnan(events.value[row]) else float(events.value[row]),
            },
            int(events.time[row]),
        )
        for place, row in enumerate(np.flatnonzero(known))
    ]
    loaded.apply(records)
    return records


def seen_events(loaded: "LoadedRelease", held: EvaluationEvents) -> int:
    """How many of the events the model has learnt from: they are in the state, before its end."""
    events, end = held.events, data_end(loaded)
    early = events.where((events.time < end) & (events.item < loaded.state.catalogue.n_items))
    return sum(
        int(_repeated(loaded.state, user, early, rows).sum()) for user, rows in _by_user(early)
    )


def _by_user(events: Interactions) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    """(user id, their rows) of everybody who has any."""
    order = np.argsort(events.user, kind="stable")
    edges = np.searchsorted(events.user[order], np.arange(events.n_users + 1))
    for user in np.unique(events.user).tolist():
        yield str(events.user_ids[user]), order[edges[user] : edges[user + 1]]


def _repeated(
    state: Any, user: str, events: Interactions, rows: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Which of a user's rows the state holds: the same item at the same time."""
    history = state.history(user, FOREVER)
    known = set(zip(history.item.tolist(), history.time.tolist(), strict=True))
    pairs = zip(events.item[rows].tolist(), events.time[rows].tolist(), strict=True)
    return np.array([pair in known for pair in pairs], bool)


def _sampled(names: Sequence[str], limit: int, seed: int) -> Longs:
    """Places of at most `limit` of the named, drawn by their names."""
    return least(chance(hash_ids(names), "evaluated", seed), limit)


def _sampling(taken: int, of: int, what: str = "users") -> list[str]:
    if taken == of:
        return []
    return [
        f"A random sample of {taken:,} of {of:,} {what} is measured "
        "(evaluation.max_users in the config)."
    ]


def _histories(loaded: "LoadedRelease", users: Sequence[str], now: Longs) -> list[History]:
    return [loaded.state.history(u, int(t)) for u, t in zip(users, now, strict=True)]


def _joined(loaded: "LoadedRelease", users: Sequence[str], until: int = FOREVER) -> Interactions:
    """The state's events of some users before a time, as one table."""
    histories = [loaded.state.history(u, until) for u in users]
    sizes = [len(h.item) for h in histories]
    columns = [np.concatenate(part) for part in zip(*histories, strict=True)]
    item, kind, time, weight, grade = columns
    return Interactions(
        user=np.repeat(np.arange(len(users), dtype=np.int32), sizes),
        item=item,
        kind=kind,
        time=time,
        value=np.full(len(item), np.nan, np.float32),
        weight=weight,
        grade=grade,
        position=np.arange(len(item), dtype=np.int64),
        user_ids=PackedStrings.of(list(users)),
        kinds=tuple(loaded.state.kinds),
        n_items=loaded.state.catalogue.n_items,
    )


# -- answers --------------------------------------------------------------------------------------


def request_of(
    loaded: "LoadedRelease", queries: Queries, group: int
) -> tuple[list[str] | None, dict[str, str | float]]:
    """(items to rank, or None for the whole catalogue; what the request said) of a query.

    Of a list that was shown: its items, and the request when it was shown.
    """
    if (lists := queries.shown) is None:
        return None, {}
    shown = lists.items[lists.rows_of(group)]
    items = [loaded.state.catalogue.id_of(int(i)) for i in dict.fromkeys(shown.tolist())]
    return items, lists.contexts(np.array([group]))[0]


def length_of(queries: Queries) -> int:
    """Places of a list: what was shown at the most, or `LIST_LENGTH`."""
    if queries.shown is None:
        return LIST_LENGTH
    return int(queries.shown.lengths.max(initial=1))


def asked_moments(loaded: "LoadedRelease", queries: Queries, own: Sequence[str]) -> AskedMoments:
    """The queries with all that lists at them are measured by; `own` are columns of items or users."""
    shown, state = queries.shown, loaded.state

    def of_users(column: str) -> list[object]:
        return [state.user_attributes(user).get(column) for user in queries.users]

    surface = None
    if shown is not None and shown.surface is not None and len(set(shown.surface)) > 1:
        surface = segments.from_column(list(shown.surface))
    return AskedMoments.of(
        queries.truth,
        queries.past,
        known_before(loaded, int(queries.now.max(initial=0))),
        state.catalogue,
        vectors=loaded.bundle.vectors(),
        own=own,
        of_users=of_users,
        more={"event type": queries.types, "surface": surface},
        sampled=None if shown is None else int(np.median(shown.lengths)),
    )


def of_shown(known: Interactions, queries: Queries) -> list[RankedLists]:
    """Among what was shown: as it was shown, and by popularity."""
    lists = queries.shown
    assert lists is not None
    length = length_of(queries)
    popularity = baselines.popularity_of(known, known.n_items)
    return [
        ranked_candidates(name, lists, score.astype(np.float64), length)
        for name, score in (("as shown", -lists.place), ("popularity", popularity[lists.items]))
    ]


def known_before(loaded: "LoadedRelease", now: int) -> Interactions:
    """All that the state knows strictly before a moment (µs)."""
    return _joined(loaded, loaded.state.user_ids(), now)


def add_references(found: "Compared", loaded: "LoadedRelease", known: Interactions) -> None:
    """References that the release does without, fitted on what was known."""
    from recsys.encoder.text import item_texts
    from recsys.retrieval.fitted_source import SourceInputs
    from recsys.training.sources.fit_source import fit_one

    catalogue = loaded.state.catalogue
    texts = item_texts(catalogue, str(loaded.bundle.facts["template"]))
    extra = SourceInputs(catalogue, texts, None)

    def fit(name: str) -> "RecallSource":
        return fit_one(name, known, extra, {}, seed=0, workers=processors())

    found.add_references(known, extra, fit, loaded.recall.proposing)


def frozen_folder(folder: Path, n_items: int) -> Path | None:
    """Where the untuned encoder lies that a night of this workspace left, if its vectors are of these
    items."""
    for place in sorted(folder.glob("*/vectors.npy"), key=lambda p: -p.stat().st_mtime):
        if len(np.load(place, mmap_mode="r")) == n_items:
            return place.parent
    return None


def open_frozen(folder: Path) -> "RecallSource":
    """The source over such a folder."""
    from recsys.encoder.tower import UNFITTED, InterestSource

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    return cast("RecallSource", InterestSource.open(folder / "encoder", vectors, UNFITTED))
