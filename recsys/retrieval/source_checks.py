"""What every source must do, tried in a small made-up world: the conformance suite as plain functions.

A night runs it over sources of a user's own before any work; `recsys.testing.SourceTests` is the same
for their tests. Each check raises AssertionError with what was found and expected.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, EMPTY_HISTORY, History, Interactions, Ints
from recsys.features.packed_strings import PackedStrings
from recsys.features.protocols import Mask
from recsys.retrieval.fitted_source import FittableSource, SourceInputs
from recsys.retrieval.source_kinds import OWN_SETTING, load_source
from recsys.storage.plug_ins import line_of, place_of

N_USERS, N_ITEMS, LENGTH = 60, 30, 6
UNMET: Final = 2
"""Items, the last ones, without any event."""
LIMIT: Final = 5


class SmallWorld(NamedTuple):
    """Two tastes: even users act on even items."""

    interactions: Interactions
    inputs: SourceInputs
    histories: list[History]
    now: int


@lru_cache(maxsize=1)
def small_world() -> SmallWorld:
    """60 users, 30 items, 360 events of one type over a year."""
    draw = np.random.default_rng(7)
    met = N_ITEMS - UNMET
    rows = []
    for user in range(N_USERS):
        own = draw.choice(np.arange(user % 2, met, 2), LENGTH, replace=False)
        rows += [(step, user, int(item)) for step, item in enumerate(own)]
    rows.sort()
    n = len(rows)
    events = Interactions(
        user=np.array([u for _, u, _ in rows], np.int32),
        item=np.array([i for _, _, i in rows], np.int32),
        kind=np.zeros(n, np.int16),
        time=np.arange(1, n + 1, dtype=np.int64) * DAY,
        value=np.full(n, np.nan, np.float32),
        weight=np.full(n, 2.0, np.float32),
        grade=np.ones(n, np.int8),
        position=np.arange(n, dtype=np.int64),
        user_ids=PackedStrings.of([f"u{u}" for u in range(N_USERS)]),
        kinds=("click",),
        n_items=N_ITEMS,
    )
    table = events.histories()
    histories = [table.of(user) for user in range(8)]
    return SmallWorld(events, _inputs(), histories, (n + 2) * DAY)


def _inputs() -> SourceInputs:
    titles = [f"{('red', 'blue')[i % 2]} thing number {i}" for i in range(N_ITEMS)]
    catalogue = Catalogue.from_table(
        pa.table(
            {
                c.ITEM_ID: [f"i{i}" for i in range(N_ITEMS)],
                c.TITLE: titles,
                c.DESCRIPTION: pa.nulls(N_ITEMS, pa.string()),
                c.TAGS: [[f"shelf{i % 4}"] for i in range(N_ITEMS)],
                c.CATEGORY: [f"hall{i % 2}" for i in range(N_ITEMS)],
                c.CREATED_AT: pa.nulls(N_ITEMS, pa.timestamp("us", "UTC")),
                c.AVAILABLE: [True] * N_ITEMS,
                c.VECTOR: [[1.0 - i % 2, i % 2, i / N_ITEMS] for i in range(N_ITEMS)],
            }
        )
    )
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SourceInputs(catalogue, titles, vectors)


def fitted_in(world: SmallWorld, kind: type[FittableSource], seed: int = 1) -> FittableSource:
    """A source of the world's events, with its default params."""
    return kind.fit(world.interactions, world.inputs, {}, seed=seed, workers=1)


def _free() -> Mask:
    return np.zeros(N_ITEMS, np.uint8)


def names_itself(kind: type[FittableSource]) -> None:
    """It has a name, columns, params, and knows how far its data reached."""
    world = small_world()
    source = fitted_in(world, kind)
    assert source.name == kind.name, f"name: found {source.name}, expected {kind.name}"
    assert len(source.columns) >= 1, "columns: found none, expected at least one"
    last = int(world.interactions.time.max())
    assert source.fit_until == last, f"fit_until: found {source.fit_until}, expected {last}"
    known = sorted(kind.Params.model_fields)
    assert sorted(source.params) == known, (
        f"params: found {sorted(source.params)}, expected {known}"
    )


def scores_every_item(kind: type[FittableSource]) -> None:
    """A row per item asked for, in order; none for none."""
    world = small_world()
    source = fitted_in(world, kind)
    for items in (np.arange(N_ITEMS, dtype=np.int32), np.array([3, 1], np.int32), _no_items()):
        found = source.score(world.histories[0], items, world.now)
        expected = (len(items), len(source.columns))
        assert found.shape == expected, f"score: found shape {found.shape}, expected {expected}"
        assert not np.isinf(found).any(), "score: found infinity, expected numbers or NaN"
    every = source.score(world.histories[0], np.arange(N_ITEMS, dtype=np.int32), world.now)
    some = source.score(world.histories[0], np.array([3, 1], np.int32), world.now)
    assert np.array_equal(some, every[[3, 1]], equal_nan=True), (
        "score: an item's score changes with the items asked beside it"
    )


def takes_a_stranger(kind: type[FittableSource]) -> None:
    """A user of whom nothing is known is no error."""
    world = small_world()
    source = fitted_in(world, kind)
    source.score(EMPTY_HISTORY, np.array([0], np.int32), world.now)
    source.recall(EMPTY_HISTORY, LIMIT, world.now, _free())


def takes_an_unknown_item(kind: type[FittableSource]) -> None:
    """An item beyond the fit's is no error and has no score, also in a history."""
    world = small_world()
    source = fitted_in(world, kind)
    beyond = np.array([N_ITEMS + 3], np.int32)
    found = source.score(world.histories[0], beyond, world.now)
    assert np.isnan(found).all(), f"score of an unknown item: found {found}, expected NaN"
    history = world.histories[0]
    longer = history.joined(history.last(1))._replace(
        item=np.append(history.item, beyond).astype(np.int32)
    )
    listed = source.recall(longer, LIMIT, world.now, np.zeros(N_ITEMS + 5, np.uint8))
    assert (listed.items < N_ITEMS).all(), "recall: found an item that was not there at the fit"


def proposes_best_first(kind: type[FittableSource]) -> None:
    """At most as many as asked for, each once, best first, none that is blocked."""
    world = small_world()
    source = fitted_in(world, kind)
    for history in world.histories:
        blocked = _free()
        blocked[history.item] = 1
        found = source.recall(history, LIMIT, world.now, blocked)
        items, scores = found.items.tolist(), found.scores
        assert len(items) == len(scores), "recall: items and scores differ in length"
        assert len(items) <= LIMIT, f"recall: found {len(items)} items, expected up to {LIMIT}"
        assert len(set(items)) == len(items), f"recall: found an item twice in {items}"
        assert not np.isnan(scores).any(), "recall: found a score of NaN"
        assert (np.diff(scores) <= 0).all(), f"recall: found {scores.tolist()}, expected best first"
        assert not blocked[items].any(), f"recall: found a blocked item in {items}"
    nothing = source.recall(world.histories[0], LIMIT, world.now, np.ones(N_ITEMS, np.uint8))
    assert not len(nothing.items), "recall: found items although all are blocked"


def answers_alike(kind: type[FittableSource]) -> None:
    """The same seed gives the same source, and asking changes nothing."""
    world = small_world()
    first, again = fitted_in(world, kind), fitted_in(world, kind)
    items = np.arange(N_ITEMS, dtype=np.int32)
    before = first.score(world.histories[0], items, world.now)
    for history in world.histories:
        first.recall(history, LIMIT, world.now, _free())
    assert np.array_equal(
        first.score(world.histories[0], items, world.now), before, equal_nan=True
    ), "score: asking others changed the answer"
    assert np.array_equal(
        again.score(world.histories[0], items, world.now), before, equal_nan=True
    ), "fit: the same seed gave another source"


def sees_no_future(kind: type[FittableSource]) -> None:
    """What a user does at or after the moment asked for does not change the answer."""
    world = small_world()
    source = fitted_in(world, kind)
    history = world.histories[0]
    now = int(history.time[3])
    items = np.arange(N_ITEMS, dtype=np.int32)
    past = source.score(history.before(now), items, now)
    fewer = world.interactions.before(now)
    early = kind.fit(fewer, world.inputs, {}, seed=1, workers=1)
    assert early.fit_until < now, f"fit_until: found {early.fit_until}, expected before {now}"
    assert past.shape[0] == N_ITEMS, "score: a row is missing"


def depends_on_no_more_of_the_moment_than_it_says(kind: type[FittableSource]) -> None:
    """At moments of one `moment_key`, where it has that method, its answers are the same."""
    world = small_world()
    source = fitted_in(world, kind)
    if not hasattr(source, "moment_key"):
        return
    items = np.arange(N_ITEMS, dtype=np.int32)
    for history in (EMPTY_HISTORY, *world.histories):
        for later in (1, DAY // 24, DAY, 400 * DAY):
            moments = (world.now, world.now + later)
            first, second = (source.moment_key(history, now) for now in moments)
            assert isinstance(first, bytes), f"moment_key: found {type(first)}, expected bytes"
            if first != second:
                continue
            a, b = (source.score(history, items, now) for now in moments)
            assert np.array_equal(a, b, equal_nan=True), "score: changed where moment_key did not"
            x, y = (source.recall(history, LIMIT, now, _free()) for now in moments)
            assert np.array_equal(x.items, y.items), "recall: changed where moment_key did not"


def is_the_same_when_opened(kind: type[FittableSource]) -> None:
    """What was saved answers as what was fitted."""
    world = small_world()
    source = fitted_in(world, kind)
    with tempfile.TemporaryDirectory(prefix="recsys-source-") as place:
        source.save(Path(place))
        opened = load_source(Path(place))
        assert type(opened) is kind, f"load: found {type(opened)}, expected {kind}"
        assert opened.fit_until == source.fit_until, "load: fit_until differs"
        items = np.arange(N_ITEMS, dtype=np.int32)
        for history in (EMPTY_HISTORY, *world.histories):
            a, b = (s.score(history, items, world.now) for s in (source, opened))
            assert np.array_equal(a, b, equal_nan=True), "load: scores differ"
            x, y = (s.recall(history, LIMIT, world.now, _free()) for s in (source, opened))
            assert np.array_equal(x.items, y.items), "load: lists differ"


def refuses_unknown_params(kind: type[FittableSource]) -> None:
    """A param that it does not have is refused, not dropped."""
    world = small_world()
    try:
        kind.fit(world.interactions, world.inputs, {"no_such": 1.0}, seed=1, workers=1)
    except (UsageError, TypeError):
        return
    raise AssertionError("fit: took a param `no_such` that it does not declare")


def _no_items() -> Ints:
    return np.empty(0, np.int32)


CHECKS: Final[Mapping[str, Callable[[type[FittableSource]], None]]] = {
    check.__name__: check
    for check in (
        names_itself,
        scores_every_item,
        takes_a_stranger,
        takes_an_unknown_item,
        proposes_best_first,
        answers_alike,
        sees_no_future,
        depends_on_no_more_of_the_moment_than_it_says,
        is_the_same_when_opened,
        refuses_unknown_params,
    )
}
"""Name → check, each of which takes the class."""


def require_conforming(kind: type[FittableSource]) -> None:
    """Refuse a source that a night would stumble over.

    Raises:
        UsageError: the first check that it does not pass, with file and line.
    """
    for name, check in CHECKS.items():
        try:
            check(kind)
        except Exception as error:
            # A class of the user's own may raise anything; it is theirs to read.
            own = not isinstance(error, AssertionError)
            raise UsageError(
                "a source of your own must not be used",
                where=f"{OWN_SETTING}: {kind.__name__}, {line_of(error) if own else place_of(kind)}",
                found=f"{type(error).__name__}: {error}" if own else str(error),
                expected=f"{name.replace('_', ' ')}: {(check.__doc__ or '').strip()}",
                fix="correct it until recsys.testing.SourceTests passes, or take it out",
            ) from None
