"""A log that is not the one that was read before is refused; adopted on purpose it goes on."""

import contextlib
import json
import shutil
import sqlite3

import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import LogMark
from recsys.features.store import write_json
from recsys.operations.cli.main import main
from recsys.storage.eventlog import LogReplaced, LogUnavailable, export, open_log
from recsys.storage.eventlog.adopt import adopt_log
from recsys.storage.eventlog.known import marks, read_adopted
from recsys.storage.workspace import Workspace


def event(n, user="u"):
    return {
        "user_id": user,
        "item_id": "i",
        "event_type": "x",
        "timestamp": 1,
        "event_id": n if isinstance(n, str) else f"e{n}",
    }


def another(uri, request, tmp_path, name="other"):
    """URI of another empty log of the same kind."""
    if uri.startswith("sqlite"):
        return f"sqlite:///{tmp_path / f'{name}.sqlite'}"
    return request.getfixturevalue("postgres").empty()


@pytest.fixture
def other(uri, request, tmp_path):
    return another(uri, request, tmp_path)


def workspace_of(tmp_path, uri):
    config = parse_config(
        {"data": {"items": "items", "events": "events"}, "serving": {"log": uri}}, tmp_path
    )
    return config, Workspace(config.workspace_path)


def drained(config, log):
    """What a night leaves: an export of the log under its key, as the drain stage writes it."""
    mark = log.mark()
    out = config.workspace_path / "stages" / "drain" / f"{mark.position}-{mark.identity}"
    rows = export(log, 0, mark.position, out, read_adopted(Workspace(config.workspace_path)))
    facts = {"until": mark.position, "log": {"identity": mark.identity, "witness": mark.witness}}
    (out / "stage.json").write_text(json.dumps({"facts": {**rows, **facts}}))
    return mark


def drained_ids(config, log):
    out = config.workspace_path / "again"
    earlier = read_adopted(Workspace(config.workspace_path))
    export(log, 0, log.last_position(), out, earlier)
    found = pq.read_table(out / "events.parquet")
    positions = found["position"].to_pylist()
    assert positions == sorted(set(positions))
    return found["event_id"].to_pylist()


def test_a_log_is_known_again_by_its_mark(uri, other):
    with open_log(uri) as log, open_log(other) as new:
        assert log.identity != new.identity
        log.append_events([event(n) for n in range(5)])
        mark = log.mark()
        assert (mark.identity, mark.position) == (log.identity, log.last_position())
        assert mark.witness is not None
        for _ in range(2):
            log.expect(mark)
        new.append_events([event(n) for n in range(9)])
        with pytest.raises(LogReplaced, match="another one"):
            new.expect(mark)
        with pytest.raises(LogReplaced, match="log adopt"):
            new.append_events([event(10)])
        with pytest.raises(LogReplaced):
            new.put_item({"item_id": "i", "title": "t"})
        with pytest.raises(LogReplaced):
            new.forget_user("u")
        assert isinstance(new.trouble, LogReplaced)
        assert len(new.read(0)) == 9
    with open_log(uri) as log:
        log.expect(mark)
        assert log.append_events([event(6)])[0] > mark.position


def test_a_log_that_ends_before_what_was_read_is_refused(log):
    log.append_events([event(1)])
    with pytest.raises(LogReplaced, match="ends before"):
        log.expect(LogMark(log.identity, 99))
    with pytest.raises(LogReplaced):
        log.append_events([event(2)])
    with pytest.raises(LogReplaced):
        log.check()


def test_a_snapshot_that_did_not_keep_the_identity_is_held_to_its_position(log):
    log.append_events([event(1)])
    log.expect(LogMark("", 1))
    log.expect(LogMark("", 0))
    with pytest.raises(LogReplaced):
        log.expect(LogMark("", 7))


def test_another_history_under_the_same_identity_is_refused(uri):
    """A replica that lagged took over, and others have written since: the end alone says nothing."""
    with open_log(uri) as log, open_log(uri) as writer:
        writer.append_events([event(n) for n in range(5)])
        log.read(0)
        _run(
            uri, "DELETE FROM {log} WHERE position > 3", "UPDATE {about} SET value = '3' WHERE name = 'last_position'"
        )  # fmt: skip
        _count_from(uri, 3)
        with pytest.raises(LogReplaced, match="ends before"):
            log.check()
    with open_log(uri) as writer, open_log(uri) as log:
        writer.append_events([event(n) for n in range(90, 94)])
        log.read(0)
        mark = log.mark()._replace(witness="0" * 32)
        with pytest.raises(LogReplaced, match="another record"):
            log.expect(mark)


def test_what_is_no_longer_kept_is_no_other_log(uri):
    """Old records are dropped once they were drained."""
    with open_log(uri) as log:
        log.append_events([event(n) for n in range(5)])
        mark = log.mark()
        _run(uri, "DELETE FROM {log}")
        log.expect(mark)
        assert log.last_position() == mark.position
        assert log.append_events([event(7)])[0] == mark.position + 1


def test_a_log_made_before_there_were_identities_gets_one(uri):
    with open_log(uri) as log:
        log.append_events([event(n) for n in range(3)])
    _run(uri, "DROP TABLE {about}")
    with open_log(uri) as log:
        assert len(log.identity) == 32
        assert log.last_position() == 3
        log.expect(log.mark())
        again = log.append_events([event(1), event(4)])
        assert again[0] == 2
        assert again[1] > 3
    with open_log(uri) as more:
        assert more.identity == log.identity


def test_an_erased_record_keeps_no_event_id_and_is_still_recognised(uri):
    with open_log(uri) as log:
        first = log.append_events([event("secret-of-ann", "ann")])[0]
        mark = log.mark()
        revision = log.revision()
        log.forget_user("ann")
        assert log.revision() == revision + 1
        log.expect(mark)
        assert log.append_events([event("secret-of-ann", "ann")]) == [first]
    rows = _run(uri, "SELECT key, payload, user_id FROM {log}")
    assert "secret-of-ann" not in str(rows)


def test_an_adopted_log_goes_on_without_loss(uri, other, tmp_path):
    config, workspace = workspace_of(tmp_path, other)
    with open_log(uri) as log:
        log.append_events([event(f"old{n}") for n in range(5)])
        log.put_item({"item_id": "i", "title": "t", "price": 3})
        mark = drained(config, log)
    with open_log(other) as new:
        # A service that knew of no snapshot wrote there already.
        new.append_events([event(f"new{n}") for n in range(3)])
        with pytest.raises(LogReplaced):
            new.expect(mark)
    done = adopt_log(config)
    assert (done.needed, done.until, done.shared, done.renumbered) == (True, 6, 0, 3)
    assert not adopt_log(config).needed
    with open_log(other) as new:
        new.expect(mark)
        assert [r.position for r in new.read(0)] == [7, 8, 9]
        assert new.append_events([event("new2"), event("later")])[0] == 9
        ids = [*(f"old{n}" for n in range(5)), *(f"new{n}" for n in range(3)), "later"]
        assert drained_ids(config, new) == ids
        second = drained(config, new)
        new.expect(second)
    items = pq.read_table(config.workspace_path / "again" / "items.parquet").to_pylist()
    assert [(i["item_id"], i["price"], i["position"]) for i in items] == [("i", 3.0, 6)]
    assert max(m.position for m in marks(workspace)) == second.position > 9


def test_a_copy_that_was_brought_back_shares_what_it_holds(uri, tmp_path):
    """The log was restored as it was before its last records; others came since."""
    config, _ = workspace_of(tmp_path, uri)
    with open_log(uri) as log:
        log.append_events([event(f"old{n}") for n in range(5)])
        mark = drained(config, log)
    _run(uri, "DELETE FROM {log} WHERE position > 3")
    _run(uri, "UPDATE {about} SET value = '3' WHERE name = 'last_position'")
    _count_from(uri, 3)
    with open_log(uri) as log:
        log.append_events([event("new")])
        with pytest.raises(LogReplaced):
            log.expect(mark)
    done = adopt_log(config)
    assert (done.until, done.shared, done.renumbered) == (5, 3, 1)
    with open_log(uri) as log:
        log.expect(mark)
        assert drained_ids(config, log) == ["old0", "old1", "old2", "old3", "old4", "new"]


def test_what_was_not_drained_comes_from_the_former_log(uri, other, tmp_path, capsys):
    config, _ = workspace_of(tmp_path, other)
    with open_log(uri) as log:
        log.append_events([event(1)])
        drained(config, log)
        log.append_events([event(2)])
    file = tmp_path / "recsys.yaml"
    file.write_text(json.dumps({"data": {"items": "i", "events": "e"}, "serving": {"log": other}}))
    assert main(["log", "show", "-c", str(file)]) == 1
    assert "log adopt" in capsys.readouterr().err
    assert main(["log", "adopt", "--from", other, "-c", str(file)]) == 2
    assert main(["log", "adopt", "--from", uri, "-c", str(file)]) == 0
    assert main(["log", "show", "-c", str(file)]) == 0
    assert "last position:  2" in capsys.readouterr().out
    with open_log(other) as new:
        new.append_events([event(3)])
        assert drained_ids(config, new) == ["e1", "e2", "e3"]


def test_adopting_says_when_what_was_drained_is_gone(uri, other, tmp_path):
    config, _ = workspace_of(tmp_path, other)
    with open_log(uri) as log:
        log.append_events([event(1)])
        mark = drained(config, log)
    shutil.rmtree(config.workspace_path / "stages")
    snapshot = config.workspace_path / "state" / "s"
    snapshot.mkdir(parents=True)
    write_json(snapshot / "state.json", {"log_position": 1, "log": [mark.identity, mark.witness]})
    write_json(snapshot.parent / "current.json", {"snapshot": "s"})
    with pytest.raises(UsageError, match="no longer kept"):
        adopt_log(config)
    assert adopt_log(config, without_drained=True).until == 1
    with open_log(other) as new:
        new.expect(mark)
        assert new.append_events([event(2)]) == [2]


def test_a_log_file_that_is_deleted_in_use_is_missed(tmp_path):
    path, kept = tmp_path / "log.sqlite", tmp_path / "kept"
    with open_log(path) as log:
        log.append_events([event(1)])
        kept.mkdir()
        for file in tmp_path.glob("log.sqlite*"):
            file.rename(kept / file.name)
        with pytest.raises(LogUnavailable, match="removed or exchanged"):
            log.append_events([event(2)])
        assert log.trouble is not None
        assert not path.exists()
        with pytest.raises(LogUnavailable):
            log.check()
        # An empty one in its place is no remedy, the former one is.
        open_log(path).close()
        with pytest.raises(LogReplaced):
            log.append_events([event(3)])
        for file in tmp_path.glob("log.sqlite*"):
            file.unlink()
        for file in kept.iterdir():
            file.rename(tmp_path / file.name)
        log.check()
        assert log.trouble is None
        log.append_events([event(4)])
        assert [r.payload["event_id"] for r in log.read(0)] == ["e1", "e4"]


def test_a_write_ahead_file_that_is_deleted_in_use_loses_nothing(tmp_path):
    path, answered = tmp_path / "log.sqlite", ["e1", "e2"]
    with open_log(path) as log:
        log.append_events([event(1)])
        path.with_name("log.sqlite-wal").unlink()
        log.append_events([event(2)])
        with open_log(path):
            path.with_name("log.sqlite-wal").unlink()
            for n in (3, 4):
                with contextlib.suppress(LogUnavailable):
                    log.append_events([event(n)])
                    answered.append(f"e{n}")
    with open_log(path) as log:
        assert {*answered} <= {r.payload["event_id"] for r in log.read(0)}


@pytest.mark.parametrize("damaged", [[1, 2, 3, 4], [12], [0]])
def test_a_damaged_page_refuses_everything(tmp_path, damaged):
    path = tmp_path / "log.sqlite"
    with open_log(path) as log:
        log.append_events([{**event(n), "user_id": f"user {n}" * 10} for n in range(500)])
    data = bytearray(path.read_bytes())
    for page in damaged:
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    with open_log(path) as log:
        with pytest.raises(LogUnavailable, match="damaged"):
            log.verify()
        assert log.trouble is not None
        with pytest.raises(LogUnavailable, match="damaged"):
            log.append_events([event("new")])
        with pytest.raises(LogUnavailable, match="damaged"):
            log.read(0)


def _run(uri, *statements):
    """SQL on the store behind a log; the last statement's rows."""
    if uri.startswith("sqlite"):
        with sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None) as base:
            for text in statements:
                rows = base.execute(text.format(log="log", about="log_about")).fetchall()
        base.close()
        return rows
    import psycopg

    with psycopg.connect(uri, autocommit=True) as base:
        for text in statements:
            done = base.execute(text.format(log="recsys_log", about="recsys_log_about"))
        return done.fetchall() if done.description else []


def _count_from(uri, position):
    if uri.startswith("sqlite"):
        _run(uri, f"UPDATE sqlite_sequence SET seq = {position}")
    else:
        _run(uri, f"SELECT setval(pg_get_serial_sequence('recsys_log', 'position'), {position})")
