"""The backtest's own arithmetic, and that it touches nothing that serves."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.evaluation.uncertainty import Interval
from recsys.features.interactions import DAY, HOUR
from recsys.features.time_buckets import MomentGrid
from recsys.operations import backtest
from recsys.operations.backtest import (
    NightQuality,
    compare,
    conclusions,
    elsewhere,
    plan_cuts,
    table,
)
from recsys.storage.registry import Registry


@pytest.fixture
def config(tmp_path):
    raw = {
        "data": {"items": "i", "events": "e"},
        "tracking": {"uri": "postgresql://user@db/mlflow", "artifacts": "s3://bucket/live"},
        "notify": {"webhook": "https://example.org/secret"},
        "serving": {"store": "store", "log_days": 3, "explain_items": 4},
    }
    return parse_config(raw, tmp_path)


def quality(cut, version, ndcg=0.1):
    return NightQuality(cut, version, "promote", "passed", 3, ndcg, None, ndcg, 1.0)


def test_nothing_is_promoted_where_it_would_serve(config):
    simulated = elsewhere(config)
    registry = Registry(simulated)
    assert registry.embedded
    assert config.workspace_path in registry._store.path.parents
    assert simulated.notify.webhook is None
    told = simulated.serving
    assert (told.store, told.log_days, told.explain_items) == (None, None, 4)
    assert simulated.workspace_path == config.workspace_path / "backtest"


def test_cuts_are_days_or_equal_shares_that_hold_enough_lists(config, monkeypatch, interactions_of):
    def cuts_of(times, users, nights):
        """Of one event at each time, on an item of its own, users in turn."""
        each = np.arange(len(times))
        events = interactions_of(each % users, each, n_items=len(times))
        events = replace(events, time=np.sort(times).astype(np.int64))
        monkeypatch.setattr(backtest, "_events", lambda _: (events, MomentGrid(HOUR)))
        cuts, why = plan_cuts(config, nights)
        assert all(cut % HOUR == 0 for cut in cuts)
        return cuts, why

    cuts, why = cuts_of(np.random.default_rng(1).integers(0, 40 * DAY, 4000), 50, 14)
    assert np.diff(cuts).tolist() == [DAY] * 14
    assert "the last 14 days, " in why
    sparse = np.arange(400) * 30 * DAY
    cuts, why = cuts_of(sparse, 50, 4)
    assert (cuts[-1], len(cuts)) == (sparse[-1] + HOUR, 5)
    assert cuts[0] == sparse[320]
    assert why.startswith(
        "equal shares of the last 20% of the events, 80 lists of returning users to evaluate"
    )
    assert "(the last 4 days have 1 lists of returning users to evaluate)" in why
    cuts, why = cuts_of(sparse, 5, 4)
    assert cuts[0] == sparse[200]
    assert "last 50%" in why
    with pytest.raises(UsageError, match="too few moments"):
        cuts_of([1, 1, 1, HOUR], 2, 3)


def test_the_reason_is_what_spoke_against_or_how_it_compared():
    passed = ["passed: no leak", "passed: not worse than the champion (overall): difference +0.1"]
    assert backtest.telling(passed) == passed[1]
    assert backtest.telling([*passed, "FAILED: coverage"]) == "FAILED: coverage"
    assert backtest.telling(passed[:1]) == passed[0]


def test_each_way_is_paired_over_its_nights(tmp_path):
    (tmp_path / "nights").mkdir()
    for night, (fresh, late, weekly) in enumerate(
        (([0.5, 0.1], [np.nan, np.nan], [0.5, 0.1]), ([0.4, 0.6], [0.2, 0.6], [0.4, 0.2]))
    ):
        columns = {"nightly": fresh, "a night late": late, "weekly": weekly}
        np.savez(tmp_path / "nights" / f"{night}.npz", user=np.array(["a", "b"]), **columns)
    found = compare(tmp_path, [quality(1, 1), quality(2, 2)])
    assert found["a night late"]["difference"] == pytest.approx((0.2 + 0.0) / 2)
    assert found["a night late"]["nights"] == 1
    assert found["weekly"]["difference"] == pytest.approx((0 + 0 + 0 + 0.4) / 4)
    assert (found["weekly"]["lists"], found["weekly"]["users"]) == (4, 2)
    assert "weekly 0.3000: difference +0.1000" in conclusions(found)[1]


def test_an_interrupted_backtest_goes_on_and_another_starts_anew(config, tmp_path):
    place = config.workspace_path / "backtest"
    config.workspace_path.mkdir()
    (config.workspace_path / "forgotten.json").write_text('{"users": {"ann": "2026"}}')
    assert backtest._begin(config, place, [1, 2, 3]) == []
    assert "ann" in (place / "forgotten.json").read_text()
    done = [quality(1, 1)]
    backtest._keep(place, config, [1, 2, 3], done)
    (place / "mlflow").mkdir()
    assert backtest._begin(config, place, [1, 2, 3]) == done
    assert (place / "mlflow").exists()
    assert backtest._begin(config, place, [1, 2, 4]) == []
    assert not (place / "mlflow").exists()
    backtest._keep(place, config, [1, 2, 3], [*done, quality(2, 2)])
    assert backtest._begin(config, place, [1, 2, 3]) == []


def test_every_seventh_version_stands_for_a_weekly_retraining(config, monkeypatch, tmp_path):
    asked = []

    def simulate(config, number, cut, end, weekly, reporter):
        asked.append(weekly)
        return quality(cut, number + 1)

    monkeypatch.setattr(backtest, "load_config", lambda _: config)
    monkeypatch.setattr(backtest, "plan_cuts", lambda c, n: (list(range(n + 1)), "so"))
    monkeypatch.setattr(backtest, "simulate", simulate)
    nobody = {"user": np.array([]), **{way: np.array([]) for way in backtest.WAYS}}
    monkeypatch.setattr(backtest, "_lists", lambda _, nights: [nobody] * len(nights))
    assert backtest.run_backtest(SimpleNamespace(nights=9, config="c")) == 0
    assert asked == [None, 1, 1, 1, 1, 1, 1, None, 8]


def test_a_log_of_views_alone_is_judged_as_its_nights_graded_it(
    config, monkeypatch, interactions_of
):
    """No event type is graded positive there, so a night counts every event; so must the judge."""
    views = interactions_of([0, 1, 0, 1], [0, 1, 2, 3])
    views = replace(
        views, kinds=("view",), weight=np.ones(4, np.float32), grade=np.zeros(4, np.int8)
    )
    (config.workspace_path / "stages" / "tables" / "k" / "tables").mkdir(parents=True)
    asked = []

    class Release:
        state = SimpleNamespace(catalogue=SimpleNamespace(indices_of=lambda ids: np.array(ids)))

        def answer(self, query):
            asked.append(query)
            return SimpleNamespace(item_ids=[2, 9], scores=np.array([1.0, 0.5]))

    stand_ins = {
        "recsys.ingestion.tables.load.load_tables": lambda *_: SimpleNamespace(interactions=views),
        "recsys.operations.open_release.state_folder": lambda _: config.workspace_path,
        "recsys.recommender.LoadedRelease.open": lambda *_, **__: Release(),
        "recsys.storage.registry.Registry": lambda _: SimpleNamespace(local_path=lambda _: None),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(name, stand_in)
    users, ndcg = backtest.evaluate_version(config, 1, 2 * DAY, 4 * DAY)
    assert list(users) == ["u0", "u1"]
    assert ndcg.tolist() == [1.0, 0.0]
    assert [(query.user_id, query.now) for query in asked] == [("u0", 2 * DAY), ("u1", 2 * DAY)]


def nights_of(draw, *means):
    """Lists of forty users in each night, whose nDCG@10 lies around a mean for each way."""
    users = np.array([f"u{n}" for n in range(40)])
    return [
        {"user": users}
        | {w: draw.normal(m, 0.05, 40) for w, m in zip(backtest.WAYS, of, strict=True)}
        for of in means
    ]


def test_nights_have_intervals_and_the_verdict_comes_first(config, monkeypatch):
    lists = nights_of(np.random.default_rng(3), (0.3, np.nan, 0.3), (0.4, 0.2, 0.4))
    monkeypatch.setattr(backtest, "_lists", lambda *_: lists)
    nights = [quality(DAY, 1), replace(quality(2 * DAY, 2), gate="reject")]
    found = backtest.by_night(None, nights)
    first, second = found["nightly"]
    assert first.low < 0.3 < first.high < second.low < 0.4 < second.high
    assert found["a night late"][0].value is None
    whole = backtest.overall(None, nights)
    assert (whole.groups, whole.users) == (80, 40)
    differences = compare(None, nights)
    said = backtest.verdict(nights, whole, differences)
    low, high = (f"{end:.4f}" for end in (whole.low, whole.high))
    assert said.startswith(
        f"Retrained nightly, what served reaches nDCG@10 {whole.value:.4f} [{low}"
    )
    assert f"{high}] on 80 lists of 40 users, ahead of the champion of a night before" in said
    assert "not to be told apart from a weekly retraining" in said
    assert said.endswith("the gate promoted 1 of 2 nights.")
    page = backtest.page("name", "so", nights, found, differences, said)
    main = page[page.index("<main") :]
    assert main.index(said) < main.index("<svg") < main.index("<table")
    assert f"{first.low:.4f} – {first.high:.4f}" in main
    place = backtest.write(config, "so", nights, found, differences, said)
    kept = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
    assert kept["nights"][1]["intervals"]["nightly"]["low"] == pytest.approx(second.low)


def test_too_few_users_have_no_interval_and_nobody_no_verdict(monkeypatch):
    lists = [{"user": np.array(["a"]), **dict.fromkeys(backtest.WAYS, np.array([0.5]))}]
    monkeypatch.setattr(backtest, "_lists", lambda *_: lists)
    (one,) = backtest.by_night(None, [quality(DAY, 1)])["nightly"]
    assert (one.value, one.low, one.users) == (0.5, None, 1)
    lists[0] |= dict.fromkeys(backtest.WAYS, np.array([np.nan]))
    whole = backtest.overall(None, [quality(DAY, 1)])
    assert backtest.verdict([], whole, {}).startswith("Nothing was measured")


def test_the_page_and_the_table(config):
    nights = [quality(DAY, 1), quality(2 * DAY, None, None)]
    nobody = {way: [Interval(None, None, None, 0, 0)] * 2 for way in backtest.WAYS}
    page = backtest.page("name <b>", "the last <i>", nights, nobody, {}, "said")
    assert "name &lt;b&gt;" in page
    assert "until the next: the last &lt;i&gt;." in page
    assert "1970-01-02 00:00" in page
    assert "<svg" in page
    assert table(nights).count("\n") == 2
