"""The gate's rules on lists made by hand: who is promoted, kept as challenger, rejected, and why."""

import numpy as np
import pytest

from recsys.data_schemas.config import GateConfig
from recsys.data_schemas.errors import UsageError
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.segments import SegmentLabels
from recsys.training.night.gate import (
    CHALLENGER,
    PROMOTE,
    REJECT,
    ChampionResult,
    Guardrail,
    decide,
)

GROUPS, ITEMS = 400, 20
NEW = 100
"""The first groups are of new users."""


@pytest.fixture
def truth():
    """Each user of one group wants item 0."""
    users = np.arange(GROUPS, dtype=np.int32)
    return Truth(
        np.arange(GROUPS + 1),
        np.zeros(GROUPS, np.int32),
        np.ones(GROUPS, np.int8),
        users,
        np.zeros(GROUPS, np.int64),
    )


def lists(hit, name="recsys", place=0):
    """Item 0 at a place where `hit` (bool[G]) says so, nothing relevant elsewhere."""
    items = np.tile(np.arange(1, ITEMS + 1, dtype=np.int32), (GROUPS, 1))
    items[hit, place] = 0
    return RankedLists(name, items, np.tile(np.arange(ITEMS, 0, -1.0), (GROUPS, 1)).astype("f4"))


def users_first(share, seed=1):
    return np.random.default_rng(seed).random(GROUPS) < share


SEGMENTS = {
    "users": SegmentLabels(("new_users", "others"), (np.arange(GROUPS) >= NEW).astype(np.int32)),
}


def gate(truth, ours, theirs, guardrails=(), leaks=(), stops=(), segments=SEGMENTS, **config):
    champion_result = (
        theirs
        if theirs is None or isinstance(theirs, ChampionResult)
        else ChampionResult(3, theirs, "refitted")
    )
    return decide(
        GateConfig(**config),
        truth,
        ours,
        champion_result,
        segments,
        guardrails=guardrails,
        leaks=leaks,
        stops=stops,
        resamples=300,
        seed=1,
    )


def failed(decision):
    return [rule.name for rule in decision.rules if not rule.passed]


def test_the_same_lists_are_promoted(truth):
    same = lists(users_first(0.5))
    decision = gate(truth, same, same)
    assert decision.action == PROMOTE
    assert decision.champion == 3


def test_a_clear_loss_is_rejected_with_its_interval(truth):
    champion = users_first(0.6)
    decision = gate(truth, lists(champion & users_first(0.7, 2)), lists(champion))
    assert decision.action == REJECT
    assert decision.reasons[0].startswith("FAILED: not worse than the champion (overall): diff")


def test_better_overall_but_worse_for_new_users_is_rejected_by_that_rule(truth):
    champion = users_first(0.5)
    ours = champion.copy()
    ours[NEW:] = True
    ours[:NEW] &= users_first(0.5, 2)[:NEW]
    decision = gate(truth, lists(ours), lists(champion))
    assert decision.action == REJECT
    assert failed(decision) == ["not worse than the champion (new_users)"]
    overall = next(r for r in decision.rules if "overall" in r.name)
    assert "difference +" in overall.detail
    assert gate(truth, lists(ours), lists(champion), min_group=NEW + 1).promoted


def test_a_loss_that_may_be_chance_keeps_a_challenger(truth):
    champion = users_first(0.5)
    ours = champion.copy()
    ours[np.flatnonzero(champion)[:18]] = False
    ours[np.flatnonzero(~champion)[:10]] = True
    decision = gate(truth, lists(ours), lists(champion), protected=())
    assert decision.action == CHALLENGER
    assert decision.reasons[0].startswith("in doubt: not worse than the champion (overall)")


def test_a_loss_within_the_margin_is_tolerated_when_the_interval_shows_it(truth):
    champion = users_first(0.5)
    slightly = lists(champion, place=0).items.copy()
    hit = np.flatnonzero(champion)
    slightly[hit[:4]] = np.roll(slightly[hit[:4]], 1, axis=1)
    ours = RankedLists("recsys", slightly, lists(champion).scores)
    assert gate(truth, ours, lists(champion), margin=0.05, protected=()).promoted
    assert not gate(truth, ours, lists(champion), margin=0.0, protected=()).promoted


def test_the_metric_is_the_configured_one(truth):
    champion = users_first(0.5)
    ours, theirs = lists(champion, place=9), lists(champion, place=0)
    assert gate(truth, ours, theirs).action == REJECT
    assert gate(truth, ours, theirs, metric="recall@10").promoted
    assert gate(truth, ours, theirs, metric="hit_rate@5").action == REJECT


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@0", "ndcg@101", "clicks@10", "auc"])
def test_an_unknown_metric_is_refused_before_any_work(metric, tmp_path):
    from recsys.data_schemas.config import parse_config

    raw = {"data": {"items": "i", "events": "e"}, "gate": {"metric": metric}}
    with pytest.raises(UsageError, match=r"gate\.metric"):
        parse_config(raw, tmp_path)


def test_cold_items_are_judged_on_their_own_part_of_the_truth():
    """Groups want items 0 (known) and 30 (cold); the champion finds both, the candidate no cold."""
    both = np.tile(np.array([0, 30], np.int32), GROUPS)
    truth = Truth(
        2 * np.arange(GROUPS + 1),
        both,
        np.ones(2 * GROUPS, np.int8),
        np.arange(GROUPS, dtype=np.int32),
        np.zeros(GROUPS, np.int64),
    )
    items = np.tile(np.arange(40, 60, dtype=np.int32), (GROUPS, 1))
    theirs, ours = items.copy(), items.copy()
    theirs[:, 1], theirs[:, 2] = 0, 30
    ours[:, 0] = 0
    scores = np.tile(np.arange(20, 0, -1.0), (GROUPS, 1)).astype(np.float32)
    labels = SegmentLabels(("cold_items", "head"), (both == 0).astype(np.int32), "relevant")
    decision = gate(
        truth,
        RankedLists("recsys", ours, scores),
        RankedLists("champion", theirs, scores),
        segments={"items": labels},
        margin=0.9,
    )
    assert failed(decision) == ["not worse than the champion (cold_items)"]


def test_a_segment_nobody_belongs_to_is_said_to_have_no_rule(truth):
    same = lists(users_first(0.5))
    decision = gate(truth, same, same, protected=("new_users", "land=nowhere"))
    assert decision.promoted
    assert "no rule applied" in next(r.detail for r in decision.rules if r.name == "land=nowhere")


SLOW = Guardrail("latency", 300.0, 250.0, False)


@pytest.mark.parametrize(
    ("more", "action"),
    [
        ({"guardrails": [SLOW]}, REJECT),
        ({"guardrails": [Guardrail("coverage", 0.2, 0.1, True)]}, PROMOTE),
        ({"leaks": ["a leak"]}, REJECT),
        ({"stops": ["half the events are missing"]}, REJECT),
    ],
)
def test_what_else_refuses(truth, more, action):
    same = lists(users_first(0.5))
    assert gate(truth, same, same, **more).action == action


def test_a_first_model_passes_with_alarms_but_not_with_a_leak(truth):
    ours = lists(users_first(0.5))
    assert gate(truth, ours, None, guardrails=[SLOW], stops=["drift"]).promoted
    assert gate(truth, ours, None, leaks=["a leak"]).action == REJECT


def test_a_champion_that_cannot_be_compared_keeps_the_candidate_waiting(truth):
    ours = lists(users_first(0.5))
    decision = gate(truth, ours, ChampionResult(3, None, "its encoder has seen the window"))
    assert decision.action == CHALLENGER
    assert "its encoder has seen the window" in decision.reasons[0]
    assert gate(truth, ours, ChampionResult(3, None, "its files are gone", lost=True)).promoted
