"""Nights up to a date: which are run, what they train on, and what the online state still holds."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import DAY
from recsys.features.state import OnlineState
from recsys.operations.cli.main import main
from recsys.operations.cli.night_commands import moment
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data, release
from recsys.training.night.catchup import missed
from recsys.training.night.night_context import Night

DAYS = 12


@pytest.fixture
def config(tmp_path):
    """Three users act on one item a day, always one that is new to them."""
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"i{day}",
            "event_type": "click",
            "timestamp": start.replace(day=1 + day, hour=10 + user),
        }
        for day in range(DAYS)
        for user in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "events.parquet")
    items = pa.table({"item_id": [f"i{n}" for n in range(DAYS)], "title": list("abcdefghijkl")})
    pq.write_table(items, tmp_path / "items.parquet")
    (tmp_path / "recsys.yaml").write_text("data: {items: items.parquet, events: events.parquet}\n")
    return load_config(tmp_path / "recsys.yaml")


def night_until(config, date):
    workspace = Workspace(config.workspace_path)
    reporter = Reporter(quiet=True)
    return Night(config, workspace, StageRunner(workspace, reporter), reporter, moment(date))


def read(night):
    """The night with its tables read and its windows planned."""
    night.tables = read_data.validate(night)
    night.data = read_data.split(night, read_data.load(night.tables.product, night.config))
    return night


def test_the_state_holds_what_happened_after_the_date_too(config):
    night = read(night_until(config, "2026-01-10"))
    data = night.data
    until = moment("2026-01-10")
    assert data.interactions.time.max() < until
    assert data.windows.end <= until
    state = OnlineState.open(release.snapshot(night).product)
    assert len(state.history("u0", 2**62).item) == DAYS
    assert len(state.history("u0", until).item) == 9
    assert state.last_time() > until


def test_the_state_is_the_same_for_every_date(config):
    keys = set()
    for date in ("2026-01-09", "2026-01-10", None):
        keys.add(release.snapshot(read(night_until(config, date))).key)
    assert len(keys) == 1


def test_a_column_to_report_by_that_does_not_exist_is_refused_at_once(config):
    section = config.evaluation.model_copy(update={"segments": ("colour",)})
    night = night_until(config, None)
    night.config = config.model_copy(update={"evaluation": section})
    object.__setattr__(night.config, "_folder", config._folder)
    with pytest.raises(UsageError, match="colour"):
        read(night)


def finished(config, end):
    place = config.workspace_path / "cache"
    place.mkdir(parents=True, exist_ok=True)
    (place / "registered.json").write_text(json.dumps({"end": end}))


def test_missed_nights_are_run_in_order(config):
    until = moment("2026-01-10")
    assert missed(config, None) == [None]
    assert missed(config, until) == [until]
    finished(config, moment("2026-01-07T15:30") + 1)
    assert missed(config, until) == [moment(f"2026-01-{day:02}") for day in (9, 10)]
    assert missed(config, moment("2026-01-09T06:00")) == [
        moment("2026-01-09"),
        moment("2026-01-09T06:00"),
    ]
    finished(config, until - DAY // 2)
    assert missed(config, until) == [until]
    assert missed(config, moment("2026-01-03")) == [moment("2026-01-03")]


def test_days_without_events_are_no_nights(config):
    """Years of silence are one night, not a thousand."""
    finished(config, moment("2026-01-11T06:00"))
    assert missed(config, moment("2029-01-01")) == [
        moment("2026-01-12"),
        moment("2026-01-13"),
        moment("2029-01-01"),
    ]
    finished(config, moment("2026-02-01"))
    assert missed(config, moment("2029-01-01")) == [moment("2029-01-01")]


def test_the_command_runs_each_and_tells_of_each(config, monkeypatch, capsys):
    from recsys.training import nightly
    from recsys.training.night.gate import Decision

    ran, told = [], []

    def run_night(config, *, until, dry_run, reporter=None):
        ran.append(until)
        decision = Decision("challenger" if len(ran) == 2 else "promote")
        return nightly.NightResult(len(ran), decision, None, {}, False, [])

    monkeypatch.setattr(nightly, "run_night", run_night)
    monkeypatch.setattr(
        "recsys.operations.notify.notify", lambda c, outcome, *_: told.append(outcome)
    )
    finished(config, moment("2026-01-07T09:00"))
    args = ["nightly", "-c", str(config.path("recsys.yaml")), "--until", "2026-01-09"]
    assert main(args) == 4
    assert ran == [moment("2026-01-08"), moment("2026-01-09")]
    assert told == ["promoted", "challenger"]
    assert "kept as CHALLENGER" in capsys.readouterr().out
    assert main([*args, "--single"]) == 0
    assert ran[2:] == [moment("2026-01-09")]
