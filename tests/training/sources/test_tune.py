"""Tuning on the small world: what is chosen, kept, dropped and remembered."""

import errno

import numpy as np
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.retrieval.collaborative import pair_counts
from recsys.retrieval.collaborative.item_item import ItemItem
from recsys.retrieval.collaborative.popularity import Popular
from recsys.storage.engines.engine import EngineFailed
from recsys.storage.engines.scratch_parts import PartsPlace, UnfinishedWork
from recsys.storage.scratch import ScratchFolder
from recsys.training.sources import tune
from recsys.training.sources.fit_source import (
    SourceFailed,
    applicable_sources,
    failing_as,
    fit_sources,
)
from recsys.training.sources.tune import Label, tune_sources

CHEAP = ("popular", "item_item", "transitions", "attributes")


@pytest.fixture(scope="module")
def labels(history):
    draw = np.random.default_rng(9)
    out = []
    for user in range(60):
        own = draw.choice(np.arange(user % 2, 38, 2), 5, replace=False)
        out.append(Label(history(own[:4]), 10**18, own[4:].astype(np.int32)))
    return out


def plan_for(world, labels, **changes):
    settings = {"budget_seconds": 5.0, "seed": 1, "depth": 20, "limit": 15} | changes
    return tune_sources(world[0], labels, world[1], settings.pop("names", CHEAP), **settings)


def test_every_source_is_reported_with_a_reason(world, labels):
    plan = plan_for(world, labels)
    assert [o.name for o in plan.outcomes] == list(CHEAP)
    assert all(o.reason for o in plan.outcomes)
    assert max(plan.weights.values()) == 1.0
    assert set(plan.params) == {o.name for o in plan.outcomes if o.kept}
    assert plan.facts()["labels"] == 60
    by_name = {o.name: o for o in plan.outcomes}
    assert by_name["item_item"].ndcg > by_name["popular"].ndcg


def test_without_time_the_defaults_stay(world, labels):
    plan = plan_for(world, labels, budget_seconds=0.0)
    assert plan.params["item_item"]["decay"] == 0.8
    assert all(o.tried == 1 for o in plan.outcomes)
    assert "no time for" in plan.outcomes[1].note


def test_the_callers_params_are_not_touched(world, labels):
    plan = plan_for(world, labels, params={"item_item": {"decay": 0.33}})
    assert plan.params["item_item"]["decay"] == 0.33


def test_what_the_device_affords_is_tried_without_a_budget_and_kept_where_it_is_better(
    world, labels, monkeypatch
):
    worse, better = (
        {"item_item": [{"decay": 0.01}]},
        {"item_item": [{"decay": 0.9}, {"decay": 0.5}]},
    )
    kept = {"decay": 0.8}
    monkeypatch.setattr(tune, "better", lambda new, old: False)
    plan = plan_for(world, labels, budget_seconds=0.0, larger=worse)
    assert plan.params["item_item"].items() >= kept.items()
    assert [o.tried for o in plan.outcomes] == [1, 2, 1, 1]
    monkeypatch.setattr(tune, "better", lambda new, old: True)
    plan = plan_for(world, labels, budget_seconds=0.0, larger=better)
    assert plan.params["item_item"]["decay"] == 0.5
    assert plan.outcomes[1].tried == 3


def test_remembered_params_are_the_start(world, labels):
    remembered = {"item_item": {"decay": 0.6, "gone": 1.0}}
    plan = plan_for(world, labels, budget_seconds=0.0, remembered=remembered)
    assert plan.params["item_item"]["decay"] == 0.6


def test_a_costly_source_that_adds_nothing_is_dropped(world, labels, monkeypatch):
    monkeypatch.setattr(tune, "CHEAP_SECONDS", -1.0)
    unreachable = [row._replace(relevant=row.history.item[:1]) for row in labels]
    plan = plan_for(world, unreachable, names=("popular", "recent", "item_item"))
    by_name = {o.name: o for o in plan.outcomes}
    assert by_name["popular"].kept
    for name in ("recent", "item_item"):
        assert "dropped, it costs" in by_name[name].reason
    assert set(plan.params) == set(plan.weights) == {"popular"}


def test_a_fixed_source_is_evaluated_but_not_fitted(world, labels, fitted):
    plan = plan_for(world, labels, names=("popular",), fixed={"text": fitted["bm25"]})
    assert set(plan.params) == {"popular"}
    assert plan.weights["text"] > 0


def test_without_labels_everything_is_kept(world):
    plan = plan_for(world, [])
    assert set(plan.weights) == set(CHEAP)
    assert set(plan.weights.values()) == {1.0}


def test_labels_without_history_or_target_do_not_count(world, history):
    empty = [
        Label(history([]), 0, np.array([1], np.int32)),
        Label(history([1]), 0, np.empty(0, np.int32)),
    ]
    assert plan_for(world, empty).labels == 0


def test_applicable_says_why_not(world, interactions_of, inputs_of):
    names = {a.name: a for a in applicable_sources(*world, None, 4e9, 600.0)}
    assert names["item_item"].kept
    assert not names["sequence"].kept
    assert "too few" in names["sequence"].reason
    only = {a.name for a in applicable_sources(*world, ("als",), 4e9, 600.0) if a.kept}
    assert only == {"popular", "als"}
    single = interactions_of([0, 1, 2], [0, 1, 2])
    applicable = {a.name: a for a in applicable_sources(single, inputs_of(40), None, 4e9, 600.0)}
    assert "no user has two positive events" in applicable["item_item"].reason


def test_ease_needs_memory(world):
    reasons = {a.name: a.reason for a in applicable_sources(*world, None, 1000.0, 600.0)}
    assert "room for 8 items" in reasons["ease"]


def test_fit_sources_fits_what_is_planned(world):
    fitted = fit_sources(*world, {"popular": {}, "item_item": {"decay": 0.5}}, seed=1, workers=1)
    assert list(fitted) == ["popular", "item_item"]
    assert fitted["item_item"].params["decay"] == 0.5


def breaks(self, *args, **more):
    raise ValueError("no such\n  shape")


@pytest.mark.parametrize("when", ["fit", "recall"])
@pytest.mark.parametrize("known", [True, False])
def test_a_source_that_fails_is_left_out_with_its_reason(world, labels, monkeypatch, when, known):
    monkeypatch.setattr(ItemItem, when, classmethod(breaks) if when == "fit" else breaks)
    if when == "recall" and not known:
        pytest.skip("without a label nobody is asked")
    plan = plan_for(world, labels if known else [])
    failed = {o.name: o for o in plan.outcomes}["item_item"]
    assert failed.failed == "ValueError: no such shape"
    assert not failed.kept
    assert "could not be fitted" in failed.reason
    assert set(plan.params) == set(CHEAP) - {"item_item"}
    assert "item_item" not in plan.weights
    assert max(plan.weights.values()) == 1.0


def test_nothing_goes_on_without_popular(world, labels, monkeypatch):
    monkeypatch.setattr(Popular, "fit", classmethod(breaks))
    with pytest.raises(SourceFailed, match="“popular” could not be fitted"):
        plan_for(world, labels)


def test_fits_that_tuning_tries_go_elsewhere_where_they_are_large(
    world, labels, watched_engine, tmp_path, monkeypatch
):
    engine, scratch = watched_engine(), ScratchFolder(str(tmp_path))
    elsewhere = UnfinishedWork(PartsPlace(engine, scratch, None), scratch)
    asked = (world, labels)
    here = plan_for(*asked, budget_seconds=0.0)
    assert plan_for(*asked, budget_seconds=0.0, elsewhere=elsewhere).weights == here.weights
    assert engine.given == []
    monkeypatch.setattr(pair_counts, "EVENTS_OF_A_PART", len(world[0]) // 5)
    assert plan_for(*asked, budget_seconds=0.0, elsewhere=elsewhere).weights == here.weights
    assert engine.given == [0, 1, 2, 3, 4] * 2  # item_item and transitions, once each
    # of what was tried nothing is left, but for the events
    assert {name.split("-")[0] for name in scratch.names()} == {"events"}


@pytest.mark.parametrize(
    "other",
    [
        UsageError("a wrong param"),
        OSError(errno.ENOSPC, "no room"),
        EngineFailed("a process was ended"),
    ],
)
def test_what_no_source_is_at_fault_for_is_no_failed_source(other):
    with pytest.raises(type(other)) as met, failing_as("als"):
        raise other
    assert met.value is other
