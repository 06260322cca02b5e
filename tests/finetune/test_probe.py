"""Probe and search."""

import pytest

from training.finetune.probe import Probe, ProbeRow, _recommend, probe
from training.finetune.search import search


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
