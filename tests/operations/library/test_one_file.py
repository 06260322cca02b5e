"""A source, a metric and a kind of feature are one file each: put there, they take part in a whole night."""

import importlib
import json
import sys

import jsonschema
import pytest

import recsys
from recsys.data_schemas.config import RecsysConfig
from recsys.features.kinds import signals
from recsys.operations.cli.main import main
from recsys.retrieval import content, source_kinds
from recsys.retrieval.fitted_source import DECLARED, FittableSource
from recsys.training.night.own_parts import require_sound

SOURCE = '''
from typing import ClassVar

import numpy as np

from recsys.retrieval.collaborative.neighbours import NeighbourSource
from recsys.retrieval.fitted_source import Cost
from recsys.retrieval.source_params import SourceParams, param


class NextDoor(NeighbourSource):
    """Items beside those of the history in the catalogue."""

    name: ClassVar[str] = "next_door"
    family = "attributes"
    reads = frozenset({"texts"})
    cost = Cost.EVENTS

    class Params(SourceParams):
        """Of the row of items."""

        decay: float = param(0.8, 0.5, 0.8, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        reach: float = param(2, 2, 4, unit="items", least=1, most=9)
        """Items on either side."""

    @classmethod
    def applies(cls, interactions, inputs, room):
        return None if interactions.n_items > 2 else "there is nothing next door"

    @classmethod
    def learned(cls, fit):
        n, reach = fit.interactions.n_items, int(fit.params["reach"])
        rows = [[j for j in range(max(0, i - reach), min(n, i + reach + 1)) if j != i] for i in range(n)]
        offsets = np.cumsum([0, *map(len, rows)])
        flat = np.array([j for row in rows for j in row], np.int32)
        return cls.table(fit, (offsets, flat, np.ones(len(flat), np.float32)), np.ones(n, np.uint8))
'''
METRIC = """
import numpy as np

from recsys.evaluation.metrics import Metric


def top_is_right(m, k):
    hit = np.zeros(m.truth.n_groups)
    hit[m.matched.hit_group[m.matched.hit_place == 0]] = 1.0
    return hit


def shown_once(counts):
    return float((counts == 1).mean())


TOP = Metric("top_is_right", "share of lists whose first item is a hit", top_is_right, places="list")
ONCE = Metric(
    "shown_once", "share of the catalogue in one list", of_exposure=shown_once,
    places="first k", better="lower", first=True,
)
"""
FEATURE = '''
from dataclasses import dataclass

import numpy as np

from recsys.features.kinds.kind import ItemFeature


@dataclass(frozen=True)
class OddCode(ItemFeature):
    """Whether the item's number is odd."""

    family = "context"

    @property
    def column(self):
        return "odd_code"

    def online(self, moment):
        return (moment.items % 2).astype(np.float32)
'''


@pytest.fixture
def one_file_each(tmp_path, monkeypatch):
    """The three files; the source's lies beside those that we ship."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "next_door.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "toy_metrics.py").write_text(METRIC, encoding="utf-8")
    (tmp_path / "toy_feature.py").write_text(FEATURE, encoding="utf-8")
    families = dict(signals._FAMILIES)
    monkeypatch.setattr(content, "__path__", [*content.__path__, str(tmp_path / "sources")])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    source_kinds.shipped.cache_clear()
    yield
    monkeypatch.undo()
    for name in ("recsys.retrieval.content.next_door", "toy_metrics", "toy_feature"):
        sys.modules.pop(name, None)
    source_kinds.shipped.cache_clear()
    monkeypatch.setattr(signals, "_FAMILIES", families)


@pytest.mark.filterwarnings("ignore:::mlflow")
def test_a_file_each_takes_part_in_a_night(one_file_each, shop, quick):
    """Over the recommender's workspace: what it made is found."""
    model, train, _ = shop
    settings = {name: dict(section) for name, section in quick.items()}
    settings["sources"] |= {"use": ["item_item", "next_door"], "tune": True}
    settings["evaluation"]["metrics"] = {"own": ["toy_metrics:TOP", "toy_metrics:ONCE"]}
    settings["features"] = {"own": ["toy_feature:OddCode"]}
    settings |= {"budget_minutes": 2, "seed": model.seed}
    settings["hooks"] = {"before_promote": ["shop_parts:not_before_noon"]}
    config = train.config(model.workspace, settings)
    result = recsys.run_night(config)
    page = result.report.read_text(encoding="utf-8")
    told = json.loads(result.report.with_suffix(".json").read_text(encoding="utf-8"))

    tuned = {fact["name"]: fact for fact in told["context"]["sources"]}["next_door"]
    assert tuned["kept"]
    assert "reach" in json.dumps(tuned)
    bundle = recsys.open_bundle(recsys.Registry(config).local_path(result.version))
    assert "next_door" in bundle.sources
    outcomes = {o["name"]: o for o in bundle.facts["recipe"]["facts"]["sources"]}
    assert outcomes["next_door"]["tried"] > 1
    release = recsys.load_release(config, result.version)
    families = release.features.families
    assert families["next_door.score"] == families["next_door.log_rank"] == "attributes"
    assert families["odd_code"] == "context"
    assert "next_door" in told["evaluation"]["systems"]
    assert {"top_is_right", "shown_once@10"} <= set(told["evaluation"]["systems"]["recsys"])
    assert told["evaluation"]["meanings"]["shown_once"]["better"] == "lower"
    assert "share of lists whose first item is a hit" in page
    assert '<th scope="col">shown_once@10</th>' in page
    assert "odd_code" in page


def test_what_it_declares_is_in_the_schema_and_in_the_messages(one_file_each, capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    dials = schema["$defs"]["SourcesConfig"]["properties"]["dials"]["properties"]
    reach = dials["next_door"]["properties"]["reach"]
    assert (reach["default"], reach["minimum"], reach["maximum"]) == (2.0, 1.0, 9.0)
    assert (reach["description"], reach["unit"]) == ("Items on either side.", "items")
    data = {"data": {"items": "-", "events": "-"}}
    jsonschema.validate(data | {"sources": {"dials": {"next_door": {"reach": 3}}}}, schema)
    jsonschema.validate(data | {"sources": {"dials": {"mine": {"reach": 30}}}}, schema)
    with pytest.raises(jsonschema.ValidationError, match="30"):
        jsonschema.validate(data | {"sources": {"dials": {"next_door": {"reach": 30}}}}, schema)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"sources": {"dials": {"als": {"factor": 64}}}},
            (
                "sources.dials.als",
                "did you mean `factors`?",
                "decay (0 to 1)",
                "alpha (at least 0)",
            ),
        ),
        (
            {"sources": {"dials": {"als": {"decay": 1.5}}}},
            ("sources.dials.als.decay", "0 to 1", "Weight of an event", "factors"),
        ),
        ({"sources": {"dials": {"alz": {"decay": 0.5}}}}, ("sources.dials", "alz", "item_item")),
        ({"sources": {"use": ["alz"]}}, ("sources.use", "alz", "item_item")),
        ({"gate": {"metric": "auc@10"}}, ("gate.metric", "auc@10", "ndcg@10")),
    ],
)
def test_a_name_or_a_dial_that_nothing_declares_is_refused_before_any_work(settings, named):
    config = RecsysConfig.model_validate({"data": {"items": "-", "events": "-"}} | settings)
    with pytest.raises(recsys.UsageError) as problem:
        require_sound(config)
    for word in named:
        assert word in str(problem.value)


@pytest.mark.parametrize("omitted", DECLARED)
def test_a_source_that_leaves_something_out_is_refused_at_import(one_file_each, omitted):
    kind = source_kinds.source_class("next_door")
    parts = {name: value for name, value in vars(kind).items() if name in (*DECLARED, "name")}
    type("Whole", (FittableSource,), parts)
    del parts[omitted]
    with pytest.raises(TypeError, match=rf"Gap does not declare {omitted};"):
        type("Gap", (FittableSource,), parts)


def test_a_file_that_leaves_something_out_names_its_class(one_file_each, tmp_path):
    text = SOURCE.replace('        """Items on either side."""\n', "").replace("NextDoor", "Mute")
    (tmp_path / "sources" / "mute.py").write_text(text, encoding="utf-8")
    source_kinds.shipped.cache_clear()
    with pytest.raises(TypeError, match=r"mute:Mute does not declare Params.reach: a docstring;"):
        source_kinds.shipped()
    (tmp_path / "sources" / "mute.py").write_text(SOURCE, encoding="utf-8")
    source_kinds.shipped.cache_clear()
    with pytest.raises(TypeError, match="two sources are called 'next_door'"):
        source_kinds.shipped()


def test_a_metric_that_leaves_something_out_is_refused_at_import():
    from recsys.evaluation.metrics import Metric

    with pytest.raises(TypeError, match="'mute' does not declare about, one of of_lists"):
        Metric("mute", "")
