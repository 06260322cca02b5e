"""`export-user` and `opt-out`: a person's data given to them, and a person not learned from."""

import json
import pickle
import stat

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import RecsysError
from recsys.operations.cli.main import main
from recsys.storage.eventlog import export, log_address, open_log
from recsys.storage.eventlog.log import now_us, opt_out_write
from recsys.storage.opt_outs import OptOutList, all_wishes, keep_wishes, opted_out
from recsys.storage.workspace import Workspace

ANN, BOB = "ann@example.org", "bob"


@pytest.fixture
def shop(tmp_path):
    """(words of a command's config, config): two people in tables and log."""
    (tmp_path / "recsys.yaml").write_text("data: {items: i, events: e}\n")
    config = load_config(tmp_path / "recsys.yaml")
    folder = Workspace(config.workspace_path).stages / "tables" / "key" / "tables"
    folder.mkdir(parents=True)
    for name, column in (("events", "item_id"), ("users", "town")):
        rows = {"user_id": [ANN, BOB, ANN], column: ["x", "y", "z"]}
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    with open_log(log_address(config)) as log:
        for user in (ANN, BOB):
            event = {"user_id": user, "item_id": "i", "event_type": "x", "timestamp": 1_000_000}
            log.append_events([event | {"event_id": user}])
    return ["-c", str(tmp_path / "recsys.yaml")], config


def test_all_of_a_person_and_of_nobody_else_is_exported(shop, tmp_path, capsys):
    words, _ = shop
    assert main(["export-user", ANN, *words]) == 0
    said = capsys.readouterr().out
    found = json.loads(said)
    assert BOB not in said
    assert [row["item_id"] for row in found["tables"]["tables/events"]] == ["x", "z"]
    assert [row["town"] for row in found["tables"]["tables/users"]] == ["x", "z"]
    assert [(r["kind"], r["timestamp"]) for r in found["log"]] == [
        ("event", "1970-01-01T00:00:01+00:00")
    ]
    assert main(["export-user", ANN, "--out", str(tmp_path / "ann.json"), *words]) == 0
    assert stat.S_IMODE((tmp_path / "ann.json").stat().st_mode) == 0o600
    assert json.loads((tmp_path / "ann.json").read_text())["log"] == found["log"]
    main(["forget-user", ANN, *words])
    capsys.readouterr()
    main(["export-user", ANN, *words])
    after = json.loads(capsys.readouterr().out)
    assert after["tables"] == {}
    assert [r["kind"] for r in after["log"]] == ["forget"]
    assert after["forgotten"] is not None


def test_a_wish_is_kept_seen_by_services_and_taken_back(shop, capsys):
    words, config = shop
    workspace = Workspace(config.workspace_path)
    seen = OptOutList(workspace, every=0.0)
    assert ANN not in seen
    assert main(["opt-out", ANN, *words]) == 0
    assert "from the next night on" in capsys.readouterr().out
    assert stat.S_IMODE(workspace.opt_outs.stat().st_mode) == 0o600
    assert ANN in seen
    assert BOB not in seen
    assert ANN in pickle.loads(pickle.dumps(seen)), "workers are given it"
    first = opted_out(workspace)
    main(["opt-out", ANN, *words])
    assert opted_out(workspace) == first
    assert main(["opt-out", ANN, "--undo", *words]) == 0
    assert ANN not in seen
    assert main(["opt-out", BOB, "--undo", *words]) == 0
    assert "had not opted out" in capsys.readouterr().out
    assert main(["opt-out", " ", *words]) == 2


def test_a_damaged_list_stops_a_night_and_leaves_a_service_as_it_was(shop):
    words, config = shop
    workspace = Workspace(config.workspace_path)
    main(["opt-out", ANN, *words])
    seen = OptOutList(workspace, every=0.0)
    workspace.opt_outs.write_text("{")
    assert ANN in seen
    with pytest.raises(RecsysError, match="against their wish"):
        opted_out(workspace)


def test_the_last_wish_counts_whether_it_came_by_command_or_call(shop, capsys):
    words, config = shop
    workspace = Workspace(config.workspace_path)

    def call(out):
        with open_log(log_address(config)) as log:
            log.submit([opt_out_write(ANN, out, 1)]).result()

    def night():
        with open_log(log_address(config)) as log:
            export(log, 0, log.last_position(), tmp := workspace.path / "export")
        return keep_wishes(workspace, tmp)

    call(True)
    assert night() == {ANN}
    assert list(opted_out(workspace)) == [ANN], "kept, whatever becomes of the log"
    assert main(["opt-out", ANN, "--undo", *words]) == 0
    assert "learned from again" in capsys.readouterr().out
    assert night() == set()
    call(True)
    assert night() == {ANN}
    call(False)
    assert night() == set()
    main(["opt-out", ANN, *words])
    assert night() == {ANN}
    call(False)
    main(["export-user", ANN, *words])
    assert (
        json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["opted_out"] is None
    )
    assert main(["opt-out", ANN, "--undo", *words]) == 0
    assert "had not opted out" in capsys.readouterr().out
    call(True)
    with open_log(log_address(config)) as log:
        assert json.dumps(all_wishes(config)[ANN].out) == "true"
        log.forget_user(ANN, now_us() + 10_000_000)
    assert night() == set()
    assert ANN not in workspace.opt_outs.read_text()


def test_who_is_forgotten_is_in_no_list_of_wishes(shop):
    words, config = shop
    main(["opt-out", ANN, *words])
    main(["forget-user", ANN, *words])
    assert opted_out(Workspace(config.workspace_path)) == {}
