"""The released ranker learns the tested window too, where that is much, and only if the fit went well."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.data_schemas.config import RankerConfig
from recsys.ranker import Ranker
from recsys.training.night import released_ranker as module
from recsys.training.night.products import FULL, LEARNABLE
from recsys.training.ranker import EVENTS, fit_ranker
from recsys.training.ranking_groups import Groups

COLUMNS = ["fused.score", "noise", EVENTS]


def groups(count, seed):
    """Lists of ten with one that was acted on, mostly the one with the highest first column."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 10, 3)).astype(np.float32)
    x[:, :, 2] = 5
    acted = np.argmax(x[:, :, 0] + 0.3 * draw.normal(size=(count, 10)), axis=1)
    grade = (np.arange(10) == acted[:, None]).astype(np.int8)
    return Groups(
        x.reshape(-1, 3),
        grade.ravel(),
        np.arange(count + 1) * 10,
        np.arange(count),
        np.ones(count, np.int32),
    )


def ranking(made):
    return SimpleNamespace(groups=lambda: made, features=SimpleNamespace(columns=COLUMNS))


@pytest.fixture
def night(tmp_path, monkeypatch):
    learned, tested = groups(200, 0), groups(60, 1)
    config = RankerConfig(trees=5, seeds=1)
    ranker = fit_ranker(learned, COLUMNS, config, seed=0, workers=1)
    (tmp_path / FULL).mkdir()
    ranker.save(tmp_path / FULL)
    monkeypatch.setattr(module, "place_weights", lambda night: SimpleNamespace(weight=None))
    warnings = []
    return SimpleNamespace(
        there=60,
        rankers=SimpleNamespace(folder=tmp_path, facts={"ranker": ranker.facts}),
        learned=SimpleNamespace(product=ranking(learned)),
        tested=SimpleNamespace(product=ranking(tested), facts={LEARNABLE: 60, "moments": 60}),
        config=SimpleNamespace(ranker=config, seed=0),
        workers=1,
        reporter=SimpleNamespace(warn=warnings.append, warnings=warnings),
    )


@pytest.mark.parametrize(
    ("wanted", "more", "learns"),
    [("auto", 40, True), ("auto", 39, False), (True, 1, True), (False, 200, False)],
)
def test_a_fifth_more_is_worth_it(night, wanted, more, learns):
    night.config.ranker = night.config.ranker.model_copy(update={"refit_all": wanted})
    night.tested.facts[LEARNABLE] = more
    assert module._learns_more(night, night.there) is learns


def test_moments_that_were_not_tested_count_too(night):
    night.tested.facts[LEARNABLE] = 20
    assert not module._learns_more(night, night.there)
    night.there = 120
    assert module._learns_more(night, night.there)


def test_all_of_the_tested_windows_is_read_where_some_was_tested(night, monkeypatch):
    monkeypatch.setattr(module.ranking_data, "build_ranking_data", lambda night, role: role)
    assert module._later_groups(night, night.there) is night.tested
    night.there = 61
    assert module._later_groups(night, night.there) == "released"


def test_fitting_again_takes_no_more_groups_than_before(night, tmp_path):
    night.config.ranker = night.config.ranker.model_copy(update={"max_groups": 150})
    (tmp_path / "out").mkdir()
    night.tested.product = ranking(groups(180, 1))
    released = module._refit(night, night.tested, tmp_path / "out")["ranker"]["released"]
    assert (released["groups"], released["later"]) == (200, 133)


def without_events(made, acted):
    """The same groups; in each the last candidate has no events, in some it alone was acted on."""
    x, grade = made.x.copy(), made.grade.copy()
    x[:, 2] = 5
    x[made.offsets[1:] - 1, 2] = 0
    for group in acted:
        grade[made.offsets[group] : made.offsets[group + 1]] = 0
        grade[made.offsets[group + 1] - 1] = 1
    # Elsewhere it was left.
    for group in set(range(len(made))) - set(acted):
        rows = slice(made.offsets[group], made.offsets[group + 1])
        grade[rows] = np.arange(10) == 0
    return replace(made, x=x, grade=grade)


@pytest.mark.parametrize(("acted", "left"), [(0, 0), (2, 18), (10, 90), (40, 160)])
def test_items_without_events_are_acted_on_as_often_as_in_practice(acted, left):
    """One of ten in the earlier groups."""
    before = without_events(groups(50, 3), range(5))
    later = without_events(groups(200, 4), range(acted))
    found = module._as_practised(later, before, COLUMNS, seed=0)
    new = found.x[:, 2] == 0
    assert (new & (found.grade > 0)).sum() == acted
    assert (new & (found.grade == 0)).sum() == pytest.approx(left, rel=0.3, abs=0)
    assert (~new).sum() == 200 * 9


def test_where_nothing_was_practised_all_stay():
    later = without_events(groups(20, 4), [])
    assert module._as_practised(later, later, COLUMNS, seed=0) is later


def test_what_nobody_chose_a_recipe_for_is_as_it_was(night):
    del night.rankers.facts["ranker"]["penalty"]
    assert not module._learns_more(night, night.there)


def test_it_learns_the_tested_groups_too(night, tmp_path):
    (tmp_path / "out").mkdir()
    facts = module._refit(night, night.tested, tmp_path / "out")["ranker"]
    assert (facts["released"]["groups"], facts["released"]["later"]) == (260, 60)
    assert not night.reporter.warnings


def test_a_fit_that_went_wrong_is_not_released(night, tmp_path, monkeypatch):
    def spoilt(judged, *args, **kwargs):
        linear = judged.linear
        return replace(judged, linear=replace(linear, weights=-linear.weights), boosters=[])

    monkeypatch.setattr(module, "refitted", spoilt)
    (tmp_path / "out").mkdir()
    facts = module._refit(night, night.tested, tmp_path / "out")["ranker"]
    assert "released" not in facts
    [said] = night.reporter.warnings
    assert "the judged one is released" in said
    x = groups(5, 2).x
    kept, judged = (Ranker.load(tmp_path / folder / FULL) for folder in ("out", "."))
    np.testing.assert_array_equal(kept.score(x), judged.score(x))
