"""Probe and search."""

import argparse
from types import SimpleNamespace

import pytest

from recsys.data_schemas.errors import UsageError
from recsys.operations.cli import night_commands
from recsys.training.finetune.probe import (
    Probe,
    ProbeRow,
    _recommend,
    probe,
)
from recsys.training.finetune.search import search


def row(tuned, speed, problem=""):
    return ProbeRow("m", "head", 1.0, 0.1, tuned, 1.0, speed, problem)


def test_a_slower_candidate_must_be_worth_it():
    assert _recommend([row(0.300, 100), row(0.302, 20)]) == 0
    assert _recommend([row(0.300, 100), row(0.330, 20)]) == 1
    assert _recommend([row(0.0, 0, "broken")]) is None


def test_probe_compares_and_says_what_failed(behaviour, texts, settings, tmp_path):
    found = probe(
        behaviour,
        texts,
        settings(max_steps=2, head_steps=4),
        fit_until=int(behaviour.time.max()),
        seed=0,
        seconds_each=30,
        models=(settings().model, str(tmp_path / "nowhere")),
        strategies=("head",),
    )
    assert found.recommended == 0
    assert found.rows[0].tuned >= found.rows[0].zero_shot > 0
    assert "cannot be found" in found.rows[1].problem
    assert "recommended: encoder.model" in found.render()
    assert "cannot be found" in found.render()
    assert Probe((found.rows[1],), None).render().endswith("no candidate could be fitted")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_search_is_never_worse_and_goes_on(behaviour, texts, settings, tmp_path):
    trials = []
    arguments = {
        "fit_until": int(behaviour.time.max()),
        "seed": 0,
        "seconds": 3.0,
        "storage": tmp_path / "study.db",
        "on_trial": lambda number, value, chosen: trials.append((number, value)),
    }
    config = settings(max_steps=2, head_steps=3)
    best, value = search(behaviour, texts, config, **arguments)
    first = trials[0][1]
    assert value >= first
    assert best.model == config.model
    _, again = search(behaviour, texts, config, **(arguments | {"seconds": 1.0}))
    assert again >= value
    assert trials[-1][0] > 0


@pytest.fixture
def asked(behaviour, texts, settings, tmp_path, monkeypatch):
    """What the commands hand to probe and search, which are not run."""
    seen = {"curves": []}

    def probed(interactions, given, config, **arguments):
        seen.update(arguments)
        arguments["on_row"](row(0.3, 100))
        return Probe((row(0.3, 100),), 0)

    def searched(interactions, given, config, **arguments):
        seen.update(arguments)
        arguments["on_trial"](0, 0.25, {"learning_rate": 1e-4})
        return config.model_copy(update={"learning_rate": 1e-4}), 0.25

    monkeypatch.setattr("recsys.training.finetune.probe.probe", probed)
    monkeypatch.setattr("recsys.training.finetune.search.search", searched)
    night = SimpleNamespace(
        config=SimpleNamespace(encoder=settings(), seed=1),
        budget=lambda part: 100.0,
        reporter=SimpleNamespace(say=lambda text: seen.setdefault("said", text)),
        workspace=SimpleNamespace(encoder_search=tmp_path / "search.db"),
    )
    until = int(behaviour.time.max())
    night.data = SimpleNamespace(
        windows=SimpleNamespace(encoder_until=until), interactions=behaviour, texts=texts
    )
    night.registry = SimpleNamespace(log_curves=lambda *curve: seen["curves"].append(curve))
    return night, seen


def test_the_command_compares_the_named_models_and_strategies(asked, capsys):
    night, seen = asked
    args = argparse.Namespace(models="default, ./mine", strategies="head,lora")
    assert night_commands._probe(night, args) == 0
    assert seen["models"] == ("default", "./mine")
    assert seen["strategies"] == ("head", "lora")
    assert "recommended" in capsys.readouterr().out
    assert night_commands._probe(night, argparse.Namespace(models=None, strategies=None)) == 0
    assert seen["models"] == ()
    with pytest.raises(UsageError, match=r"no such freeze strategy(.|\n)*thaw"):
        night_commands._probe(night, argparse.Namespace(models=None, strategies="head,thaw"))


def test_the_command_searches_so_many_minutes_and_tracks_it(asked, capsys, tmp_path):
    night, seen = asked
    assert night_commands._search(night, 2.0) == 0
    assert seen["seconds"] == 120
    assert seen["storage"].parent == tmp_path
    assert seen["curves"] == [("encoder-search", {"search_valid_ndcg": [(0, 0.25)]})]
    assert "learning_rate: 0.0001" in capsys.readouterr().out
    with pytest.raises(UsageError, match="needs time"):
        night_commands._search(night, 0.0)
