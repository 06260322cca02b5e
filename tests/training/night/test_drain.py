"""Draining the service's log: the whole of it, once, and never another one unnoticed."""

import time

import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.log_record import LogMark
from recsys.storage.eventlog import LogReplaced, log_address, open_log
from recsys.storage.eventlog.adopt import adopt_log
from recsys.storage.eventlog.retention import DAY
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data
from recsys.training.night.night_context import Night


@pytest.fixture
def config(tmp_path):
    return parse_config({"data": {"items": "items", "events": "events"}}, tmp_path)


def drain(config):
    workspace, reporter = Workspace(config.workspace_path), Reporter()
    return read_data.drain(Night(config, workspace, StageRunner(workspace, reporter), reporter))


def post(config, *names, user="u"):
    event = {"user_id": user, "item_id": "i", "event_type": "x", "timestamp": 1}
    with open_log(log_address(config)) as log:
        log.append_events([event | {"event_id": name} for name in names])


def ids(drained):
    return pq.read_table(drained.path / "events.parquet")["event_id"].to_pylist()


def remove_log(config):
    for file in (config.workspace_path / "log").glob("log.sqlite*"):
        file.unlink()


def test_a_night_keeps_what_it_drained_by_the_log_s_identity(config):
    assert drain(config) is None
    post(config, "a", "b")
    first = drain(config)
    mark = read_data.mark_of(first)
    with open_log(log_address(config)) as log:
        assert mark == log.mark()
    assert drain(config).skipped
    with open_log(log_address(config)) as log:
        log.forget_user("nobody")
    assert not drain(config).skipped
    assert read_data.mark_of(None) == LogMark("", -1)


def test_a_replaced_log_alarms_the_night_until_it_is_adopted(config):
    post(config, "a", "b")
    drain(config)
    remove_log(config)
    with pytest.raises(LogReplaced, match="the log is gone"):
        drain(config)
    post(config, "c", "d", "e")
    with pytest.raises(LogReplaced, match="another one"):
        drain(config)
    adopt_log(config)
    assert ids(drain(config)) == ["a", "b", "c", "d", "e"]
    post(config, "f")
    assert ids(drain(config)) == ["a", "b", "c", "d", "e", "f"]


def test_who_is_forgotten_leaves_what_a_former_log_left_too(config):
    post(config, "a", user="gone")
    post(config, "b")
    drain(config)
    remove_log(config)
    adopt_log(config)
    with open_log(log_address(config)) as log:
        log.forget_user("gone")
    assert ids(drain(config)) == ["b"]
    kept = pq.read_table(Workspace(config.workspace_path).adopted / "events.parquet")
    assert kept["user_id"].to_pylist() == ["u"]


def test_drained_days_leave_the_log_after_the_setting_and_no_night(tmp_path):
    files = {"data": {"items": "items", "events": "events"}}
    config = parse_config({**files, "serving": {"log_days": 1}}, tmp_path)
    now = time.time_ns() // 1000
    event = {"user_id": "u", "item_id": "i", "event_type": "x", "timestamp": 1}
    with open_log(log_address(config)) as log:
        old = [event | {"event_id": f"old-{n}", "received_at": now - 3 * DAY} for n in range(3)]
        log.append_events([*old, event | {"event_id": "new", "received_at": now}])
    keeps_all = parse_config(files, tmp_path)
    for settings, kept in ((keeps_all, 4), (config, 1)):
        workspace, reporter = Workspace(settings.workspace_path), Reporter()
        night = Night(settings, workspace, StageRunner(workspace, reporter), reporter)
        night.drained = read_data.drain(night)
        assert len(ids(night.drained)) == 4
        read_data.drop(night)
        with open_log(log_address(settings)) as log:
            assert len(log.read(0)) == kept
    post(config, "later")
    whole = ["old-0", "old-1", "old-2", "new", "later"]
    assert ids(drain(config)) == whole
    with open_log(log_address(config)) as log:
        log.forget_user("nobody")
    assert ids(drain(config)) == whole
