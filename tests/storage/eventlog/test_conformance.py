"""What every log must do, whatever store is behind it."""

import subprocess
import sys
import threading

import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.storage.eventlog import ImpressionBuffer, export, open_log
from recsys.storage.eventlog.log import event_write, impression_write


def event(user="u", item="i", **more):
    return {"user_id": user, "item_id": item, "event_type": "click", "timestamp": 5, **more}


def shown(impression_id="m", user="u", items=("a", "b")):
    return {
        "impression_id": impression_id,
        "user_id": user,
        "timestamp": 7,
        "item_ids": list(items),
        "propensities": [1.0] * len(items),
        "model_version": "3",
    }


def test_records_come_back_in_order_with_what_was_written(log):
    first = log.append_events([event(event_id="e1", value=4.5, received_at=11)])[0]
    second = log.put_item({"item_id": "i", "title": "Ünïcode 'quoted' \x00 🎬", "price": 3.0})
    third = log.append_impressions([shown()])[0]
    assert first < second < third
    records = log.read(0)
    assert [r.kind for r in records] == ["event", "item", "impression"]
    assert [r.position for r in records] == [first, second, third]
    assert records[0].payload == event(event_id="e1", value=4.5)
    assert records[0].received_at == 11
    assert records[1].payload["title"] == "Ünïcode 'quoted' \x00 🎬"
    assert log.read(second) == records[2:]
    assert log.read(0, limit=2) == records[:2]
    assert (log.last_position(), log.clocks()[0]) == (third, records[2].received_at)


def test_an_empty_log_is_empty(log):
    assert (log.read(0), log.last_position(), log.clocks()[0]) == ([], 0, 0)
    assert log.append_events([]) == []


def test_a_repeated_event_id_keeps_the_first_event_and_its_position(log):
    first, second = log.append_events([event(event_id="e1"), event(event_id="e2")])
    again = log.append_events([event(item="other", event_id="e1"), event(event_id="e3")])
    assert again[0] == first
    assert again[1] > second
    assert log.append_events([event(event_id="x"), event(event_id="x")])[0] == log.last_position()
    assert len(log.read(0)) == 4
    assert log.read(0)[0].payload["item_id"] == "i"


def test_an_event_id_does_not_collide_with_an_impression(log):
    log.append_impressions([shown("m")])
    log.append_events([event(event_id="m"), event(event_id="impression:m")])
    assert len(log.read(0)) == 3


def test_a_group_knows_repeats_within_itself_and_of_what_was_erased(log):
    log.append_events([event(user="gone", event_id="erased"), event(event_id="there")])
    log.forget_user("gone")
    group = [event(event_id=name) for name in ("a", "there", "b", "a", "erased", "c")]
    a, there, b, again, erased, last = log.append_events(group)
    assert (erased, there) == (1, 2)
    assert a == again
    assert 3 < a < b < last
    read = [r.payload["event_id"] for r in log.read(3)]
    assert read == ["a", "b", "c"]


def test_events_without_an_id_get_one(log):
    log.append_events([event(), event()])
    ids = [r.payload["event_id"] for r in log.read(0)]
    assert len(set(ids)) == 2


def test_a_forgotten_user_leaves_a_tombstone_and_nothing_else(log):
    log.append_events([event(user="gone", event_id="e1"), event(user="stays")])
    log.append_impressions([shown(user="gone")])
    tombstone = log.forget_user("gone", received_at=99)
    records = log.read(0)
    assert [r.kind for r in records] == ["event", "forget"]
    assert records[0].payload["user_id"] == "stays"
    assert records[1] == (tombstone, "forget", {"user_id": "gone"}, 99)
    # A late repetition of what was erased does not bring it back.
    assert log.append_events([event(user="gone", event_id="e1")])[0] < tombstone
    assert len(log.read(0)) == 2


def test_a_list_made_before_its_person_was_forgotten_is_not_written(uri):
    """It waited in the buffer of another worker, which did not know of the wish yet."""
    with open_log(uri) as log, open_log(uri) as other:
        before = log.append_events([event(user="gone")])[0]
        buffer = ImpressionBuffer(other, interval=600)
        buffer.add({**shown("late", user="gone"), "known_position": before})
        buffer.add({**shown("kept"), "known_position": before})
        tombstone = log.forget_user("gone", received_at=99)
        buffer.close()
        # Of lists that do not say what they knew, the time decides.
        timed = [shown("early", user="gone"), {**shown("new", user="gone"), "timestamp": 100}]
        assert other.append_impressions(timed)[0] == tombstone
        other.append_impressions([{**shown("again", user="gone"), "known_position": tombstone}])
        lists = [r.payload["impression_id"] for r in log.read(0) if r.kind == "impression"]
        assert lists == ["kept", "new", "again"]
        assert log.forget_user("gone", received_at=199) > tombstone
        assert [r.kind for r in log.read(0)] == ["forget", "impression", "forget"]


def test_a_late_list_that_others_wrote_is_left_out_of_the_export(log, tmp_path, monkeypatch):
    log.append_events([event(user="gone")])
    tombstone = log.forget_user("gone", received_at=99)
    monkeypatch.setattr(log, "_tombstones", lambda user_ids: {})
    late = {**shown("late", user="gone"), "known_position": tombstone - 1}
    log.append_impressions([late, {**shown("new", user="gone"), "known_position": tombstone}])
    counts = export(log, 0, log.last_position(), tmp_path / "out")
    assert (counts["impressions"], counts["forgets"]) == (1, 1)
    lists = pq.read_table(tmp_path / "out" / "impressions.parquet").to_pylist()
    assert [row["impression_id"] for row in lists] == ["new"]


def test_concurrent_writers_get_distinct_positions_and_a_follower_misses_nothing(uri):
    """Two processes' worth of logs write while a third follows by position alone."""
    logs = [open_log(uri) for _ in range(3)]
    positions = []

    def write(log, name):
        for n in range(40):
            positions.append(log.append_events([event(event_id=f"{name}-{n}")])[0])

    threads = [
        threading.Thread(target=write, args=(log, f"{place}-{copy}"))
        for place, log in enumerate(logs[:2])
        for copy in range(4)
    ]
    for thread in threads:
        thread.start()
    followed, after = [], 0
    while any(thread.is_alive() for thread in threads) or logs[2].last_position() > after:
        records = logs[2].read(after, limit=7)
        followed += [r.position for r in records]
        after = records[-1].position if records else after
    for log in logs:
        log.close()
    assert len(set(positions)) == 320
    assert followed == sorted(positions)


def test_what_was_answered_survives_a_killed_process(uri):
    """A process is killed right after its call returned; the event is there."""
    program = (
        "import os, signal, sys\n"
        "from recsys.storage.eventlog import export, EventLog, open_log\n"
        "log = open_log(sys.argv[1])\n"
        "log.append_events([{'user_id': 'u', 'item_id': 'i', 'event_type': 'x', 'timestamp': 1}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, uri], check=False)
    assert done.returncode == -9
    with open_log(uri) as log:
        assert [r.payload["item_id"] for r in log.read(0)] == ["i"]


def test_export_writes_the_range_as_tables(log, tmp_path):
    log.append_events([event(event_id="before")])
    after = log.last_position()
    log.append_events([event(event_id="e1", value=4.5, received_at=11)])
    log.put_item({"item_id": "i", "title": "T", "tags": ["a"], "price": 3, "kind": "new"})
    log.put_item({"item_id": "j", "title": "U", "price": 2.5, "kind": 7, "available": False})
    log.append_impressions([shown()])
    until = log.last_position()
    log.append_events([event(event_id="later")])
    counts = export(log, after, until, tmp_path / "out")
    assert counts == {
        "events": 1, "items": 2, "impressions": 1, "users": 0, "forgets": 0, "opt_outs": 0
    }  # fmt: skip
    events = pq.read_table(tmp_path / "out" / "events.parquet").to_pylist()
    assert [e["event_id"] for e in events] == ["e1"]
    assert events[0]["timestamp"].timestamp() == 5e-6
    assert after < events[0]["position"] <= until
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pydict()
    assert items["price"] == [3.0, 2.5]
    assert items["kind"] == ["new", "7"]
    assert items["available"] == [None, False]
    lists = pq.read_table(tmp_path / "out" / "impressions.parquet").to_pylist()
    assert lists[0]["item_ids"] == ["a", "b"]
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".parquet"] * 6


def test_the_buffer_writes_in_groups_and_counts_what_it_loses(log, wait_until):
    buffer = ImpressionBuffer(log, capacity=3, interval=30)
    for n in range(5):
        buffer.add(shown(f"m{n}"))
    assert (len(buffer), buffer.lost) == (3, 2)
    buffer.forget_user("nobody", "user_id")
    buffer.flush()
    assert buffer.written == 3
    assert [r.payload["impression_id"] for r in log.read(0)] == ["m2", "m3", "m4"]
    buffer.add(shown("m5", user="gone"))
    buffer.forget_user("gone", "user_id")
    stop = threading.Thread(target=buffer.close)
    stop.start()
    stop.join()
    assert len(log.read(0)) == 3


def test_the_buffer_is_bounded_by_what_its_lists_take(log):
    buffer = ImpressionBuffer(log, interval=600, most_bytes=1_000_000)
    long = {"item_ids": [f"item {n}" for n in range(2_000)]}
    for n in range(20):
        buffer.add(shown(f"m{n}") | long)
    assert len(buffer) == 3
    buffer.add(shown("with a long context") | {"context": "x" * 900_000})
    assert (len(buffer), buffer.lost) == (1, 20)
    buffer.flush()
    for n in range(700):
        buffer.add(shown(f"n{n}"))
    assert len(buffer) == 700
    buffer.close()
    assert len(log.read(0)) == 701


def test_a_closed_log_refuses_writes(uri):
    log = open_log(uri)
    log.close()
    with pytest.raises(Exception, match="closed"):
        log.append_events([event()])


@pytest.mark.parametrize("wrong", ["mysql://host/x", "/proc/none/log.sqlite"])
def test_wrong_addresses_are_explained(wrong):
    with pytest.raises(UsageError):
        open_log(wrong)


def test_a_visit_moves_whole_and_is_forgotten(log):
    log.append_events([event("s", "a", event_id="e1", value=2.0), event("s", "b", event_id="e2")])
    log.append_events([event("u", "c", event_id="e3")])
    entries = log.submit_move("s", "u", 50).result()
    kept = [r for r in log.read(0) if r.kind == "event"]
    assert [(r.payload["user_id"], r.payload["item_id"]) for r in kept] == [
        ("u", "c"), ("u", "a"), ("u", "b"),
    ]  # fmt: skip
    assert [r.position for r in kept[1:]] == [e.position for e in entries[:2]]
    assert (kept[1].payload["value"], kept[1].payload["timestamp"]) == (2.0, 5)
    assert {r.received_at for r in kept[1:]} == {50}
    assert [r.payload for r in log.tombstones()] == [{"user_id": "s"}]
    assert log.submit_move("s", "u", 60).result() == []
    # What is sent again counts once, by its first id.
    assert log.submit([event_write(event("s", "a", event_id="e1"))]).result()[0].fresh is False
    assert len(log.read(0)) == 4


def test_lists_of_a_visit_keep_their_places_and_are_forgotten_with_the_user(log, tmp_path):
    told = {"experiment": "spring", "arm": "control", "unit": "session:s", "features": "{}"}
    lists = [
        {"impression_id": "i1", "user_id": "s", "timestamp": 5, "item_ids": ["a", "b"], **told},
        {"impression_id": "i2", "user_id": "s", "timestamp": 6, "item_ids": ["c"], "rules": "{}"},
        {"impression_id": "i3", "user_id": "v", "timestamp": 7, "item_ids": ["d"]},
    ]
    before = log.append_impressions(lists)
    log.append_events([event("s", "a", event_id="e1", impression_id="i1")])
    entries = log.submit_move("s", "u", 50).result()
    assert len(entries) == 2, "the copy of the event, and the tombstone"
    shown = [r for r in log.read(0) if r.kind == "impression"]
    assert [r.position for r in shown] == before
    kept = {"impression_id": "i1", "user_id": "u", "timestamp": 5, "item_ids": ["a", "b"]}
    assert shown[0].payload == kept
    assert [r.payload["user_id"] for r in shown] == ["u", "u", "v"]
    assert shown[1].payload["rules"] == "{}"
    # The page names the list that it knows, and sends it once more.
    (clicked,) = [r.payload for r in log.read(0) if r.kind == "event"]
    assert (clicked["user_id"], clicked["impression_id"]) == ("u", "i1")
    assert log.submit([impression_write(lists[0])]).result()[0].fresh is False
    # So do the night's tables.
    export(log, 0, log.last_position(), tmp_path / "drained")
    drained = pq.read_table(tmp_path / "drained" / "impressions.parquet").to_pylist()
    assert [(row["impression_id"], row["user_id"]) for row in drained] == [
        ("i1", "u"), ("i2", "u"), ("i3", "v"),
    ]  # fmt: skip
    log.forget_user("u")
    assert [r.payload["user_id"] for r in log.read(0) if r.kind == "impression"] == ["v"]
    assert log.submit([impression_write(lists[0])]).result()[0].fresh is False


def test_a_visit_without_events_moves_its_lists(log):
    log.append_impressions(
        [{"impression_id": "i", "user_id": "s", "timestamp": 5, "item_ids": ["a"]}]
    )
    assert len(log.submit_move("s", "u", 50).result()) == 1
    assert [r.payload["user_id"] for r in log.read(0)] == ["u", "s"]
    assert log.submit_move("s", "u", 60).result() == []


def test_what_waits_for_a_visit_is_handed_over(log):
    buffer = ImpressionBuffer(log, interval=60)
    for n, user in enumerate(("s", "v")):
        buffer.add({"impression_id": f"i{n}", "user_id": user, "timestamp": 5, "item_ids": ["a"]})
    buffer.hand_over("s", "u")
    buffer.close()
    assert sorted(r.payload["user_id"] for r in log.read(0)) == ["u", "v"]


def test_a_move_that_fails_in_between_leaves_everything_as_it_was(log, monkeypatch):
    log.append_events([event("s", "a", event_id="e1")])

    def fail(stone, standing):
        raise RuntimeError("killed between the copies and the tombstone")

    monkeypatch.setattr(log, "_buried", fail)
    with pytest.raises(RuntimeError):
        log.submit_move("s", "u", 50).result()
    monkeypatch.undo()
    assert [r.payload["user_id"] for r in log.read(0)] == ["s"]
    assert len(log.submit_move("s", "u", 50).result()) == 2
