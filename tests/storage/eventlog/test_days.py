"""Days of the log: where they lie, what they know of each other, and how they go."""

import time

import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import parse_config
from recsys.storage.eventlog import LogReplaced, export, open_log
from recsys.storage.eventlog.adopt import drop_drained
from recsys.storage.eventlog.known import (
    ROWS,
    drained_before,
    exports,
    marks,
    read_adopted,
)
from recsys.storage.eventlog.log import opt_out_write, user_write
from recsys.storage.eventlog.retention import DAY
from recsys.storage.files import write_json
from recsys.storage.workspace import Workspace

TODAY = (time.time_ns() // 1000 // DAY + 1) * DAY


def event(n, user="u"):
    return {"user_id": user, "item_id": "i", "event_type": "x", "timestamp": 1, "event_id": f"e{n}"}


@pytest.fixture
def at(monkeypatch, uri):
    """Let it be another day: `at(day)`; the log's rows are stamped with it."""
    now = {"day": 0}
    if uri.startswith("postgres"):
        pytest.importorskip("psycopg")
        from recsys.storage.eventlog import postgres, postgres_days

        real = postgres._standing_of
        monkeypatch.setattr(
            postgres,
            "_standing_of",
            lambda rows: real(rows)._replace(clock=TODAY + now["day"] * DAY),
        )
        made = postgres_days.require_tables
        monkeypatch.setattr(
            postgres,
            "require_tables",
            lambda connection: made(connection, TODAY + now["day"] * DAY),
        )

    def go(day):
        now["day"] = day
        return TODAY + day * DAY

    return go


def append(log, at, day, numbers, user="u"):
    stamp = at(day)
    return log.append_events([{**event(n, user), "received_at": stamp} for n in numbers])


def ids(log):
    return [r.payload["event_id"] for r in log.read(0) if r.kind == "event"]


def test_days_follow_each_other_and_know_what_was_there(uri, at):
    at(0)
    with open_log(uri) as log:
        first = append(log, at, 0, range(5))
        second = append(log, at, 1, range(3, 8))
        third = append(log, at, 2, [0, 4, 8])
        assert second[:2] == first[3:]
        assert third[:2] == [first[0], first[4]]
        positions = [*first, *second[2:], third[2]]
        assert positions == sorted(set(positions))
        assert ids(log) == [f"e{n}" for n in range(9)]
        assert [r.position for r in log.read(second[2])] == positions[6:]
        log.forget_user("u")
        # What was erased in any of the days is still recognised.
        assert append(log, at, 3, [1, 6, 8]) == [first[1], second[3], third[2]]
    with open_log(uri) as log:
        at(3)
        assert log.last_position() > third[2]


def test_drained_days_go_and_it_is_the_same_log(uri, at):
    at(0)
    with open_log(uri) as log:
        # A state that has seen nothing of the log stands before its first record.
        log.require_kept(-1)
        append(log, at, 0, range(5))
        log.forget_user("gone", at(0))
        log.submit([opt_out_write("shy", True, at(0))]).result()
        append(log, at, 1, range(5, 9))
        drained = log.mark()
        append(log, at, 2, range(9, 12))
        old, everything = log.mark(3), log.mark()
        assert log.droppable(at(0), drained.position) == 0
        assert log.droppable(at(1), 2) in (0, 2), "what was not drained stays"
        until = log.droppable(at(2), drained.position)
        assert until == drained.position
        log.drop(until)
        assert ids(log) == ["e9", "e10", "e11"]
        assert [r.payload["user_id"] for r in log.tombstones()] == ["gone"]
        assert [r.payload["user_id"] for r in log.opt_outs()] == ["shy"]
        for mark in (old, drained, everything):
            log.expect(mark)
        log.require_kept(until)
        log.check()
        with pytest.raises(LogReplaced, match="newest state snapshot"):
            log.require_kept(until - 1)
        assert append(log, at, 2, [9, 20])[1] > everything.position
        # A second time, with what outlived its day the first time.
        append(log, at, 3, [30])
        log.drop(log.droppable(at(3), log.last_position()))
        assert ids(log) == ["e30"]
        assert len(log.tombstones()) == len(log.opt_outs()) == 1
    with open_log(uri) as again:
        again.expect(everything)
        again.check()
        with pytest.raises(LogReplaced):
            again.require_kept(until)


def night(config, log, workspace):
    """What a night's drain does: from where the last one ended, if nothing was changed."""
    mark, before = log.mark(), drained_before(workspace, log, read_adopted(workspace))
    out = config.workspace_path / "stages" / "drain" / f"{mark.position}-{log.revision()}"
    read = []
    plain = log.read
    log.read = lambda after, limit: read.append(after) or plain(after, limit)
    rows = export(log, 0, mark.position, out, before)
    del log.read
    facts = {
        "until": mark.position,
        "made_of": [ROWS, log.revision()],
        "log": {"identity": mark.identity, "witness": mark.witness},
    }
    write_json(out / "stage.json", {"facts": {**rows, **facts}})
    return out, mark, (read[0] if read else None)


def tables(folder):
    return {file.stem: pq.read_table(file).to_pylist() for file in folder.glob("*.parquet")}


def test_a_night_reads_what_is_new_and_exports_what_a_whole_one_would(uri, at, tmp_path):
    config = parse_config(
        {"data": {"items": "i", "events": "e"}, "serving": {"log": uri}}, tmp_path
    )
    workspace = Workspace(config.workspace_path)
    at(0)
    with open_log(uri) as log:
        append(log, at, 0, range(5))
        log.put_item({"item_id": "i", "title": "T", "price": 3})
        log.submit([user_write("u", {"plan": "free", "age": 3}, at(0))]).result()
        shown = {"impression_id": "m", "user_id": "u", "timestamp": 1, "item_ids": ["i"]}
        log.append_impressions([shown])
        _, first, _ = night(config, log, workspace)
        append(log, at, 1, range(5, 9))
        log.put_item({"item_id": "j", "title": "U", "colour": "red"})
        log.submit([user_write("u", {"plan": "paid"}, at(1))]).result()
        out, _, read_from = night(config, log, workspace)
        assert read_from == first.position
        export(log, 0, log.last_position(), tmp_path / "whole")
        assert tables(out) == tables(tmp_path / "whole")
        # Somebody is forgotten: the days in the log are read again, so that no export holds them.
        append(log, at, 1, [50], user="gone")
        night(config, log, workspace)
        log.forget_user("gone")
        out, _, read_from = night(config, log, workspace)
        assert read_from == 0
        assert "gone" not in {row["user_id"] for row in tables(out)["events"]}


def test_what_a_night_exports_does_not_depend_on_the_days_that_went(uri, at, tmp_path):
    config = parse_config(
        {"data": {"items": "i", "events": "e"}, "serving": {"log": uri}}, tmp_path
    )
    workspace = Workspace(config.workspace_path)
    at(0)
    with open_log(uri) as log:
        for day in range(4):
            append(log, at, day, range(day * 5, day * 5 + 5))
            log.put_item({"item_id": f"i{day}", "title": "T"})
            log.submit([user_write("u", {f"on {day}": day}, at(day))]).result()
        out, mark, _ = night(config, log, workspace)
        whole = tables(out)
        until = drop_drained(workspace, log, out, mark, at(2))
        assert 0 < until < mark.position
        assert [n for n in ids(log) if n in ("e0", "e9")] == []
        assert drop_drained(workspace, log, out, mark, at(2)) == 0
        assert log.dropped == until
        for known in marks(workspace):
            log.expect(known)
        # The export of this night, and one that starts from what lies outside the log alone.
        for folder in ("again", "from outside"):
            export(log, 0, mark.position, tmp_path / folder, read_adopted(workspace))
            assert tables(tmp_path / folder) == whole
            for export_ in exports(workspace):
                (export_.folder / "stage.json").unlink()
        again, mark, read_from = night(config, log, workspace)
        assert (tables(again), read_from) == (whole, until)
        assert drop_drained(workspace, log, again, mark, at(3)) > until
        assert tables(night(config, log, workspace)[0]) == whole


EARLIER = """
CREATE TABLE recsys_log (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL, key TEXT UNIQUE, user_id TEXT, received_at BIGINT NOT NULL,
    payload TEXT NOT NULL
);
CREATE TABLE recsys_log_about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE INDEX recsys_log_by_user ON recsys_log(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX recsys_log_forgotten ON recsys_log(user_id, position) WHERE kind = 'forget';
INSERT INTO recsys_log_about VALUES
    ('identity', 'abc'), ('salt', 's'), ('revision', '0'), ('continues', '[]'),
    ('last_position', '7'), ('last_stamp', '1');
INSERT INTO recsys_log(kind, key, user_id, received_at, payload)
    SELECT 'event', 'event:e' || n, 'u', 1, '{"user_id": "u", "event_id": "e' || n || '"}'
    FROM generate_series(0, 4) AS n;
"""


@pytest.mark.postgres
def test_a_log_of_an_earlier_version_becomes_the_first_partition(postgres):
    psycopg = pytest.importorskip("psycopg")
    uri = postgres.empty()
    with psycopg.connect(uri, autocommit=True) as base:
        base.execute(EARLIER)
    with open_log(uri) as log:
        assert (log.identity, log.last_position()) == ("abc", 7)
        again = log.append_events([event(2), event(7)])
        assert again == [3, 8]
        assert ids(log) == ["e0", "e1", "e2", "e3", "e4", "e7"]
        log.forget_user("u")
        assert log.append_events([event(4)]) == [5]
    with open_log(uri) as log:
        assert log.append_events([event(9)])[0] > 8


@pytest.mark.postgres
def test_a_block_that_is_nearly_full_is_followed_by_another(postgres):
    psycopg = pytest.importorskip("psycopg")
    from recsys.storage.eventlog.postgres_days import BLOCK, MARGIN

    uri = postgres.empty()
    with open_log(uri) as log:
        log.append_events([event(1)])
        with psycopg.connect(uri, autocommit=True) as base:
            base.execute(
                "UPDATE recsys_log_about SET value = %s WHERE name = 'last_position'",
                (str(BLOCK - MARGIN),),
            )
        assert log.append_events([event(2), event(1)]) == [BLOCK, 1]
        assert ids(log) == ["e1", "e2"]


@pytest.mark.postgres
def test_a_backup_under_way_stops_no_writer_and_no_night(postgres, monkeypatch):
    psycopg = pytest.importorskip("psycopg")
    from recsys.storage.eventlog import LogUnavailable, postgres_days

    day = ["20260101"]
    monkeypatch.setattr(postgres_days, "day_of", lambda moment: day[0])
    uri = postgres.empty()
    with open_log(uri) as log, psycopg.connect(uri) as backup:
        log.append_events([event(1)])
        backup.execute("LOCK TABLE recsys_log IN ACCESS SHARE MODE")
        day[0] = "20260102"
        position = log.append_events([event(2)])[0]
        with pytest.raises(LogUnavailable, match="cannot be dropped"):
            log.drop(1)
        assert ids(log) == ["e1", "e2"]
        backup.rollback()
        log.append_events([event(3)])
        log.drop(1)
        assert ids(log) == ["e2", "e3"]
        assert log.read(0)[0].position == position
