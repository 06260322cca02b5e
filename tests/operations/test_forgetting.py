import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, Interactions
from recsys.features.state import OnlineState
from recsys.features.user_table import UserTable
from recsys.operations.cli.main import main
from recsys.operations.forget_user import forget_user
from recsys.storage.eventlog import open_log
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import Stage, StageRunner
from recsys.storage.tombstones import forgotten
from recsys.storage.workspace import Workspace, WorkspaceBusy

ANN, BOB = "ann@example.org", "bob"
pytestmark = [
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::sqlalchemy"),
    pytest.mark.filterwarnings("ignore:::alembic"),
]


@pytest.fixture
def workspace(config):
    return Workspace(config.workspace_path)


def event(user, item="i1", n=0):
    return {
        "user_id": user,
        "item_id": item,
        "event_type": "click",
        "timestamp": "2026-01-01T00:00:00Z",
        "event_id": f"{user}-{n}",
    }


def make_state(folder):
    items = pa.table({"item_id": ["i0", "i1"], "title": ["a", "b"]})
    ones = np.ones(4, np.int32)
    interactions = Interactions(
        np.array([0, 1, 0, 1], np.int32),
        np.array([0, 1, 1, 1], np.int32),
        np.zeros(4, np.int16),
        np.arange(4) * DAY,
        np.full(4, np.nan, np.float32),
        ones.astype(np.float32),
        ones.astype(np.int8),
        np.arange(4),
        np.array([ANN, BOB], object),
        ("click",),
        2,
    )
    users = UserTable.from_table(
        pa.table({"user_id": [ANN, BOB], "age": [30.0, 40.0], "town": ["x", "y"]})
    )
    state = OnlineState.build(
        interactions,
        Catalogue.from_table(items),
        bucket_us=DAY,
        windows_us=[7 * DAY],
        log_position=5,
        users=users,
    )
    state.save(folder)


def test_a_person_is_removed_from_every_place(config, workspace, make_bundle):
    with open_log(config.workspace_path / "log" / "log.sqlite") as log:
        log.append_events([event(ANN), event(BOB), event(ANN, n=1)])
    make_state(workspace.state / "key")
    table = pa.table({"user_id": [ANN, BOB, ANN], "item_id": ["a", "b", "c"]})
    for place in ("tables/events.parquet", "tables/quarantine/events.parquet"):
        (workspace.path / place).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, workspace.path / place)
    runner = StageRunner(workspace, Reporter(quiet=True))
    rows = runner.run(
        Stage("features", {}, lambda out: pq.write_table(table, out / "rows.parquet"))
    )
    model = runner.run(Stage("als", {}, lambda out: {}, personal=False))
    (workspace.reports / "n1").mkdir()
    (workspace.reports / "n1" / "report.html").write_text(f"<td>{ANN}</td>")
    (workspace.reports / "n1" / "other.html").write_text(f"<td>x{ANN}</td><td>{BOB}</td>")
    registry = Registry(config)
    registry.promote(registry.register(make_bundle(), {}, {}), "first")

    receipt = forget_user(config, ANN)

    with open_log(config.workspace_path / "log" / "log.sqlite") as log:
        records = log.read(0)
        assert [r.payload["user_id"] for r in records if r.kind == "event"] == [BOB]
        assert [r.payload for r in records if r.kind == "forget"] == [{"user_id": ANN}]
    state = OnlineState.open(workspace.state / "key")
    assert not state.knows_user(ANN)
    assert state.user_attributes(ANN) == {}
    assert len(state.history(BOB, 10 * DAY).item) == 2
    assert state.user_attributes(BOB) == {"age": 40.0, "town": "y"}
    assert state.log_position == 5
    for file in (workspace.state / "key").glob("*"):
        if file.is_file() and file.name != "state.json":
            assert ANN.encode() not in file.read_bytes(), file.name
    for file in workspace.tables.rglob("*.parquet"):
        assert pq.read_table(file)["user_id"].to_pylist() == [BOB]
    assert not rows.path.exists()
    assert model.path.exists()
    assert sorted(os.listdir(workspace.reports / "n1")) == ["other.html"]
    assert forgotten(workspace) == {ANN}
    assert registry.champion() == 1
    assert "forgotten" in registry.show(1).retrain
    assert receipt.retrain == [1]
    assert {"reports", "the service's log", "registered models"} <= {
        p.where for p in receipt.places
    }
    kept = json.loads(next((workspace.path / "receipts").iterdir()).read_text())
    assert kept["user_id"] == ANN
    assert len(kept["places"]) == len(receipt.places)


def test_repeating_is_safe_and_keeps_the_first_time(config, workspace):
    first = forget_user(config, ANN)
    forget_user(config, ANN)
    forget_user(config, BOB)
    assert forgotten(workspace) == {ANN, BOB}
    users = json.loads((workspace.path / "forgotten.json").read_text())["users"]
    assert users[ANN] == first.at
    assert (workspace.path / "forgotten.json").stat().st_mode & 0o777 == 0o600


def test_an_unknown_person_costs_no_stage_and_an_empty_id_is_refused(config, workspace):
    table = pa.table({"user_id": [BOB], "item_id": ["b"]})
    runner = StageRunner(workspace, Reporter(quiet=True))
    rows = runner.run(
        Stage("tables", {}, lambda out: pq.write_table(table, out / "events.parquet"))
    )
    forget_user(config, ANN)
    assert rows.path.exists()
    forget_user(config, BOB)
    assert not rows.path.exists()
    with pytest.raises(UsageError, match="empty id"):
        forget_user(config, " ")


def test_nobody_is_forgotten_in_a_new_workspace(workspace):
    assert forgotten(workspace) == set()


def test_a_damaged_list_stops_rather_than_bring_people_back(workspace):
    (workspace.path / "forgotten.json").write_text("{")
    with pytest.raises(RecsysError, match="would come back"):
        forgotten(workspace)


def test_a_run_at_work_is_not_disturbed(config, workspace):
    with workspace.lock(), pytest.raises(WorkspaceBusy):
        forget_user(config, ANN)
    assert forgotten(workspace) == set()


def test_the_command_prints_a_receipt(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "recsys.yaml").write_text("data: {items: i, events: e}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["forget-user", ANN]) == 0
    out = capsys.readouterr().out
    assert f"user {ANN} was forgotten" in out
    assert "never rewritten" in out
    assert main(["forget-user", BOB, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["user_id"] == BOB


def test_a_backtest_within_the_workspace_forgets_too(config, workspace):
    """It holds tables and states of its own, and starts anew without the person."""
    inner = Workspace(workspace.path / "backtest")
    make_state(inner.state / "key")
    table = pa.table({"user_id": [ANN, BOB], "item_id": ["a", "b"]})
    runner = StageRunner(inner, Reporter(quiet=True))
    rows = runner.run(
        Stage("tables", {}, lambda out: pq.write_table(table, out / "events.parquet"))
    )
    (inner.path / "nights").mkdir()
    np.savez(inner.path / "nights" / "0.npz", user=np.array([ANN]))
    (inner.path / "plan.json").write_text("{}")
    receipt = forget_user(config, ANN)
    assert not rows.path.exists()
    assert not OnlineState.open(inner.state / "key").knows_user(ANN)
    assert not any(inner.path.glob("nights/*"))
    assert not (inner.path / "plan.json").exists()
    assert any(p.where.startswith("backtest/ stages/") for p in receipt.places)


def test_half_written_outputs_and_traces_go_too(config, workspace):
    half = workspace.stages / "tables" / ".key.part" / ".tables.scratch-1"
    half.mkdir(parents=True)
    (half / "duck.db").write_bytes(ANN.encode())
    (workspace.log / "trace-1.txt").write_text(f"KeyError: '{ANN}'")
    (workspace.log / "trace-2.txt").write_text("KeyError: 'someone else'")
    forget_user(config, ANN)
    assert not half.exists()
    assert sorted(p.name for p in workspace.log.glob("trace*")) == ["trace-2.txt"]


def test_a_text_that_only_this_person_has_is_nowhere_or_in_the_receipt(
    config, workspace, make_bundle
):
    make_state(workspace.state / "key")
    table = pa.table({"user_id": [ANN, BOB, "eve"], "town": ["Pl4nted", "y", "y"]})
    tables = StageRunner(workspace, Reporter(quiet=True)).run(
        Stage("tables", {}, lambda out: _write_users(table, out))
    )
    registry = Registry(config)
    old = make_bundle(1.0, features_json={"user": {"values": ["Pl4nted", "y"]}})
    new = make_bundle(2.0, config.path("second"), features_json={"user": {"values": ["y"]}})
    for bundle in (old, new):
        registry.promote(registry.register(bundle, {}, {}), "test")
    receipt = forget_user(config, ANN)
    assert not tables.path.exists()
    named = [p.where for p in receipt.places if "features.json" in p.where]
    assert named == ["features.json of the versions 1"]
    assert "Pl4nted" not in json.dumps(receipt.as_json())
    assert any("backups" in p.where for p in receipt.places)
    # Ann's town of the snapshot is x: no name of a value is left that nobody has.
    state = OnlineState.open(workspace.state / "key")
    assert state.users.categorical["town"].names == ["y"]
    assert state.user_attributes(BOB) == {"age": 40.0, "town": "y"}


def _write_users(table, out):
    (out / "tables").mkdir()
    pq.write_table(table, out / "tables" / "users.parquet")
