"""How long rows about persons are kept, in logs of both kinds and in what was drained of them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import PrivacyConfig, parse_config
from recsys.data_schemas.errors import UsageError
from recsys.storage.eventlog import export
from recsys.storage.eventlog.retention import DAY, NO_LIMITS, Retention

NOW = 1_700_000_000_000_000
TODAY = NOW // DAY * DAY


def fill(log):
    for days in (0, 1, 5, 9):
        at = TODAY - days * DAY
        event = {"user_id": f"p{days}", "item_id": "i", "event_type": "x", "timestamp": at}
        log.append_events([event | {"event_id": f"e{days}"}])
        shown = {
            "impression_id": f"s{days}",
            "user_id": f"p{days}",
            "timestamp": at,
            "item_ids": ["i"],
        }
        log.append_impressions(
            [shown | {"context": '{"page": 1}', "features": "[]", "surface": "home"}]
        )


def kept(log):
    records = log.read(0)
    return {
        kind: [r.payload["user_id"] for r in records if r.kind == kind]
        for kind in ("event", "impression")
    } | {"told": [r.payload["user_id"] for r in records if r.payload.get("context")]}


def test_days_count_from_the_start_of_today():
    privacy = PrivacyConfig(events_days=2, sessions_days=1)
    assert Retention.of(privacy, NOW) == Retention(TODAY - 2 * DAY, None, TODAY - DAY)
    assert not Retention.of(PrivacyConfig(), NOW)
    assert not NO_LIMITS


def test_what_is_too_old_leaves_the_log_and_its_exports(log, tmp_path):
    fill(log)
    before, last = log.revision(), log.last_position()
    assert log.expire(Retention(TODAY - 5 * DAY, TODAY - DAY, TODAY)) == 4
    assert kept(log) == {"event": ["p0", "p1", "p5"], "impression": ["p0", "p1"], "told": ["p0"]}
    assert log.revision() > before, "a night drains it anew"
    assert log.last_position() == last
    assert log.expire(Retention(TODAY - 5 * DAY, TODAY - DAY, TODAY)) == 0
    repeated = {
        "user_id": "p9",
        "item_id": "i",
        "event_type": "x",
        "timestamp": TODAY,
        "event_id": "e9",
    }
    assert log.append_events([repeated]) == [last - 1], "a repeated event is still recognised"
    export(log, 0, log.last_position(), tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "events.parquet")["user_id"].to_pylist() == [
        "p0",
        "p1",
        "p5",
    ]


def test_drained_tables_of_former_logs_are_purged_too(tmp_path):
    time = pa.array([TODAY - 9 * DAY, TODAY - DAY, TODAY], pa.timestamp("us", tz="UTC"))
    files = [
        tmp_path / "events.parquet",
        tmp_path / "impressions.parquet",
        tmp_path / "items.parquet",
    ]
    for file in files:
        table = pa.table(
            {"user_id": ["a", "b", "c"], "timestamp": time, "context": ["1", "2", "3"]}
        )
        pq.write_table(table, file)
    assert Retention(TODAY - DAY, TODAY - DAY, TODAY).purge(files[:2]) > 0
    for file in files[:2]:
        assert pq.read_table(file)["user_id"].to_pylist() == ["b", "c"]
        assert pq.read_table(file)["context"].to_pylist() == [None, "3"]
        assert pq.read_table(file).schema.field("timestamp").type == time.type
    assert pq.read_table(files[2]).num_rows == 3


def test_days_and_a_frozen_clock_contradict_each_other(tmp_path):
    raw = {"data": {"items": "i", "events": "e"}, "clock": "end_of_data"}
    parse_config(raw | {"privacy": {"least_people": 9}}, tmp_path)
    for key in ("events_days", "impressions_days", "sessions_days"):
        with pytest.raises(UsageError, match="end_of_data"):
            parse_config(raw | {"privacy": {key: 9}}, tmp_path)
