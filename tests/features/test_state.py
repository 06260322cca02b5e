"""The fold: histories exact, counters by bucket, and the same bytes whichever way it was folded."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.limits import EVENT_TYPES
from recsys.data_schemas.log_record import LogRecord
from recsys.data_schemas.meaning import EventMeaning
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, HOUR, SECOND
from recsys.features.random_world import START, RandomWorld, item_table
from recsys.features.ranking_context import Count, CountPlan, OnlineCounts
from recsys.features.state import OnlineState
from recsys.storage.eventlog import open_log

FAR = np.iinfo(np.int64).max


def event(position, user="user-0", item="item-0", kind="click", time=START, **more):
    payload = {"user_id": user, "item_id": item, "event_type": kind, "timestamp": time, **more}
    return LogRecord(position, "event", payload, time)


def nobody_in(trial) -> OnlineState:
    """A state of the trial's items and types without any event."""
    return OnlineState.build(
        trial.interactions.where(np.zeros(len(trial.interactions), bool)),
        Catalogue.from_table(item_table(14)),
        bucket_us=HOUR,
        windows_us=[DAY],
        log_position=-1,
    )


@pytest.fixture
def empty(trial) -> OnlineState:
    return nobody_in(trial)


def clicks(state, now, *items, entity="item", window=0, types=("click",)):
    count = Count(entity, types, window)
    items = np.array(items, np.int32)
    return OnlineCounts(CountPlan([count]), state, items, now).of(count).tolist()


# -- bounds ---------------------------------------------------------------------------------------


def test_a_backfill_of_one_item_costs_the_same_however_much_came_before(empty):
    """60 posts of 1,000 events in hours of their own: 0.4 s in all (measured; the longest fold 20 ms),
    where a chain of cells took a minute and grew with the square."""
    hours = np.random.default_rng(7).permutation(60_000)
    folds = []
    for post in range(60):
        own = hours[post * 1000 : (post + 1) * 1000]
        records = [
            event(post * 1000 + n, user=f"user-{n}", item="item-1", time=START - int(hour) * HOUR)
            for n, hour in enumerate(own)
        ]
        began = time.process_time()
        empty.apply(records)
        folds.append(time.process_time() - began)
    assert clicks(empty, START + DAY, 1) == [60_000]
    assert clicks(empty, START - 29_999 * HOUR, 1, window=DAY) == [24]
    assert sum(folds) < 10
    assert max(folds[30:]) < 0.5


def test_event_types_behind_as_many_as_there_may_be_are_left_out(empty, tmp_path):
    """As the night leaves them out: 38,000 types were as many columns of every counter."""
    room = EVENT_TYPES - len(empty.kinds)
    many = [
        event(n, user=f"user-{n}", item="item-1", kind=f"type {n}", time=START)
        for n in range(40_000)
    ]
    assert empty.apply(many) == room
    assert len(empty.kinds) == EVENT_TYPES
    assert empty.skipped["too_many_types"] == 40_000 - room
    assert not empty.knows_user("user-39999")
    assert empty.apply([event(40_001, user="a", item="item-1", kind="type 3", time=START)]) == 1
    empty.save(tmp_path / "state")
    again = OnlineState.open(tmp_path / "state")
    assert again.kinds == empty.kinds
    assert again.skipped == empty.skipped


# -- histories ------------------------------------------------------------------------------------


def test_history_is_exact_and_ends_strictly_before_now(empty):
    empty.apply([event(0, time=START), event(1, item="item-1", time=START + 1)])
    assert empty.history("user-0", START).item.tolist() == []
    assert empty.history("user-0", START + 1).item.tolist() == [0]
    assert empty.history("user-0", START + 2).item.tolist() == [0, 1]
    assert empty.history("somebody", FAR).item.tolist() == []


def test_late_events_take_their_place_and_ties_go_by_the_log(empty):
    empty.apply(
        [
            event(0, item="item-3", time=START + 9),
            event(1, item="item-1", time=START + 5),
            event(2, item="item-2", time=START + 5),
        ]
    )
    assert empty.history("user-0", FAR).item.tolist() == [1, 2, 3]


def test_events_have_the_meaning_of_their_stars(empty):
    empty.apply([event(0, kind="rating", value=5.0), event(1, kind="rating", value=1), event(2)])
    empty.apply([event(3, kind="view", value=5.0)])
    history = empty.history("user-0", FAR)
    assert history.weight.tolist() == [5.0, -1.0, 2.0, 1.0]
    assert history.grade.tolist() == [3, -1, 1, 0]


def test_whole_log_gives_the_histories_of_the_tables(trial):
    state = trial.state()
    state.apply(trial.log)
    whole = trial.interactions.histories()
    for user in range(trial.interactions.n_users):
        for expected, found in zip(whole.of(user), state.history(f"user-{user}", FAR), strict=True):
            assert found.tolist() == expected.tolist()


# -- counters -------------------------------------------------------------------------------------


def test_counters_see_whole_buckets_before_nows_own(empty):
    empty.apply([event(0, time=START), event(1, time=START + HOUR)])
    assert clicks(empty, START + HOUR - 1, 0) == [0]
    assert clicks(empty, START + HOUR, 0) == [1]
    assert clicks(empty, START + 2 * HOUR, 0) == [2]


def test_windows_expire_exactly(empty):
    empty.apply([event(0, time=START)])
    assert clicks(empty, START + DAY + HOUR - 1, 0, window=DAY) == [1]
    assert clicks(empty, START + DAY + HOUR, 0, window=DAY) == [0]


def test_a_clock_that_steps_back_reads_what_it_would_have_read(empty):
    empty.apply([event(0, time=START), event(1, time=START + HOUR)])
    before = clicks(empty, START + HOUR, 0)
    clicks(empty, START + 40 * DAY, 0)
    assert clicks(empty, START + HOUR, 0) == before


def test_an_event_from_the_future_waits_for_the_clock(empty):
    empty.apply([event(0, time=START + 3 * DAY)])
    assert clicks(empty, START, 0) == [0]
    assert len(empty.history("user-0", START).item) == 0
    assert clicks(empty, START + 3 * DAY + HOUR, 0) == [1]


def test_a_late_event_changes_the_revision_and_a_current_one_does_not(empty):
    empty.counters(START)
    revision = empty.revision
    empty.apply([event(0, time=START)])
    assert empty.revision == revision
    empty.apply([event(1, time=START - HOUR)])
    assert empty.revision > revision


def test_an_event_type_that_never_occurred_counts_nothing(empty):
    empty.apply([event(0)])
    assert clicks(empty, START + DAY, 0, 1, types=("purchase",)) == [0, 0]
    assert clicks(empty, START + DAY, 0, types=("purchase", "click")) == [1]


def test_a_type_that_is_new_gets_a_code(empty):
    empty.apply([event(0, kind="bookmark")])
    assert clicks(empty, START + DAY, 0, types=("bookmark",)) == [1]
    assert clicks(empty, START + DAY, 0, types=()) == [1]
    assert empty.kinds[empty.history("user-0", FAR).kind[0]] == "bookmark"


# -- items, impressions, people -------------------------------------------------------------------


def test_a_posted_item_is_known_from_then_on(empty):
    empty.apply(
        [
            event(0, item="new"),
            LogRecord(1, "item", {"item_id": "new", "title": "N", "category": "c"}, START),
            event(2, item="new"),
        ]
    )
    assert empty.catalogue.index_of("new") == 14
    assert empty.skipped["unknown_item"] == 1
    assert clicks(empty, START + DAY, 14, entity="category") == [1]


def test_an_item_takes_its_counts_to_its_new_category_and_tags(empty):
    empty.apply([event(0, item="item-0"), event(1, item="item-1")])
    assert clicks(empty, START + DAY, 0, 1, entity="category") == [1, 1]
    changed = {"item_id": "item-0", "category": "category1", "tags": ["rare"]}
    empty.apply([LogRecord(2, "item", changed, START)])
    assert clicks(empty, START + DAY, 0, 1, entity="category") == [2, 2]
    assert clicks(empty, START + DAY, 0, entity="tag") == [1]
    assert clicks(empty, START + DAY, 1, entity="tag") == [1 + 1]  # its tags: tag1 and all


def test_lists_shown_are_counted_by_item(empty):
    shown = {"user_id": "u", "timestamp": START, "item_ids": ["item-1", "item-2", "gone"]}
    empty.apply([LogRecord(0, "impression", shown, START)])
    count = Count("shown", (), 0)
    items = np.arange(4, dtype=np.int32)
    found = OnlineCounts(CountPlan([count]), empty, items, START + DAY).of(count)
    assert found.tolist() == [0, 1, 1, 0]


def test_lists_of_a_visit_are_counted_once_when_they_become_a_users(trial, tmp_path):
    """By a state that read them before, as by one that reads the log from its start."""

    followed, count = nobody_in(trial), Count("shown", (), 0)
    items = np.arange(4, dtype=np.int32)
    shown = {"user_id": "s", "timestamp": START, "item_ids": ["item-1", "item-2"]}
    with open_log(tmp_path / "log.sqlite") as log:
        log.append_impressions([{**shown, "impression_id": "i"}])
        followed.apply(log.read(followed.log_position))
        log.submit_move("s", "u", START + 1).result()
        followed.apply(log.read(followed.log_position))
        replayed = nobody_in(trial)
        replayed.apply(log.read(0))
    for one in (followed, replayed):
        found = OnlineCounts(CountPlan([count]), one, items, START + DAY).of(count)
        assert found.tolist() == [0, 1, 1, 0]


def test_forgetting_removes_the_history_and_its_share_of_the_counters(trial):
    state = trial.state(until=100)
    state.apply(trial.log[100:])
    state.apply([LogRecord(len(trial.log), "forget", {"user_id": "user-1"}, 0)])
    others = trial.interactions.where(trial.interactions.user != 1)
    rebuilt = OnlineState.build(
        others,
        Catalogue.from_table(trial.table),
        bucket_us=HOUR,
        windows_us=(),
        log_position=len(trial.log),
    )
    assert not state.knows_user("user-1")
    assert state.user_attributes("user-1") == {}
    items = list(range(14))
    for entity in ("item", "category", "tag"):
        now = START + 14 * DAY
        assert clicks(state, now, *items, entity=entity) == clicks(
            rebuilt, now, *items, entity=entity
        )


def test_a_forgotten_user_may_come_back_without_a_past(trial, tmp_path):
    state = trial.state(until=100)
    state.apply([LogRecord(100, "forget", {"user_id": "user-1"}, 0), event(101, user="user-1")])
    assert state.history("user-1", FAR).item.tolist() == [0]
    state.save(tmp_path / "s")
    opened = OnlineState.open(tmp_path / "s")
    assert opened.history("user-1", FAR).item.tolist() == [0]
    assert opened.user_attributes("user-1") == {}
    told = {"born": 1960.0, "country": "at", "likes": "tag1"}
    assert opened.user_attributes("user-0") == told


def test_records_that_make_no_sense_are_counted_and_passed_over(empty):
    used = empty.apply(
        [
            LogRecord(0, "event", {"user_id": "u"}, 0),
            event(1, time="yesterday"),
            event(2, time=None),
            event(3, value="many"),
            LogRecord(4, "impression", {"item_ids": []}, 0),
            LogRecord(5, "item", {"title": "nameless"}, 0),
            LogRecord(6, "forget", {}, 0),
            event(7),
            event(8, user=17),
            LogRecord(9, "item", {"item_id": "new", "created_at": "once"}, 0),
            LogRecord(10, "item", {"item_id": "item-1", "price": "dear"}, 0),
        ]
    )
    assert used == 2, "one event, and the item that was there already"
    assert empty.skipped == {"unknown_item": 0, "malformed": 9, "too_many_types": 0}
    assert empty.log_position == 10
    assert empty.catalogue.n_items == 14


# -- one state, whichever way it was reached ------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 1000), st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 120)
)
def test_snapshot_and_log_give_the_same_bytes(tmp_path_factory, seed, sizes, until):
    folder = tmp_path_factory.mktemp("states")
    trial = RandomWorld.make(seed, n_events=120, n_lists=1)
    changes = [
        LogRecord(0, "item", {"item_id": "item-1", "category": "category0"}, 0),
        LogRecord(0, "item", {"item_id": "new", "tags": ["all"]}, 0),
        LogRecord(0, "forget", {"user_id": "user-2"}, 0),
    ]
    log = [r._replace(position=p) for p, r in enumerate([*trial.log, *changes, event(0)])]
    at_once = trial.state()
    at_once.apply(log)
    at_once.save(folder / "once")
    trial.state(until).save(folder / "snapshot")
    in_parts = OnlineState.open(folder / "snapshot")
    start = 0
    for number in range(1000):
        if start >= len(log):
            break
        size = sizes[number % len(sizes)]
        # Overlapping batches are safe: what is known already is skipped.
        in_parts.apply(log[max(0, start - 3) : start + size])
        start += size
        if number == 2:
            in_parts.save(folder / "between")
            in_parts = OnlineState.open(folder / "between")
    in_parts.save(folder / "parts")

    def read(name):
        files = sorted(f for f in (folder / name).rglob("*") if f.is_file())
        return {str(f.relative_to(folder / name)): f.read_bytes() for f in files}

    assert read("once") == read("parts")


def test_a_snapshot_opens_as_it_was_saved(trial, tmp_path, folder_bytes):
    state = trial.state(until=len(trial.log))
    state.save(tmp_path / "a")
    opened = OnlineState.open(tmp_path / "a")
    opened.save(tmp_path / "b")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    assert opened.log_position == len(trial.log) - 1


def test_a_state_without_anybody_works(tmp_path, empty):
    empty.save(tmp_path / "s")
    opened = OnlineState.open(tmp_path / "s")
    assert clicks(opened, START, 0) == [0]
    assert opened.history("user-0", FAR).item.tolist() == []
    opened.apply([event(0)])
    assert opened.history("user-0", START + SECOND).item.tolist() == [0]


def test_a_missing_snapshot_is_said_to_be_missing(tmp_path):
    with pytest.raises(RecsysError, match="there is no state snapshot here"):
        OnlineState.open(tmp_path)


def test_a_window_shorter_than_a_bucket_is_refused(trial):
    with pytest.raises(UsageError, match="not a whole number of buckets"):
        OnlineState.build(
            trial.interactions,
            Catalogue.from_table(trial.table),
            bucket_us=DAY,
            windows_us=[HOUR],
            log_position=-1,
        )


def test_users_without_events_are_not_kept(trial, tmp_path):
    nobody = replace(trial.interactions, user_ids=np.array([*trial.interactions.user_ids, "idle"]))
    state = OnlineState.build(
        nobody, Catalogue.from_table(trial.table), bucket_us=HOUR, windows_us=(), log_position=0
    )
    assert not state.knows_user("idle")


def test_a_snapshot_keeps_what_is_a_rating_and_on_which_scale(tmp_path, empty):
    scales = {"thumb": (-1.0, 1.0), "mark": None}
    empty.meaning = EventMeaning({"thumb": (2.0, 1)}, scales)
    empty.save(tmp_path / "state")
    assert OnlineState.open(tmp_path / "state").meaning == empty.meaning
