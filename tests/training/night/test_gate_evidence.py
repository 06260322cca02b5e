"""What the gate is told of earlier nights: recorded lists, who served, which nights held the same two
recipes, and releases asked where they have seen nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.data_schemas.config import GateConfig, parse_config
from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.saved_lists import SavedLists, write_lists
from recsys.storage.registry.version_tags import (
    AGAINST_TAG,
    GATE_TAG,
    RECIPE_TAG,
    REPORT_TAG,
    Change,
    Version,
)
from recsys.training.night import champion
from recsys.training.night.champion import settings_of
from recsys.training.night.gate import REJECT, Evidence, decide
from recsys.training.night.gate_evidence import (
    EarlierNights,
    caps_tag,
    champion_evidence,
    floor,
    who_served,
)
from recsys.training.night.products import ChampionResult, Recipe, ReleasedLists

CONFIG = GateConfig()
ITEMS, LENGTH = 50, 10


def saved(users, hits, *, wanted=0, cut=100, champion=None, champion_hits=None):
    """Lists of users at a cut who want one item; `hits` of them find it first."""
    names = np.array([f"u{u}" for u in users], object)
    n = len(names)
    truth = Truth(
        np.arange(n + 1), np.full(n, wanted, np.int32), np.ones(n, np.int8),
        np.arange(n, dtype=np.int32), np.full(n, cut, np.int64),
    )  # fmt: skip
    past = PastItems(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
    systems = {"recsys": lists("recsys", n, hits, wanted)}
    if champion is not None:
        name = f"champion (version {champion})"
        systems[name] = lists(name, n, champion_hits, wanted)
    return SavedLists(names, truth, past, systems)


def lists(name, n, hits, wanted=0):
    items = np.tile(np.arange(20, 20 + LENGTH, dtype=np.int32), (n, 1))
    items[np.arange(n) < hits, 0] = wanted
    return RankedLists(name, items, np.zeros((n, LENGTH), np.float32))


def version(number, folder=None, kept=None, *, gate="promote", recipe="", against=""):
    """A registered version, its night's lists beside its report."""
    tags = {GATE_TAG: gate, RECIPE_TAG: recipe, AGAINST_TAG: str(against)}
    if kept is not None:
        place = folder / str(number)
        place.mkdir()
        write_lists(place, kept.truth, kept.past, list(kept.systems.values()), kept.user_ids)
        tags[REPORT_TAG] = str(place)
    return Version(number, "", "", (), {}, tags, "", None)


def nights(*versions, served=()):
    return EarlierNights(sorted(versions, key=lambda v: -v.version), served)


def found(tonight, kept, *, version_lists=None, recipe="new", **facts):
    compared = tonight.champion()
    result = ChampionResult(
        3, version_lists or (compared and compared[1]), "refitted", same_recipe=True, **facts
    )
    return champion_evidence(CONFIG, tonight, result, {}, kept, recipe)


USERS = range(200)


def test_recorded_lists_are_held_against_at_shared_moments_only(tmp_path):
    tonight = saved(USERS, 50, champion=3, champion_hits=50)
    kept = nights(version(3, tmp_path, saved(range(100, 300), 200)))
    evidence = found(tonight, kept)
    (reference,) = evidence.recorded
    assert reference.name == "the champion's recorded lists (version 3)"
    assert reference.steps[0].theirs.tolist() == [1.0] * 100
    assert reference.steps[0].ours.tolist() == [0.0] * 100
    assert set(reference.steps[0].user) == {f"u{u}" for u in range(100, 200)}
    assert decide(CONFIG, Evidence(evidence)).action == REJECT


def test_labels_that_changed_since_are_compared_by_too(tmp_path):
    """Item ids dealt anew: by tonight's labels both are lost alike, by those of then only we are."""
    tonight = saved(USERS, 50, wanted=7, champion=3, champion_hits=50)
    kept = nights(version(3, tmp_path, saved(USERS, 150, wanted=5)))
    evidence = found(tonight, kept, same_labels=True)
    by_ours, by_theirs = evidence.recorded
    assert not by_ours.steps[0].theirs.any()
    assert by_theirs.name.endswith("by the labels of then)")
    assert by_theirs.steps[0].theirs.sum() == 150
    assert by_theirs.steps[0].ours.sum() == 0
    assert "0% of the labels recorded then are still in the log" in by_theirs.note
    # Where events mean something else than then, the labels of then say nothing.
    assert len(found(tonight, kept).recorded) == 1


@pytest.mark.parametrize(
    ("kept", "said"),
    [(None, "are gone"), (saved(range(191, 391), 0), "share moments of 9 users")],
)
def test_without_shared_moments_the_page_says_so(tmp_path, kept, said):
    tonight = saved(USERS, 50, champion=3, champion_hits=50)
    evidence = found(tonight, nights(version(3, tmp_path, kept)), unasked="it has seen all")
    assert evidence.recorded == []
    assert evidence.notes[0] == "it has seen all"
    assert said in evidence.notes[1]
    assert evidence.own_nights is None
    assert decide(CONFIG, Evidence(evidence)).notes == list(evidence.notes)


def test_nights_that_share_no_moments_are_compared_each_by_its_own(tmp_path):
    tonight = saved(USERS, 50, champion=3, champion_hits=50)
    kept = nights(version(3, tmp_path, saved(range(300, 400), 80, cut=90)))
    own = found(tonight, kept, same_labels=True).own_nights
    assert (own.ours.sum(), own.theirs.sum()) == (50, 80)
    assert (len(set(own.our_user)), len(set(own.their_user))) == (200, 100)
    assert found(tonight, kept, same_labels=False).own_nights is None


def test_lists_under_other_caps_are_no_comparison(tmp_path):
    tonight = saved(USERS, 50, champion=3, champion_hits=50)
    capped = replace(
        nights(version(3, tmp_path, saved(USERS, 200))), caps=caps_tag({"category": 3})
    )
    evidence = found(tonight, capped, same_labels=True)
    assert evidence.recorded == []
    assert evidence.own_nights is None
    assert "made under other caps" in evidence.notes[0]


def test_a_recipe_that_cannot_be_fitted_again_is_compared_by_its_recorded_lists(tmp_path):
    tonight = saved(USERS, 100)
    kept = nights(version(3, tmp_path, saved(USERS, 100)))
    evidence = found(tonight, kept)
    assert evidence.overall.same
    assert evidence.how == "by its recorded lists (refitted)"
    assert decide(CONFIG, Evidence(evidence)).promoted


def test_the_release_is_held_against_where_it_was_asked():
    tonight = saved(USERS, 50, champion=3, champion_hits=50)
    rows = np.arange(60, 200)
    released = ReleasedLists(rows, lists("champion", len(rows), 140))
    evidence = found(tonight, nights(version(3)), released=released)
    (reference,) = evidence.recorded
    assert reference.name == "the champion's release (version 3), unseen moments"
    assert reference.steps[0].theirs.sum() == 140
    assert reference.steps[0].ours.sum() == 0
    assert decide(CONFIG, Evidence(evidence)).action == REJECT


def test_earlier_nights_count_each_moment_once_and_only_for_the_same_two_recipes(tmp_path):
    tonight = saved(USERS, 100, champion=3, champion_hits=100)

    def night(users, champion=3):
        return saved(users, 30, champion=champion, champion_hits=40)

    kept = nights(
        version(3, recipe="old"),
        version(4, tmp_path, night(range(150, 250)), recipe="new", against=3),
        version(5, tmp_path, night(range(200, 260)), recipe="new", against=3),
        version(6, tmp_path, night(range(300, 400)), recipe="third", against=3),
        version(7, tmp_path, night(range(400, 500), 2), recipe="new", against=2),
        version(2, recipe="older"),
    )
    evidence = found(tonight, kept)
    assert evidence.earlier_nights == 1
    assert set(evidence.earlier.user) == {f"u{u}" for u in range(200, 260)}
    assert evidence.earlier.ours.sum() == 30
    assert found(tonight, kept, recipe="fourth").earlier is None
    unknown = nights(version(4, tmp_path / "x", None, recipe="new", against=3), version(3))
    assert found(tonight, unknown).earlier is None


def test_earlier_versions_are_compared_directly_or_through_the_nights_between(tmp_path):
    tonight = saved(USERS, 100, champion=3, champion_hits=110)
    third = saved(range(500, 700), 120, cut=90, champion=2, champion_hits=130)
    second = saved(range(500, 700), 60, cut=80, champion=1, champion_hits=70)
    first = saved(USERS, 150)
    kept = nights(
        version(3, tmp_path, third), version(2, tmp_path, second), version(1, tmp_path, first),
        served=(3, 2, 1),
    )  # fmt: skip
    evidence = found(tonight, kept)
    through, direct = evidence.best
    assert (through.name, direct.name) == ("version 2", "version 1")
    assert [step.theirs.sum() for step in through.steps] == [110, 130]
    assert [step.theirs.sum() for step in direct.steps] == [150]
    apart = nights(version(3, tmp_path / "x"), version(2), served=(3, 2))
    assert found(tonight, apart).best == []
    assert found(tonight, apart).notes[-1].endswith("cannot be compared tonight: 2")


class History:
    def __init__(self, *changes):
        self.changes = [Change("", action, v, before, "", "") for action, v, before in changes]

    def history(self):
        return self.changes


@pytest.mark.parametrize(
    ("changes", "served"),
    [
        ([("promote", 1, None), ("promote", 2, 1), ("promote", 4, 2)], [4, 2, 1]),
        # Withdrawn: nobody is held to what was taken back.
        ([("promote", 1, None), ("promote", 2, 1), ("rollback", 1, 2)], [1]),
        ([("promote", 1, None), ("promote", 4, 1), ("promote", 2, 4)], [2]),
        # Put in place against the gate: its losses were accepted.
        ([("promote", 1, None), ("promote", 3, 1), ("promote", 4, 3)], [4, 3]),
        # 9 is older than the nights that count, or gone.
        ([("promote", 9, None), ("promote", 1, 9)], [1]),
    ],
)
def test_who_may_not_be_fallen_behind(changes, served):
    recent = [version(4), version(3, gate="challenger"), version(2), version(1)]
    assert who_served(History(*changes), recent) == served


def test_the_floor_leaves_ablations_out():
    tonight = saved(USERS, 50)
    systems = [lists(n, 200, h) for n, h in (("recsys", 50), ("popularity", 60), ("no text", 90))]
    (reference,) = floor(tonight, systems, {"no text": "recsys"}, "ndcg@10")
    assert reference.name == "popularity"
    assert reference.steps[0].theirs.sum() == 60


# --- the champion's side ------------------------------------------------------------------------------


def config_of(**sections):
    raw = {"data": {"items": "i", "events": "e"}, **sections}
    return parse_config(raw, Path())


def test_a_recipe_is_settings_tuned_params_and_encoder_and_not_the_data():
    plain = config_of().model_dump(mode="json")
    written_before = {name: plain[name] for name in champion.SETTINGS} | {"ranker": {"trees": 300}}
    assert settings_of(written_before) == settings_of(plain)
    assert settings_of(plain | {"budget_minutes": 3.0}) == settings_of(plain)
    changed = config_of(ranker={"trees": 31}).model_dump(mode="json")
    assert settings_of(changed) != settings_of(plain)
    assert settings_of({"ranker": {"no such": 1}}) is None

    recipe = Recipe({"als": {"factors": 8}}, {"als": 1.0}, {"seconds": 3})
    key = champion.recipe_key(config_of(), recipe, "encoder")
    assert (
        champion.recipe_key(config_of(), Recipe(recipe.params, recipe.weights, {}), "encoder")
        == key
    )
    for other in (
        (config_of(), recipe, "another"),
        (config_of(ranker={"trees": 31}), recipe, "encoder"),
        (config_of(), Recipe({"als": {"factors": 9}}, recipe.weights, {}), "encoder"),
    ):
        assert champion.recipe_key(*other) != key


@pytest.fixture
def released(monkeypatch):
    """Asks a release that has seen all before 100 at one moment of each user; what came of it."""
    asked = []

    class Moments(SimpleNamespace):
        def take(self, rows):
            return Moments(time=self.time[rows], user=self.user[rows])

    def answers(night, loaded, moments, version):
        asked.append(moments.time)
        return np.zeros((len(moments.time), 1), np.int32), np.zeros((len(moments.time), 1), "f4")

    monkeypatch.setattr(champion, "_loaded", lambda *_: "loaded")
    monkeypatch.setattr(champion, "_asked", answers)
    bundle = SimpleNamespace(
        fit_until={"als": 99, "encoder": 40}, manifest={"data_window": [0, 100]}
    )

    def ask(now):
        now = np.array(now)
        moments = Moments(time=now, user=np.arange(len(now)))
        night = SimpleNamespace(
            data=SimpleNamespace(chances=lambda moments, purpose: np.arange(len(moments.time))),
            tested=SimpleNamespace(product=SimpleNamespace(moments=moments)),
        )
        return champion._released(night, bundle, 3), asked

    return ask


def test_the_release_is_asked_only_at_moments_after_all_that_any_part_has_seen(released):
    (lists_of, why), asked = released([50] * 20 + [99] * 20 + [100] * 5 + [170] * 5)
    assert lists_of.rows.tolist() == list(range(40, 50))
    assert why == ""
    assert asked[0].tolist() == [100] * 5 + [170] * 5


def test_a_release_that_has_seen_nearly_all_is_not_asked(released):
    (lists_of, why), asked = released([50] * 20 + [100] * 9)
    assert lists_of is None
    assert "has seen all but those of 9 users of tonight's moments" in why
    assert "its recorded lists decide" in why
    assert asked == []
    assert "has seen all of tonight's moments" in released([50] * 20)[0][1]
