"""Models of RecTools and LensKit as sources. Stand-ins with their documented calls take the libraries' place;
`benchmarks/adapted_sources.py` runs the same suite over the libraries themselves."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import recsys
from recsys.retrieval.source_checks import CHECKS, fitted_in, require_conforming, small_world

PARTS = """
import numpy as np
import pandas as pd

import recsys


class Together:
    "Pairs of items by how many people had both."

    def count(self, users, items):
        table = np.zeros((users.max() + 1, items.max() + 1))
        table[users, items] = 1.0
        return table.T @ table


class RecToolsModel(Together):
    def fit(self, dataset):
        self.pairs = self.count(dataset["user_id"].to_numpy(), dataset["item_id"].to_numpy())

    def recommend_to_items(self, target_items, dataset, k):
        assert set(dataset.columns) == {"user_id", "item_id", "weight", "datetime"}
        rows = [
            (item, other, self.pairs[item, other])
            for item in target_items
            for other in np.argsort(-self.pairs[item], kind="stable")[: k + 1]
            if other != item
        ]
        return pd.DataFrame(rows, columns=["target_item_id", "item_id", "score"])


class LensKitScorer(Together):
    def train(self, data):
        self.pairs = self.count(data["user_id"].to_numpy(), data["item_id"].to_numpy())


class OfRecTools(recsys.models.RecToolsSource):
    name = "of_rectools"

    def model(self):
        return RecToolsModel()


class OfLensKit(recsys.models.LensKitSource):
    name = "of_lenskit"

    def model(self):
        return LensKitScorer()


class Few(OfRecTools):
    name = "few"
    KEPT = 3
"""


class Items:
    def __init__(self, ids, scores=None):
        self._ids, self._scores = list(ids), scores

    def ids(self):
        return self._ids

    def scores(self):
        return self._scores


class Pipeline:
    def __init__(self, scorer, n):
        self.scorer, self.n = scorer, n

    def train(self, data, options):
        assert options.rng is not None
        self.scorer.train(data)

    def recommend(self, query, n):
        (asked,) = query.history_items.ids()
        row = self.scorer.pairs[asked]
        best = [i for i in np.argsort(-row, kind="stable") if i != asked][:n]
        return Items(best, row[best])


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The module of sources, over stand-ins of both libraries."""
    columns = SimpleNamespace(
        User="user_id", Item="item_id", Weight="weight", Datetime="datetime",
        TargetItem="target_item_id", Score="score",
    )  # fmt: skip
    stand_ins = {
        "rectools": {"Columns": columns},
        "rectools.dataset": {"Dataset": SimpleNamespace(construct=lambda table: table)},
        "lenskit": {"recommend": lambda pipeline, query, n: pipeline.recommend(query, n)},
        "lenskit.data": {
            "ItemList": Items,
            "RecQuery": lambda history_items: SimpleNamespace(history_items=history_items),
            "from_interactions_df": lambda frame, user_col, item_col: frame[[user_col, item_col]],
        },
        "lenskit.pipeline": {"topn_pipeline": Pipeline},
        "lenskit.training": {"TrainingOptions": lambda rng: SimpleNamespace(rng=rng)},
    }
    folder = tmp_path_factory.mktemp("adapted")
    (folder / "their_parts.py").write_text(PARTS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, members in stand_ins.items():
            module = ModuleType(name)
            module.__dict__.update(members)
            patch.setitem(sys.modules, name, module)
        patch.syspath_prepend(folder)
        yield importlib.import_module("their_parts")
    del sys.modules["their_parts"]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", ["OfRecTools", "OfLensKit"])
def test_the_conformance_suite_passes(parts, kind, check):
    CHECKS[check](getattr(parts, kind))


def test_a_history_is_the_sum_of_its_items_lists(parts):
    world = small_world()
    source = fitted_in(world, parts.OfRecTools)
    together = np.zeros((60, 30))
    together[world.interactions.user, world.interactions.item] = 1.0
    together = together.T @ together
    np.fill_diagonal(together, 0.0)
    history = world.histories[0]
    decay = 0.8 ** np.arange(len(history.item))[::-1]
    expected = (decay[:, None] * together[history.item]).sum(axis=0)
    found = source.score(history, np.arange(30, dtype=np.int32), world.now)[:, 0]
    np.testing.assert_allclose(np.nan_to_num(found), expected, rtol=1e-5)
    both = [fitted_in(world, kind) for kind in (parts.OfRecTools, parts.OfLensKit)]
    for name, array in both[0].arrays.items():
        np.testing.assert_array_equal(array, both[1].arrays[name])


def test_lists_are_cut_to_the_best(parts):
    source = fitted_in(small_world(), parts.Few)
    whole = fitted_in(small_world(), parts.OfRecTools)
    lengths = np.diff(source.arrays["offsets"])
    assert lengths.max() == 3
    first = slice(0, 3)
    np.testing.assert_array_equal(source.arrays["near"][first], whole.arrays["near"][first])


def test_a_library_that_is_not_there_is_named(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "rectools", None)
    with pytest.raises(recsys.UsageError) as caught:
        require_conforming(parts.OfRecTools)
    for text in ("rectools is needed", "pip install rectools"):
        assert text in str(caught.value)
