"""`recsys experiments`: from a log to a page, with people who were forgotten, merged, crossed."""

import json
from pathlib import Path

import pytest

from recsys.data_schemas.config import load_config
from recsys.operations import run_experiments as experiments
from recsys.operations.cli.main import main
from recsys.storage.eventlog import log_address, open_log
from recsys.storage.experiment_records import DeclaredExperiment, read_experiments
from recsys.storage.registry import Registry
from recsys.storage.workspace import Workspace

START = 1_700_000_000_000_000
MINUTE = 60_000_000


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A workspace with versions 1 (champion) and 2."""
    (tmp_path / "recsys.yaml").write_text(
        "data: {items: i, events: e}\nexperiments: {guardrails: {purchase: 0.1}}\n"
    )
    held = {}
    monkeypatch.setattr(Registry, "resolve", lambda _, name: int({"champion": 1}.get(name, name)))
    monkeypatch.setattr(Registry, "champion", lambda _: 1)
    monkeypatch.setattr(Registry, "hold", lambda _, aliases: held.update(aliases))
    config = load_config(tmp_path / "recsys.yaml")
    return config, ["-c", str(tmp_path / "recsys.yaml")], held


def write(config, people, taken=lambda n: False):
    """One list of each person in the arm of the running experiment, and a click of some."""
    declared = read_experiments(Workspace(config.workspace_path))[-1]
    lists = [
        {"impression_id": f"l-{user}", "user_id": user, "timestamp": START + n * MINUTE,
         "item_ids": ["a", "b"], "scores": [1.0, 0.5], "propensities": [1.0, 1.0],
         "model_version": "2" if declared.arm_of(user) == "challenger" else "1",
         "experiment": declared.name, "arm": declared.arm_of(user)}
        for n, user in enumerate(people)
    ]  # fmt: skip
    clicks = [
        {"user_id": user, "item_id": "b", "event_type": "click",
         "timestamp": START + n * MINUTE + 1, "event_id": f"e-{user}"}
        for n, user in enumerate(people) if taken(n)
    ]  # fmt: skip
    with open_log(log_address(config)) as log:
        log.append_impressions(lists)
        log.append_events(clicks)
    return declared


def test_start_report_stop(shop, capsys):
    config, words, held = shop
    assert main(["experiments", "list", *words]) == 0
    assert "no experiment" in capsys.readouterr().out
    assert main(["experiments", "start", "spring", "--challenger", "2", *words]) == 0
    assert held == {"in_trial": 2, "held_against": 1}
    assert main(["experiments", "report", "spring", *words]) == 2
    assert "no list of this experiment" in capsys.readouterr().err
    people = [f"u{n}" for n in range(300)]
    declared = write(config, people, lambda n: n % 5 == 0)
    assert main(["experiments", "report", "spring", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    arms = [declared.arm_of(user) for user in people]
    assert found["units"] == [arms.count("control"), arms.count("challenger")]
    clicked = [arm for n, arm in enumerate(arms) if n % 5 == 0]
    for arm in ("control", "challenger"):
        assert found["rates"]["click"][arm] == clicked.count(arm) / arms.count(arm)
    assert found["rates"]["click"]["difference"]["always"][0] is not None
    assert "Experiment spring" in Path(found["page"]).read_text()
    assert main(["experiments", "stop", "spring", "--reason", "enough", *words]) == 0
    assert held == {"in_trial": None, "held_against": None}
    capsys.readouterr()
    assert main(["experiments", "list", "--json", *words]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["reason"], "salt" in row) == ("enough", False)
    assert main(["experiments", "report", "spring", *words]) == 0
    assert "page:" in capsys.readouterr().out


def test_forgotten_and_merged_people_are_in_no_arm_and_said(shop, capsys):
    config, words, _ = shop
    main(["experiments", "start", "spring", "--challenger", "2", *words])
    people = [*(f"u{n}" for n in range(40)), *(f"session:s{n}" for n in range(20))]
    declared = write(config, people, lambda n: True)
    with open_log(log_address(config)) as log:
        for user in people[:5]:
            log.forget_user(user, START + 10**9)
        for n in range(3):
            log.submit_move(f"session:s{n}", f"u{n + 10}", START + 10**9).result()
    capsys.readouterr()
    assert main(["experiments", "report", "spring", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["units"]) == 60 - 5 - 3
    # The visits' clicks are the persons' now, who were not shown those lists: credited to nobody
    # but where the same item stood in the person's own list.
    assert found["rates"]["click"]["control"] <= 1.0
    gone = [declared.arm_of(user) for user in people[:5]]
    moved = [declared.arm_of(f"session:s{n}") for n in range(3)]
    for arm, missing in zip(("control", "challenger"), found["missing"], strict=True):
        assert missing == {"forgotten": gone.count(arm), "merged": moved.count(arm)}


def test_what_cannot_be_started_is_said(shop, capsys):
    _, words, _ = shop
    for more, said in (
        (["a/b", "--challenger", "2"], "no name"),
        (["a", "--challenger", "1"], "same version"),
        (["a", "--challenger", "champion", "--control", "champion"], "same version"),
        (["a", "--challenger", "2", "--share", "1"], "share"),
        (["a", "--challenger", "2", "--share", "0"], "share"),
    ):
        assert main(["experiments", "start", *more, *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["experiments", "report", "none", *words]) == 2
    assert main(["experiments", "stop", "none", *words]) == 2


def test_lists_of_the_serve_commands_own_options_can_be_read(shop, capsys):
    config, words, _ = shop
    with open_log(log_address(config)) as log:
        log.append_impressions([
            {"impression_id": f"l{n}", "user_id": f"u{n}", "timestamp": START + n,
             "item_ids": ["a", "b"], "teams": ["1", "2"], "model_version": "1+2",
             "experiment": "interleave", "arm": "interleaved"}
            for n in range(4)
        ])  # fmt: skip
        log.append_events([{"user_id": "u1", "item_id": "b", "event_type": "click",
                            "timestamp": START + 9, "event_id": "e"}])  # fmt: skip
    assert main(["experiments", "report", "interleave", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["preferences"]["click"]["value"] == 0.5


def test_an_experiment_s_settings_are_those_of_its_start(shop):
    config, words, _ = shop
    main(["experiments", "start", "spring", "--challenger", "2", *words])
    (declared,) = read_experiments(Workspace(config.workspace_path))
    assert declared.settings["guardrails"] == {"purchase": 0.1}
    facts = experiments._facts(declared, config.experiments)
    assert facts["guardrails"] == {"purchase": 0.1}
    assert isinstance(declared, DeclaredExperiment)
