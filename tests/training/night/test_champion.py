"""The champion's side when its recipe cannot be fitted again, and the guardrails against it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.data_schemas.config import GateConfig, parse_config
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.evaluation.lists import RankedLists
from recsys.evaluation.report_context import Check
from recsys.evaluation.uncertainty import Interval
from recsys.storage.bundle import BundleRefused
from recsys.storage.files import DiskFull
from recsys.storage.registry import RegistryError
from recsys.training.night import champion
from recsys.training.night.guardrails import guardrails
from recsys.training.night.publish import costs
from recsys.training.night.release_findings import ReleaseCheck

FIRST_TEST = 100
CONFIG = parse_config({"data": {"items": "i", "events": "e"}}, Path())
MADE_WITH = CONFIG.model_dump(mode="json") | {"seed": 8}
"""What the champions' bundles say they were made with: another seed, the same meaning of events."""


class Shelf:
    """A registry of versions: number → end of its data, or the error that opening it raises."""

    def __init__(self, versions, champions, now):
        self.versions, self.champions, self.now = versions, champions, now

    def champion(self):
        return self.now

    def list(self):
        return [SimpleNamespace(version=v) for v in sorted(self.versions, reverse=True)]

    def history(self):
        return [SimpleNamespace(version=v) for v in self.champions]

    def local_path(self, version):
        found = self.versions.get(version, UsageError("there is no such model version"))
        if isinstance(found, Exception):
            raise found
        return version


@pytest.fixture
def ask(monkeypatch):
    """Asks for the champion's lists; a refit raises what is given, or gives lists."""

    def run(registry, refit=None):
        alarms = []
        moments = SimpleNamespace(time=np.full(3, 99), user=np.arange(3))
        night = SimpleNamespace(
            alarm=alarms.append,
            reporter=SimpleNamespace(warn=alarms.append),
            config=CONFIG,
            registry=registry,
            data=SimpleNamespace(windows=SimpleNamespace(test=(FIRST_TEST,))),
            tested=SimpleNamespace(product=SimpleNamespace(moments=moments)),
        )

        def refitted(*_):
            if refit is not None:
                raise refit
            return "refitted lists", None

        monkeypatch.setattr(champion, "_refitted", refitted)
        monkeypatch.setattr(
            champion,
            "open_bundle",
            lambda v: SimpleNamespace(
                fit_until={"als": registry.versions[v] - 1},
                manifest={"data_window": [0, registry.versions[v]], "config": MADE_WITH},
            ),
        )
        monkeypatch.setattr(champion, "_loaded", lambda night, bundle, version: version)
        one = np.zeros((1, 1))
        monkeypatch.setattr(
            champion, "_asked", lambda *_: RankedLists("", one.astype("i4"), one.astype("f4"))
        )
        return champion.lists_of_champion(night), alarms

    return run


SEEN = RecsysError("the champion's encoder has seen events of tonight's windows")


def test_no_champion_and_one_that_is_refitted(ask):
    assert ask(Shelf({}, [], None))[0] is None
    champion_result, alarms = ask(Shelf({1: 90}, [1], 1))
    assert (champion_result.version, champion_result.lists, alarms) == (1, "refitted lists", [])
    assert (champion_result.same_recipe, champion_result.same_labels) == (False, True)
    assert champion_result.released is None
    assert "has seen all but those of 3 users" in champion_result.unasked


def test_lost_files_hold_nobody_up_but_a_newer_format_does(ask):
    champion_result, alarms = ask(
        Shelf({1: BundleRefused("a registered version has lost its files")}, [1], 1)
    )
    assert champion_result.lost
    assert "cannot be opened" in alarms[0]
    assert ask(Shelf({}, [1], 1))[0].lost
    newer = BundleRefused("the bundle was written by a newer recsys")
    assert not ask(Shelf({1: newer}, [1], 1))[0].lost


@pytest.mark.parametrize(
    "refit", [SEEN, UsageError("a feature of your own cannot be loaded"), KeyError("recipe")]
)
def test_an_older_champions_bundle_stands_in(ask, refit):
    versions = {1: 80, 2: FIRST_TEST, 3: 95, 4: 170}
    champion_result, alarms = ask(Shelf(versions, [1, 2, 4], 4), refit)
    # 4 has seen the window, 3 never was champion.
    assert "version 2" in champion_result.how
    assert isinstance(champion_result.lists, RankedLists)
    assert "cannot be fitted again" in alarms[0]


def test_without_one_it_cannot_be_compared(ask):
    champion_result, _ = ask(Shelf({1: 170, 2: BundleRefused("damaged")}, [1, 2], 1), SEEN)
    assert champion_result.lists is None
    assert not champion_result.lost
    assert "has seen events" in champion_result.how


@pytest.mark.parametrize("error", [DiskFull("full"), RegistryError("away")])
def test_what_is_not_the_recipes_fault_ends_the_night(ask, error):
    with pytest.raises(type(error)):
        ask(Shelf({1: 90}, [1], 1), error)
    if isinstance(error, RegistryError):
        with pytest.raises(RegistryError):
            ask(Shelf({1: error}, [1], 1))


def release_check(**changes):
    usual = {
        "latency_ms": 5.0,
        "overlap": 0.7,
        "evaluated": np.array([1.0, 2.0, 3.0]),
        "released": np.array([1.1, 2.1, 3.1]),
        "differences": {"age": 0.0},
        "counted": 1.0,
        "moved": {"age": 0.1},
        "lost": {"age": 0.0},
    }
    return ReleaseCheck(**usual | changes)


def found(ours=None, theirs=None, served=(), growth=1.0, calibration=None, **changes):
    usual = {"coverage@100": 0.5, "text_diversity@10": 0.4, "ndcg@10": 0.1}
    systems = {
        name: {m: Interval(v, None, None, 9, 9) for m, v in (usual | (given or {})).items()}
        for name, given in (("recsys", ours), ("champion", theirs))
    }
    evaluation = SimpleNamespace(
        main="recsys", systems=systems, ks=(10, 100), calibration_error=calibration
    )
    rules = guardrails(
        GateConfig(),
        evaluation,
        release_check(**changes),
        "champion",
        int(1000 * growth),
        1000,
        served,
    )
    return [rule.name for rule in rules if not rule.held]


def test_the_usual_night_keeps_all_guardrails():
    assert found() == []
    assert found(served=[Check("rows", True)], calibration=0.05) == []


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"ours": {"coverage@100": 0.3}}, "coverage@100 against the champion's"),
        ({"ours": {"text_diversity@10": 0.2}}, "text_diversity@10 against the champion's"),
        ({"latency_ms": 900.0}, "latency of a ranking call, ms"),
        ({"differences": {"age": 1e-3}}, "online features equal batch"),
        ({"differences": {"age": float("inf")}}, "online features equal batch"),
        ({"overlap": 0.01}, "overlap of released and evaluated"),
        ({"released": np.array([9.0, 9.0, 9.0])}, "score shift of the release"),
        ({"served": [Check("rows", True), Check("age", False)]}, "served features that differ in batch"),
        ({"counted": 0.9}, "known events that counters see when asked"),
        ({"lost": {"age": 0.1, "count": 0.9}}, "count unknown when asked"),
        ({"growth": 4.0}, "bundle size, × the champion's"),
        ({"calibration": 0.3}, "calibration error"),
    ],
)  # fmt: skip
def test_each_guardrail_can_break(changes, broken):
    assert found(**changes) == [broken]


def test_costs_of_a_night_by_stage():
    def result(name, seconds, peak, size):
        cost = {"seconds": seconds, "peak_mb": peak, "bytes": size}
        return SimpleNamespace(name=name, cost=cost)

    kept = costs([result("als", 1.0, 50, 10), result("als", 2.0, 40, 5), result("state", 4, 9, 1)])
    assert kept["cost/als/seconds"] == 3.0
    assert kept["cost/als/peak_mb"] == 50
    assert kept["cost/als/bytes"] == 15
    assert kept["cost/all/seconds"] == 7.0
