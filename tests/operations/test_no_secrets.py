"""Passwords planted in every address, and nothing of them in what a workspace keeps or prints."""

import re
import socket
import stat

import duckdb
import pytest

from recsys.data_schemas.config import load_config
from recsys.operations.cli.main import main
from recsys.storage.eventlog import log_address, open_log
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import Stage, StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data
from recsys.training.night.night_context import Night

PLANTED = "Pl4nted"
CONFIG = """
data: {{connection: "duckdb://{folder}/shop.db?access_token={planted}0", items: goods, events: acts}}
serving: {{log: "{log}"}}
notify: {{webhook: "http://me:{planted}2@127.0.0.1:{port}/hook?token={planted}3"}}
encoder: {{model: "https://{planted}4@hub.example/x"}}
"""
pytestmark = [
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::sqlalchemy"),
    pytest.mark.filterwarnings("ignore:::alembic"),
]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def with_password(uri, password):
    return uri.replace("postgres@", f"postgres:{password}@")


def lay_out(folder, log):
    with duckdb.connect(str(folder / "shop.db")) as shop:
        shop.execute(
            "CREATE TABLE goods AS SELECT 'i' || i AS item_id, 'lamp' AS title FROM range(3) t(i)"
        )
        shop.execute(
            "CREATE TABLE acts AS SELECT 'u' || (i % 4) AS user_id, 'i' || (i % 3) AS item_id, "
            "'view' AS event_type, TIMESTAMPTZ '2024-01-01 00:00:00+00' + INTERVAL (i) HOUR AS timestamp "
            "FROM range(40) t(i)"
        )
    text = CONFIG.format(folder=folder, log=log, planted=PLANTED, port=free_port())
    (folder / "recsys.yaml").write_text(text)
    return load_config(folder / "recsys.yaml")


def of_the_night(config):
    """What drain and validation keep, run again after the passwords have changed."""
    workspace, reporter = Workspace(config.workspace_path), Reporter()
    night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
    night.alarm(f"a finding on {config.serving.log}")
    night.drained = read_data.drain(night)
    return night.drained, read_data.validate(night)


def sweep(folder):
    """Files that hold what was planted, whatever their format."""
    planted = re.compile(PLANTED.encode(), re.IGNORECASE)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if planted.search(file.read_bytes())]


def test_a_workspace_and_its_commands_hold_no_password(tmp_path, postgres, make_bundle, capsys):
    uri = postgres.empty()
    config = lay_out(tmp_path, with_password(uri, f"{PLANTED}1"))
    with open_log(log_address(config)) as log:
        log.append_events(
            [
                {
                    "user_id": "u",
                    "item_id": "i1",
                    "event_type": "view",
                    "timestamp": 1,
                    "event_id": "a",
                }
            ]
        )
    first, _ = of_the_night(config)
    renewed = config.serving.model_copy(update={"log": with_password(uri, f"{PLANTED}9")})
    again, _ = of_the_night(config.model_copy(update={"serving": renewed}))
    assert again.key == first.key, "a new password makes nothing anew"
    workspace = Workspace(config.workspace_path)
    runner = StageRunner(workspace, Reporter())
    runner.run(
        Stage(
            "own",
            {"uri": f"mysql://a:{PLANTED}5@b/c"},
            lambda out: {"seen": f"s3://a:{PLANTED}6@b"},
        )
    )
    runner.run(Stage("own", {"uri": f"mysql://a:{PLANTED}7@d/c"}, lambda out: {}))
    registry = Registry(config)
    bundle = make_bundle(facts={"config": config.model_dump(mode="json")})
    version = registry.register(
        bundle, {"reasons": f"see {config.notify.webhook}"}, {"ndcg@10": 0.1}
    )
    registry.tag(version, {"more": config.data.connection})
    registry.promote(version, f"by hand, see {config.serving.log}")
    said = capsys.readouterr()
    assert PLANTED not in said.out + said.err
    assert sweep(workspace.path) == []


@pytest.mark.parametrize(
    "command", ["nightly", "doctor", "validate", "log adopt", "forget-user u1"]
)
def test_commands_that_fail_show_no_password(tmp_path, command, capsys):
    away = f"postgresql://postgres:{PLANTED}1@127.0.0.1:{free_port()}/log"
    config = lay_out(tmp_path, away)
    words = [*command.split(), "-c", str(tmp_path / "recsys.yaml")]
    main([*words, "--debug"])
    said = capsys.readouterr()
    assert said.out + said.err
    assert PLANTED not in said.out + said.err
    if config.workspace_path.exists():
        assert sweep(tmp_path) == [str(tmp_path / "recsys.yaml")]


def test_an_unexpected_failure_leaves_no_password_in_its_trace(tmp_path, monkeypatch, capsys):
    config = lay_out(tmp_path, "")
    (config.workspace_path / "log").mkdir(parents=True)

    def fail(*_, **__):
        raise ZeroDivisionError(f"no way to postgresql://a:{PLANTED}@b/c")

    monkeypatch.setattr("recsys.training.nightly.run_night", fail)
    assert main(["nightly", "-c", str(tmp_path / "recsys.yaml")]) == 1
    said = capsys.readouterr()
    assert "failed unexpectedly" in said.err
    assert PLANTED not in said.out + said.err
    assert len(list((config.workspace_path / "log").glob("trace-*"))) == 1
    assert sweep(tmp_path) == [str(tmp_path / "recsys.yaml")]


def test_what_commands_write_is_closed_to_others(tmp_path, capsys):
    config = lay_out(tmp_path, "")
    (tmp_path / "recsys.yaml").chmod(0o600)
    assert main(["forget-user", "u1", "-c", str(tmp_path / "recsys.yaml")]) == 0
    below = [config.workspace_path, *config.workspace_path.rglob("*")]
    open_to_others = [str(p) for p in below if stat.S_IMODE(p.stat().st_mode) & 0o007]
    assert open_to_others == []
    receipt = next(Workspace(config.workspace_path).receipts.glob("*.json"))
    assert stat.S_IMODE(receipt.stat().st_mode) == 0o600
