"""The gate's rules on lists made by hand: who is promoted, kept as challenger, rejected, and why."""

import numpy as np
import pytest

from recsys.data_schemas.config import GateConfig
from recsys.data_schemas.errors import UsageError
from recsys.evaluation.evaluation import PastItems
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.saved_lists import SavedLists
from recsys.evaluation.segments import SegmentLabels
from recsys.training.night.gate import (
    CHALLENGER,
    FLOOR,
    PROMOTE,
    REJECT,
    ChampionEvidence,
    Decision,
    Evidence,
    Guardrail,
    OwnNights,
    Paired,
    Reference,
    decide,
)
from recsys.training.night.gate_evidence import EarlierNights, champion_evidence
from recsys.training.night.products import ChampionResult

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
        else ChampionResult(3, theirs, "refitted", same_recipe=True)
    )
    settings = GateConfig(**config)
    users = np.array([f"u{u}" for u in range(GROUPS)], object)
    past = PastItems(np.zeros(GROUPS + 1, np.int64), np.zeros(0, np.int32))
    tonight = SavedLists(users, truth, past, {"recsys": ours})
    champion = champion_evidence(
        settings, tonight, champion_result, segments, EarlierNights((), ()), "recipe"
    )
    return decide(settings, Evidence(champion, guardrails=guardrails, leaks=leaks, stops=stops))


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
    from recsys.training.night.own_parts import require_sound

    raw = {"data": {"items": "i", "events": "e"}, "gate": {"metric": metric}}
    with pytest.raises(UsageError, match=r"gate\.metric"):
        require_sound(parse_config(raw, tmp_path))


def test_cold_items_are_measured_on_their_own_part_of_the_truth():
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


# --- rules on values alone --------------------------------------------------------------------------


def values(hits, groups=GROUPS):
    """1 at the first `hits` moments, 0 elsewhere: one moment of each of `groups` users."""
    return (np.arange(groups) < hits).astype(float)


def pairs(ours, theirs, groups=GROUPS, first=0):
    """So many moments with a hit of ours and of theirs, the same ones as far as they go."""
    return Paired(values(ours, groups), values(theirs, groups), first + np.arange(groups))


SAME = Paired(values(200), values(200), np.arange(GROUPS), same=True)


def decided(overall=SAME, *, floor=(), same_recipe=True, config=None, **more):
    champion = ChampionEvidence(3, "refitted", overall=overall, same_recipe=same_recipe, **more)
    return decide(config or GateConfig(), Evidence(champion, floor))


def rule(decision, start):
    return next(r for r in decision.rules if r.name.startswith(start))


def test_the_champions_recorded_lists_refuse_a_sure_loss_that_a_refit_cannot_see():
    recorded = Reference(
        "the champion's recorded lists (version 3)", (pairs(100, 200),), "4 moments"
    )
    decision = decided(recorded=[recorded])
    assert decision.action == REJECT
    assert failed(decision) == ["not worse than the champion's recorded lists (version 3)"]
    assert "-50.0%" in decision.reasons[0]
    assert "4 moments" in decision.reasons[0]
    assert decision.headline.startswith("Refused, version 3 stays: not worse than the champion's")


@pytest.mark.parametrize("ours", [200, 199, 230])
def test_recorded_lists_that_show_no_sure_loss_let_pass(ours):
    recorded = Reference("the champion's recorded lists (version 3)", (pairs(ours, 200),))
    assert decided(recorded=[recorded]).promoted


def test_a_sure_loss_is_corrected_for_how_many_are_compared():
    """One of forty comparisons is a sure loss by itself, and not among forty."""
    lost, kept = Reference("one", (pairs(188, 200),)), Reference("another", (pairs(200, 200),))
    assert not decided(recorded=[lost]).promoted
    assert decided(recorded=[lost, *[kept] * 39]).promoted


def test_the_floor_warns_on_a_first_night_and_refuses_over_a_champion():
    popular, fusion = (
        Reference("popularity", (pairs(100, 90),)),
        Reference("fusion", (pairs(100, 200),)),
    )
    first = decide(GateConfig(), Evidence(None, [popular, fusion]))
    assert first.promoted
    assert first.alarms == [f"{FLOOR}: {rule(first, FLOOR).detail}"]
    assert first.alarms[0].startswith(f"{FLOOR}: fusion: difference -0.2500")
    assert "with 1 rule broken" in first.headline
    decision = decided(floor=[popular, fusion])
    assert decision.action == REJECT
    assert failed(decision) == [FLOOR]
    assert decided(floor=[popular]).promoted
    assert decide(GateConfig(), Evidence(None, [popular])).alarms == []


def test_a_window_that_sees_every_loss_beyond_the_margin_needs_no_policy():
    many = 40_000
    decision = decided(pairs(19_980, 20_000, many), same_recipe=False)
    assert decision.promoted
    assert not rule(decision, "not worse than the champion (overall)").policy
    assert "within the margin of 2.0%" in decision.power
    assert decided(pairs(19_000, 20_000, many)).action == REJECT


@pytest.mark.parametrize(
    ("when_unsure", "same_recipe", "action"),
    [
        ("auto", True, PROMOTE),
        ("auto", False, CHALLENGER),
        ("promote", False, PROMOTE),
        ("challenger", True, CHALLENGER),
    ],
)
def test_where_too_little_is_seen_policy_decides_and_says_so(when_unsure, same_recipe, action):
    config = GateConfig(when_unsure=when_unsure)
    decision = decided(pairs(15, 15, 30), same_recipe=same_recipe, config=config)
    assert decision.action == action
    assert "above the margin of 2.0%" in decision.power
    assert "policy, not" in decision.headline
    overall = rule(decision, "not worse than the champion (overall)")
    assert overall.policy
    assert f"gate.when_unsure: {when_unsure}" in overall.detail


def test_few_users_are_no_evidence_even_with_the_same_lists():
    few = Paired(values(5, 9), values(5, 9), np.arange(9), same=True)
    assert decided(few, same_recipe=False).action == CHALLENGER
    assert "9 users, too few to see any loss" in decided(few).power


def test_a_champion_that_finds_nothing_has_nothing_to_lose_and_proves_nothing():
    assert decided(pairs(0, 0), same_recipe=False).action == CHALLENGER
    assert decided(pairs(100, 0), same_recipe=False).promoted


def test_the_same_lists_of_enough_users_are_evidence_and_few_unchanged_values_are_not():
    few = Paired(SAME.ours[190:220], SAME.ours[190:220], np.arange(30), same=True)
    assert decided(few, same_recipe=False).promoted
    assert "the same lists at all 30 moments" in decided(few).headline
    other = Paired(few.ours, few.theirs, few.user)
    assert decided(other, same_recipe=False).action == CHALLENGER


def test_a_doubt_beyond_the_margin_is_no_matter_of_policy():
    decision = decided(pairs(13, 15, 30), config=GateConfig(when_unsure="promote"))
    assert decision.action == CHALLENGER
    assert not rule(decision, "not worse than the champion (overall)").policy


def test_earlier_nights_of_the_same_two_recipes_decide_where_one_window_is_too_small():
    tonight, many = pairs(15, 15, 30), 40_000
    alike = decided(
        tonight, same_recipe=False, earlier=pairs(19_990, 20_000, many, 30), earlier_nights=4
    )
    assert alike.promoted
    assert "With 4 earlier nights: the smallest loss" in alike.power
    worse = decided(tonight, earlier=pairs(18_000, 20_000, many, 30), earlier_nights=1)
    assert worse.action == REJECT
    assert "with 1 earlier night of the same two recipes" in worse.reasons[0]
    # A window that suffices alone is not diluted by what was before.
    enough = decided(pairs(20_200, 20_000, many), earlier=pairs(0, 20_000, many, many))
    assert enough.promoted


def test_without_shared_moments_only_a_great_fall_since_the_champions_night_is_a_doubt():
    def nights(ours, theirs):
        users = np.arange(GROUPS)
        return OwnNights(values(ours), users, values(theirs), users)

    decision = decided(own_nights=nights(100, 200))
    assert decision.action == CHALLENGER
    assert failed(decision) == ["not far below what the champion's night measured"]
    assert decided(own_nights=nights(170, 200)).promoted
    assert decided(own_nights=nights(250, 200)).promoted


def test_losses_within_the_margin_may_not_add_up():
    many = 40_000
    step = pairs(19_700, 20_000, many)
    assert decided(step, same_recipe=False).promoted
    before = Reference("version 1", (pairs(19_400, 20_000, many),), "its recorded lists")
    decision = decided(step, best=[before, Reference("version 2", (step,))])
    assert decision.action == REJECT
    assert failed(decision) == ["not worse than the best of the last 14 nights"]
    assert "version 1: difference" in decision.reasons[0]
    assert decided(step, best=[Reference("version 2", (step,))]).promoted


def test_losses_add_up_through_the_nights_between():
    """Twice 1.5 %: each tolerated, together 2.98 %."""
    many = 40_000
    step = pairs(19_700, 20_000, many)
    twice = Reference("version 1", (step, step), "through the 2 nights that lie between")
    decision = decided(step, best=[twice])
    assert failed(decision) == ["not worse than the best of the last 14 nights"]
    assert rule(decision, "not worse than the best").value == pytest.approx(0.985**2 - 1)
    gained = Reference("version 1", (step, pairs(20_300, 20_000, many)))
    assert decided(step, best=[gained]).promoted


def test_every_rule_with_a_limit_has_its_room_in_the_table():
    decision = decide(
        GateConfig(),
        Evidence(ChampionEvidence(3, "", overall=pairs(198, 200)), guardrails=[SLOW]),
    )
    slow, overall = rule(decision, "latency"), rule(decision, "not worse than the champion (over")
    assert (slow.value, slow.limit, slow.room, slow.relative) == (300.0, 250.0, -50.0, False)
    assert overall.relative
    assert (overall.value, overall.limit) == pytest.approx((-0.01, -0.02), abs=0.001)
    assert overall.room == pytest.approx(overall.value - overall.limit)


@pytest.mark.parametrize("groups", [30, 400, 4_000, 40_000])
@pytest.mark.parametrize("lost", [0.0, 0.005, 0.012, 0.018, 0.03, 0.3])
def test_room_is_left_where_a_rule_has_passed_and_none_where_it_has_not(groups, lost):
    hits = groups // 2
    found = pairs(round(hits * (1 - lost)), hits, groups)
    reference = Reference("the champion's recorded lists", (found,))
    config = GateConfig(when_unsure="promote", protected=("new",), segment_margin=0.02, min_group=1)
    decision = decided(
        found,
        recorded=[reference],
        best=[reference],
        segments={"new": found},
        floor=[reference],
        config=config,
    )
    rows = [r for r in decision.rules if r.room is not None]
    assert len(rows) == 5
    assert [r.room >= 0 for r in rows] == [r.passed for r in rows]


def test_one_of_a_family_that_is_surely_behind_refuses_whichever_is_surest():
    """A tiny loss is surer than a great one, and tolerated."""
    many = 40_000
    tiny = Reference("tiny", (pairs(19_800, 20_000, many),))
    draw = np.random.default_rng(1)
    noisy = Paired(draw.random(200) < 0.5, draw.random(200) < 0.9, np.arange(200))
    great = Reference("great", (Paired(noisy.ours * 1.0, noisy.theirs * 1.0, noisy.user),))
    assert decided(floor=[tiny]).promoted
    decision = decided(floor=[tiny, great])
    assert failed(decision) == [FLOOR]
    assert "great: difference" in decision.reasons[0]


def test_a_decision_comes_back_from_its_record():
    import json

    decision = decided(pairs(100, 200), floor=[Reference("popularity", (pairs(100, 90),))])
    assert Decision.parse(json.loads(json.dumps(decision.as_json()))) == decision
    old = {"action": "promote", "champion": 3, "rules": [
        {"name": "champion", "passed": True, "detail": "", "doubt": False}
    ]}  # fmt: skip
    assert Decision.parse(old).promoted
