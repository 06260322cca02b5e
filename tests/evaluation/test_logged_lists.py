"""Which list an event followed: by name, by the latest showing, within the window, once."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas import columns as c
from recsys.evaluation.logged_lists import credited, read_events, read_lists

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
EVER = START + 10**15


def at(second):
    return datetime.fromtimestamp(START / 1e6 + second, UTC)


@pytest.fixture
def logged(tmp_path):
    """Lists (user, second, items, more) and events (user, item, second, more) as read tables."""

    def write(lists, events):
        rows = [
            {c.IMPRESSION_ID: f"l{n}", c.USER_ID: user, c.TIMESTAMP: at(second), c.ITEM_IDS: items,
             c.TEAMS: None, c.RULES: None, c.DEGRADED: None, c.SCORES: None, **(more[0] if more else {})}
            for n, (user, second, items, *more) in enumerate(lists)
        ]  # fmt: skip
        acts = [
            {c.USER_ID: user, c.ITEM_ID: item, c.EVENT_TYPE: "click", c.TIMESTAMP: at(second),
             c.EVENT_ID: f"e{n}", c.IMPRESSION_ID: None, **(more[0] if more else {})}
            for n, (user, item, second, *more) in enumerate(events)
        ]  # fmt: skip
        for name, table in (("impressions", rows), ("events", acts)):
            pq.write_table(pa.Table.from_pylist(table), tmp_path / f"{name}.parquet")
        lists = read_lists([tmp_path / "impressions.parquet"], 0, EVER)
        return lists, read_events([tmp_path / "events.parquet"] * 2, lists, EVER)

    return write


def found(lists, events, within=100 * SECOND):
    rows = credited(lists, events, within)
    return [None if r < 0 else (lists.ids[lists.owner[r]], int(lists.place[r]) + 1) for r in rows]


def test_an_event_belongs_to_the_latest_list_that_showed_the_item(logged):
    lists, events = logged(
        [("u", 0, ["a", "b"]), ("u", 10, ["b", "c"]), ("v", 5, ["a"])],
        [("u", "b", 12), ("u", "b", 9), ("u", "a", 12), ("v", "b", 12), ("w", "a", 12),
         ("u", "x", 12), ("u", "c", 9)],
    )  # fmt: skip
    assert found(lists, events) == [("l1", 1), ("l0", 2), ("l0", 1), None, None, None, None]


def test_the_window_ends_and_nothing_counts_before_the_list(logged):
    lists, events = logged(
        [("v", 0, ["b"]), ("u", 10, ["a"])],
        [("u", "a", 10), ("u", "a", 109), ("u", "a", 110), ("u", "a", 9)],
    )
    assert found(lists, events) == [("l1", 1), ("l1", 1), None, None]


def test_a_named_list_is_the_one_if_it_held_the_item(logged):
    named = {c.IMPRESSION_ID: "l0"}
    lists, events = logged(
        [("u", 0, ["a", "b"]), ("u", 10, ["b"])],
        [("u", "b", 12, named), ("u", "c", 12, named), ("v", "b", 12, named),
         ("u", "b", 12, {c.IMPRESSION_ID: "unknown"})],
    )  # fmt: skip
    assert found(lists, events) == [("l0", 2), None, None, ("l1", 1)]


def test_an_event_in_two_tables_counts_once(logged):
    _, events = logged([("u", 0, ["a"])], [("u", "a", 1), ("u", "a", 2, {c.EVENT_ID: None})])
    # Without an id nobody can tell; those of the second table count too.
    assert len(events.time) == 3


def test_marks_of_rules_teams_and_degraded_answers_are_read(logged):
    lists, _ = logged(
        [
            ("u", 0, ["a", "b"], {c.RULES: json.dumps({"b": "promo"}), c.SCORES: [0.5, 0.1]}),
            ("u", 1, ["a", "b"], {c.TEAMS: ["1", "2"], c.DEGRADED: ["ranking_late"]}),
        ],
        [("u", "a", 2)],
    )
    assert list(lists.ruled) == [False, True, False, False]
    assert list(lists.team) == [None, None, "1", "2"]
    assert list(lists.degraded) == [False, True]
    assert lists.first_score[0] == 0.5
    part = lists.take([1])
    assert (list(part.ids), list(part.team), len(part.items)) == (["l1"], ["1", "2"], 2)


def test_nothing_logged_is_no_fault(tmp_path):
    lists = read_lists([tmp_path / "none.parquet"], 0, EVER)
    events = read_events([], lists, EVER)
    assert (len(lists), len(credited(lists, events, SECOND))) == (0, 0)
