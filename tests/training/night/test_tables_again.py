"""The next night's tables are built upon the last one's: from a folder of files and the service's log."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import parse_config
from recsys.ingestion.tables.event_partitions import event_files, read_events_table
from recsys.ingestion.tables.load import read_summary
from recsys.storage.eventlog import log_address, open_log
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data
from recsys.training.night.night_context import Night


@pytest.fixture
def shop(tmp_path):
    items = pa.table({"item_id": ["a", "b"], "title": ["A", "B"]})
    pq.write_table(items, tmp_path / "items.parquet")
    return tmp_path


def write(shop, year, users=("u1", "u2")):
    (shop / "events").mkdir(exist_ok=True)
    table = {
        "user_id": list(users),
        "item_id": ["a"] * len(users),
        "event_type": ["click"] * len(users),
        "timestamp": pa.array([datetime(year, 5, 1, tzinfo=UTC)] * len(users)),
        "event_id": [f"{year}-{user}" for user in users],
    }
    pq.write_table(pa.table(table), shop / f"events/{year}.parquet")


def post(config, year, *names):
    moment = int(datetime(year, 6, 1, tzinfo=UTC).timestamp() * 1e6)
    event = {"user_id": "u2", "item_id": "b", "event_type": "click", "timestamp": moment}
    with open_log(log_address(config)) as log:
        log.append_events([event | {"event_id": name} for name in names])


def tables(config):
    """The tables of a night, and the file of each year by inode."""
    workspace, reporter = Workspace(config.workspace_path), Reporter(quiet=True)
    night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
    night.drained = read_data.drain(night)
    folder = read_data.validate(night).product
    return folder, {file.stem: file.stat().st_ino for file in event_files(folder)}


def positions(folder):
    base = read_summary(folder)["positions"]["log_base"]
    rows = read_events_table(folder, base).to_pylist()
    return [(row["event_id"], row["position"] - base * (row["log_position"] is not None))
            for row in rows]  # fmt: skip


def test_years_without_a_change_are_the_same_files(shop):
    config = parse_config({"data": {"items": "items.parquet", "events": "events"}}, shop)
    write(shop, 2019)
    write(shop, 2020)
    post(config, 2021, "x", "y")
    _, first = tables(config)
    assert list(first) == ["2019", "2020", "2021"]
    write(shop, 2022)
    post(config, 2023, "z")
    folder, second = tables(config)
    assert first.items() <= second.items()
    assert set(second) - set(first) == {"2022", "2023"}
    assert positions(folder) == [
        *(("2019-u1", 0), ("2019-u2", 1), ("2020-u1", 2), ("2020-u2", 3)),
        *(("x", 1), ("y", 2), ("2022-u1", 4), ("2022-u2", 5), ("z", 3)),
    ]
    # An event of a file that the log turns out to hold is the log's; a file that is gone takes its rows.
    post(config, 2020, "2020-u1")
    (shop / "events/2022.parquet").unlink()
    folder, third = tables(config)
    assert {year for year, _ in second.items() & third.items()} == {"2019", "2021", "2023"}
    assert read_summary(folder)["tables"]["events"]["warnings"] == {"in_log_already": 1}
    assert positions(folder)[2:5] == [("2020-u2", 2), ("2020-u1", 4), ("x", 1)]
