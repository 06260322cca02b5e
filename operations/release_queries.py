"""What released models are asked when they are evaluated on later events, and what they answer.

Three protocols:

- `window`: every user of the events is asked once, just before the first of them; all that the
  user then acted on is the truth.
- `leave-last-out`: each user's last positive event, asked at its own time; all earlier events of
  the file are known by then, as a running service would know them.
- `impressions`: each shown list is ranked again at its own time; what was acted on is the truth.

Shapes: G groups (queries), N items, K places.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import DataRefused
from recsys.evaluation import baselines, segments
from recsys.evaluation.evaluation import PastItems
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.query_sets import (
    grades_of_shown,
    leave_last_out,
    of_impressions,
    ranked_candidates,
)
from recsys.evaluation.segments import SegmentLabels
from recsys.features.draws import chance, hash_ids, least
from recsys.features.grouped import chosen_groups
from recsys.features.impressions import request_context
from recsys.features.interactions import (
    DAY,
    History,
    Interactions,
    Ints,
    Longs,
)
from recsys.operations.evaluation_events import EvaluationEvents, ShownEvents
from recsys.query import RankingQuery
from recsys.rules import ListCaps

if TYPE_CHECKING:
    from recsys.features.protocols import RecallSource
    from recsys.recommender import LoadedRelease

LIST_LENGTH = 100
WINDOW, LAST, IMPRESSIONS = "window", "leave-last-out", "impressions"
FOREVER = 2**62
REFERENCES = ("item_item", "als", "bm25")
"""Sources compared with also where the release does without them."""
FROZEN = "frozen text"


@dataclass(frozen=True)
class Queries:
    """G queries put to every system."""

    protocol: str
    users: list[str]
    now: Longs
    truth: Truth
    past: PastItems
    shown: ShownEvents | None = None
    """The lists to be ranked again; None where the whole catalogue is ranked."""
    types: SegmentLabels | None = None
    """Relevant items by the type of the event, where there are several."""
    notes: list[str] = field(default_factory=list)
    """What bends the numbers, for the page."""

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
    fold(loaded, held)
    if protocol == LAST:
        return _last(loaded, held, limit, seed)
    assert shown is not None
    return _impressions(loaded, held, shown, limit, seed)


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
    group_of = np.full(events.n_users, -1, np.int64)
    group_of[chosen] = np.arange(len(chosen))
    users = [str(events.user_ids[u]) for u in chosen]
    moments = np.full(len(users), now, np.int64)
    group = group_of[positive.user]
    asked = group >= 0
    histories = _histories(loaded, users, moments)
    past = _past(histories)
    fresh = asked & ~_contains(past, group, positive.item)
    truth = Truth.of(
        group[fresh], positive.item[fresh], positive.grade[fresh], np.arange(len(users)), moments
    )
    notes = _sampling(len(chosen), len(np.unique(positive.user)))
    again = int(asked.sum() - fresh.sum())
    if again:
        notes.append(
            f"{again:,} events are on items that their users had acted on before; they are not "
            "asked for again."
        )
    asked_events = replace(positive, user=group.astype(np.int32)).where(asked)
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
    truth, past = _taken(asked.truth, chosen), _taken_past(asked.past, chosen)
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
    names = [f"{user} {time}" for user, time in zip(shown.user, shown.time, strict=True)]
    lists = shown.take(_sampled(names, limit, seed))
    place = {str(u): code for code, u in enumerate(held.events.user_ids)}
    known_as = np.array([place.get(str(u), -1) for u in lists.user], np.int64)
    grades = grades_of_shown(
        lists.offsets, lists.items, known_as, lists.time, held.events, within=DAY
    )
    _, user = np.unique(lists.user.astype(str), return_inverse=True)
    truth = of_impressions(lists.offsets, lists.items, grades, user, lists.time)
    users = [str(u) for u in lists.user]
    past = _past(_histories(loaded, users, lists.time))
    notes = _sampling(len(lists), len(shown), "shown lists")
    notes.append(
        "What was acted on depends on the place where it was shown: the order that made the log is "
        "flattered, and every other order is measured by clicks it did not get."
    )
    return Queries(IMPRESSIONS, users, lists.time, truth, past, lists, notes=notes)


def fold(loaded: "LoadedRelease", held: EvaluationEvents) -> None:
    """Let the release's state know the events, each at its own time; those it knows stay single."""
    from recsys.data_schemas.log_record import LogRecord

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


def _past(histories: Sequence[History]) -> PastItems:
    items = [np.unique(h.item) for h in histories]
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in items])]).astype(np.int64)
    flat = np.concatenate(items) if items else np.empty(0)
    return PastItems(offsets, flat.astype(np.int32))


def _contains(past: PastItems, group: Longs, item: Ints) -> npt.NDArray[np.bool_]:
    """Whether each (group, item) is among the past; groups of -1 hold nothing."""
    owner = np.repeat(np.arange(len(past.offsets) - 1, dtype=np.int64), np.diff(past.offsets))
    found: npt.NDArray[np.bool_] = np.isin(group << 32 | item, owner << 32 | past.items)
    return found


def _taken(truth: Truth, groups: Longs) -> Truth:
    offsets, rows = chosen_groups(truth.offsets, groups)
    return Truth(
        offsets,
        truth.items[rows],
        truth.grades[rows],
        truth.user[groups],
        truth.time[groups],
    )


def _taken_past(past: PastItems, groups: Longs) -> PastItems:
    offsets, rows = chosen_groups(past.offsets, groups)
    return PastItems(offsets, past.items[rows])


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
        user_ids=np.array(users, object),
        kinds=tuple(loaded.state.kinds),
        n_items=loaded.state.catalogue.n_items,
    )


# -- answers --------------------------------------------------------------------------------------


def lists_of_release(
    loaded: "LoadedRelease", queries: Queries, name: str, caps: Mapping[str, int]
) -> RankedLists:
    """A release's own lists, asked as a service with these caps would ask."""
    from recsys.storage.progress import Reporter

    catalogue, scored = loaded.state.catalogue, []
    with Reporter().task(name, len(queries)) as task:
        for group, user in enumerate(queries.users):
            ask = RankingQuery(
                user,
                int(queries.now[group]),
                k=LIST_LENGTH,
                items=_asked(loaded, queries, group),
                caps=caps,
                context=_request_context(queries, group),
            )
            answer = loaded.answer(ask)
            scored.append((catalogue.indices_of(answer.item_ids), answer.scores))
            task.advance()
    return RankedLists.of(name, scored, length_of(queries))


def _asked(loaded: "LoadedRelease", queries: Queries, group: int) -> list[str] | None:
    if queries.shown is None:
        return None
    lists = queries.shown
    shown = lists.items[lists.offsets[group] : lists.offsets[group + 1]]
    return [loaded.state.catalogue.id_of(int(i)) for i in dict.fromkeys(shown.tolist())]


def _request_context(queries: Queries, group: int) -> dict[str, str | float]:
    """What the request said when a list was shown; nothing where no list is asked about."""
    lists = queries.shown
    return {} if lists is None else request_context(lists.context[group])


def length_of(queries: Queries) -> int:
    """Places of a list: what was shown at the most, or `LIST_LENGTH`."""
    if queries.shown is None:
        return LIST_LENGTH
    return int(np.diff(queries.shown.offsets).max(initial=1))


@dataclass
class BaselineResults:
    """Baselines, with those that could not be had."""

    lists: list[RankedLists] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    popularity: Longs = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64[N]: people who acted on each item before the first query."""

    def attempt(self, name: str, make: Callable[[], RankedLists]) -> None:
        """Take what `make` gives; whatever stops it is written down, for the page must say it."""
        try:
            self.lists.append(make())
        except Exception as error:
            self.failed[name] = f"{type(error).__name__}: {error}".strip()[:300]


def popularity_at(loaded: "LoadedRelease", queries: Queries) -> PopularityAt:
    """Past events of each item as of each question."""
    known = _joined(loaded, loaded.state.user_ids(), int(queries.now.max(initial=0)))
    return PopularityAt.of(known, queries.now, known.n_items)


def baseline_lists_of(
    loaded: "LoadedRelease",
    queries: Queries,
    frozen: "RecallSource | None",
    caps: ListCaps,
) -> BaselineResults:
    """The baselines as of the first query: they see what was known then and nothing else, and are
    capped as the release's lists are."""
    start = int(queries.now.min())
    before = _joined(loaded, loaded.state.user_ids(), start)
    found = BaselineResults(popularity=baselines.popularity_of(before, before.n_items))
    if queries.shown is not None:
        _of_shown(found, queries)
        return found
    _from_events(found, loaded, queries, before, start, caps.depth(LIST_LENGTH))
    popular = found.lists[0].items
    for name, source in loaded.recall.proposing.items():
        label = "text alone" if name == "text" else name
        found.attempt(label, partial(_single_source, label, source, loaded, queries, popular))
    _fitted(found, loaded, queries, before, popular)
    if frozen is None:
        found.absent[FROZEN] = (
            "the workspace holds no vectors of the untuned encoder for these items"
        )
    else:
        found.attempt(FROZEN, partial(_single_source, FROZEN, frozen, loaded, queries, popular))
    found.lists = [
        RankedLists(made.name, *caps.cut(made.items, made.scores, LIST_LENGTH))
        for made in found.lists
    ]
    return found


def _of_shown(found: BaselineResults, queries: Queries) -> None:
    """Among what was shown: as it was shown, and by popularity."""
    lists = queries.shown
    assert lists is not None
    length = length_of(queries)
    place = np.arange(len(lists.items)) - np.repeat(lists.offsets[:-1], np.diff(lists.offsets))
    for name, score in (
        ("as shown", -place.astype(np.float64)),
        ("popularity", found.popularity[lists.items].astype(np.float64)),
    ):
        found.lists.append(ranked_candidates(name, lists.offsets, lists.items, score, length))


def _from_events(
    found: BaselineResults,
    loaded: "LoadedRelease",
    queries: Queries,
    before: Interactions,
    start: int,
    length: int,
) -> None:
    catalogue, n, past = loaded.state.catalogue, before.n_items, queries.past
    offered = catalogue.available
    found.lists.append(baselines.popular(before, past, length, n_items=n, offered=offered))
    if loaded.bundle.facts["windows"]["scheme"] == "ordinal":
        why = "timestamps carry order only, so nothing is recent"
        found.absent |= {"recent popularity": why, "most recent": why}
        return
    found.attempt(
        "recent popularity",
        lambda: baselines.recently_popular(
            before, past, length, n_items=n, now=start, offered=offered
        ),
    )
    found.attempt(
        "most recent",
        lambda: baselines.newest(
            before, past, length, n_items=n, now=start, created_at=catalogue.created_at,
            offered=offered,
        ),
    )  # fmt: skip


def _fitted(
    found: BaselineResults,
    loaded: "LoadedRelease",
    queries: Queries,
    before: Interactions,
    popular: Ints,
) -> None:
    """References that the release does without, fitted with their default params."""
    from recsys.encoder.text import item_texts
    from recsys.retrieval.fitted_source import SourceInputs
    from recsys.training.sources.fit_source import applicable_sources, fit_one

    missing = [name for name in REFERENCES if name not in loaded.recall.proposing]
    if not missing:
        return
    catalogue = loaded.state.catalogue
    template = str(loaded.bundle.facts["template"])
    extra = SourceInputs(catalogue, item_texts(catalogue, template), None)
    workers = len(os.sched_getaffinity(0))

    def fitted(name: str) -> RankedLists:
        source = fit_one(name, before, extra, {}, seed=0, workers=workers)
        return _single_source(name, source, loaded, queries, popular)

    for name, applies, reason in applicable_sources(before, extra, None, np.inf, np.inf):
        if name not in missing:
            continue
        if not applies:
            found.absent[name] = reason
            continue
        found.attempt(name, partial(fitted, name))


def _single_source(
    name: str, source: "RecallSource", loaded: "LoadedRelease", queries: Queries, popular: Ints
) -> RankedLists:
    """One source's lists, as long as those of popular items, which fill it up where it has nothing to
    say."""
    from recsys.training.night.test_lists import fill_up

    state, length = loaded.state, popular.shape[1]
    blocked, scored = state.catalogue.blocked.copy(), []
    base = blocked.copy()
    for user, now in zip(queries.users, queries.now.tolist(), strict=True):
        history = state.history(user, now)
        blocked[history.item] = 1
        found = source.recall(history, length, now, blocked)
        blocked[history.item] = base[history.item]
        scored.append((found.items, found.scores))
    lists = RankedLists.of(name, scored, length)
    return RankedLists(name, fill_up(lists.items, popular), lists.scores)


def segments_of(
    loaded: "LoadedRelease", queries: Queries, popularity: PopularityAt, own: Sequence[str]
) -> dict[str, SegmentLabels]:
    """Users by history, items by popularity and category, and one's own columns."""
    truth, catalogue = queries.truth, loaded.state.catalogue
    found = {
        segments.BY_HISTORY: segments.by_history(np.diff(queries.past.offsets)),
        "users": segments.by_activity(np.diff(queries.past.offsets)),
        "items": segments.by_item_popularity(truth, popularity),
    }
    known = truth.items < catalogue.n_items
    place = np.where(known, truth.items, 0)

    def of_items(codes: Ints, words: Sequence[str]) -> SegmentLabels:
        names = np.array([*words, None], dtype=object)
        return segments.from_column(list(names[np.where(known, codes[place], -1)]), "relevant")

    if len(catalogue.category_names) > 1:
        found["category"] = of_items(catalogue.category_codes, catalogue.category_names)
    if queries.types is not None:
        found["event type"] = queries.types
    if queries.shown is not None and len(set(queries.shown.surface)) > 1:
        found["surface"] = segments.from_column(list(queries.shown.surface))
    for column in own:
        if column in catalogue.categorical_names:
            found[column] = of_items(catalogue.categorical(column), catalogue.values_of(column))
        else:
            values = [loaded.state.user_attributes(u).get(column) for u in queries.users]
            if any(v is not None for v in values):
                found[column] = segments.from_column(values)
    return found


def frozen_source(folder: Path, n_items: int) -> "RecallSource | None":
    """The untuned encoder that a night of this workspace left, if its vectors are of these items."""
    from recsys.encoder.tower import UNFITTED, InterestSource

    for place in sorted(folder.glob("*/vectors.npy"), key=lambda p: -p.stat().st_mtime):
        vectors = np.load(place, mmap_mode="r")
        if len(vectors) == n_items:
            source = InterestSource.open(place.parent / "encoder", vectors, UNFITTED)
            return cast("RecallSource", source)
    return None
