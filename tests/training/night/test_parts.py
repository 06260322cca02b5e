"""A night without a ranker, without trees or with a source that failed says so, and takes nobody's place."""

from types import SimpleNamespace

import pytest

from recsys.data_schemas.config import parse_config
from recsys.storage.progress import Reporter
from recsys.training.night.guardrails import (
    missing_parts,
    ranker_parts,
    sources_lost,
    without_trees,
)
from recsys.training.night.judge import _say_what_is_missing
from recsys.training.night.night_context import Night
from recsys.training.ranker import _no_label_ranker

TREES = {"groups": 900, "train_groups": 700, "trees": [48, 51]}
LINEAR = {"groups": 60, "train_groups": 48, "trees": [], "validation_ndcg@10": {"linear": 0.2}}
TRIED = {**LINEAR, "validation_ndcg@10": {"linear": 0.2, "linear+trees": 0.19}}
NOT_FITTED = _no_label_ranker(["fused.score"]).facts


def broken(tonight, champion):
    return [
        rule.name.split(";")[0].split(",")[0]
        for rule in ranker_parts(tonight, champion)
        if not rule.held
    ]


@pytest.mark.parametrize(
    ("tonight", "champion", "expected"),
    [
        (TREES, TREES, []),
        (LINEAR, LINEAR, []),
        (NOT_FITTED, NOT_FITTED, []),
        (NOT_FITTED, None, []),
        (TRIED, TREES, []),
        (LINEAR, TREES, ["trees of the ranker were tried (1: yes)"]),
        ({**LINEAR, "validation_ndcg@10": {}}, TREES, ["trees of the ranker were tried (1: yes)"]),
        (NOT_FITTED, LINEAR, ["the ranker is fitted"]),
        (NOT_FITTED, TRIED, ["the ranker is fitted"]),
        (NOT_FITTED, TREES, ["the ranker is fitted", "trees of the ranker were tried (1: yes)"]),
    ],
)
def test_what_the_champion_has_may_not_be_missing(tonight, champion, expected):
    assert broken(tonight, champion) == expected


def test_a_source_that_the_champion_has_may_not_be_lost():
    failed = {"own": "ValueError: no", "als": "MemoryError: no room"}
    (lost,) = sources_lost(failed, {"als": {"factors": 64}, "popular": {}})
    assert not lost.held
    assert lost.name.endswith("(als)")
    assert sources_lost(failed, {"popular": {}}) == []  # tonight's own, which never served
    assert sources_lost({}, {"als": {}}) == sources_lost(failed, None) == []


def test_what_is_missing_is_said_on_the_first_screen_and_on_the_terminal(tmp_path, capsys):
    config = parse_config({"data": {"items": "i", "events": "e"}}, tmp_path)
    night = Night(config, None, None, Reporter())
    night.data = SimpleNamespace(windows=SimpleNamespace(ranker=()))
    night.rankers = SimpleNamespace(facts={"ranker": NOT_FITTED})
    night.lists = SimpleNamespace(facts={"failed": {"als": "MemoryError: no room"}})
    _say_what_is_missing(night)
    assert night.alarms == [
        "“als” could not be fitted: MemoryError: no room",
        "the ranker is not fitted, the fused recall ranks alone: it has no window",
    ]
    assert "warning: the ranker is not fitted" in capsys.readouterr().err
    night.data.windows.ranker = (1, 2)
    night.rankers.facts["ranker"], night.lists.facts["failed"] = LINEAR, {}
    _say_what_is_missing(night)
    assert len(night.alarms) == 2
    assert "no trees" in night.reporter.warnings[-1]
    assert "48 groups to learn from are too few" in capsys.readouterr().err


def test_trees_that_did_not_help_are_told_from_those_that_were_not_tried():
    assert "did no better" in without_trees(TRIED)
    assert without_trees(TREES) is None
    assert missing_parts(TREES, True, {}) == []
