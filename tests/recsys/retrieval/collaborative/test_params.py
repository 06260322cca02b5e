"""No param is ignored in silence: another value gives other scores, for every param of every source.

This is also how `implicit` is held to what it is told: it drops arguments on some of its paths.
"""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.columns import (
    CATEGORY,
    CREATED_AT,
    ITEM_ID,
    TAGS,
    TITLE,
    VECTOR,
)
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY
from recsys.retrieval.collaborative.als import Als
from recsys.retrieval.fitted_source import SourceInputs
from recsys.retrieval.source_kinds import shipped
from recsys.retrieval.source_params import declared
from recsys.training.sources.fit_source import fit_one

BASE = {"sequence": {"width": 16.0, "negatives": 32.0, "learning_rate": 0.01}}
"""Params that make a fit quick."""
OTHER = {
    "members": 2.0,
    "factors": 4.0,
    "iterations": 1.0,
    "items": 5.0,
    "window": 1.0,
    "smoothing": 9.0,
    "k1": 0.3,
    "b": 0.0,
    "width": 32.0,
    "heads": 1.0,
    "blocks": 2.0,
    "length": 2.0,
    "epochs": 800.0,  # few events: a fit has a least number of steps
    "dropout": 0.5,
    "id_dropout": 0.7,
    "negatives": 8.0,
    "learning_rate": 0.001,
    "weight_decay": 0.5,
}
"""Values that the grid for tuning does not hold, or that are far enough to matter in a small world."""
EVERY_PARAM = [(name, param) for name, kind in shipped().items() for param in declared(kind.Params)]


@pytest.fixture(scope="module")
def rich(world):
    """The small world with texts of unequal lengths and items created one after the other."""
    interactions, inputs = world
    size = interactions.n_items
    texts = [f"{title} " + "widget acme " * (i % 5) for i, title in enumerate(inputs.texts)]
    catalogue = Catalogue.from_table(
        pa.table(
            {
                ITEM_ID: [f"i{i}" for i in range(size)],
                TITLE: texts,
                TAGS: [[f"shelf{i % 4}"] for i in range(size)],
                CATEGORY: [f"hall{i % 2}" for i in range(size)],
                VECTOR: inputs.catalogue.vectors.tolist(),
                CREATED_AT: pa.array(
                    [(1 + i) * DAY for i in range(size)], pa.timestamp("us", "UTC")
                ),
            }
        )
    )
    return interactions, SourceInputs(catalogue, texts, inputs.vectors)


@pytest.fixture(scope="module")
def scores(rich, history):
    """(source, params) → scores of all items for some histories, each fitted once."""
    kept = {}

    def of(name, **params):
        key = (name, tuple(sorted(params.items())))
        if key not in kept:
            source = fit_one(name, *rich, BASE.get(name, {}) | params, seed=1, workers=1)
            pasts = [history([0, 2, 4, 10]), history([1, 3, 9])]
            items = np.arange(rich[0].n_items, dtype=np.int32)
            kept[key] = np.stack([source.score(past, items, 0) for past in pasts])
        return kept[key]

    return of


@pytest.mark.parametrize(("name", "param"), EVERY_PARAM)
def test_another_value_gives_other_scores(name, param, scores):
    meant = declared(shipped()[name].Params)[param]
    now = BASE.get(name, {}).get(param, meant.default)
    other = OTHER[param] if param in OTHER else next(value for value in meant.tries if value != now)
    assert other != now
    assert not np.array_equal(scores(name), scores(name, **{param: other}), equal_nan=True)


def test_implicit_is_told_everything_and_keeps_it(rich, monkeypatch):
    from implicit.cpu import als

    made, began, told_solver = [], [], []

    class Watched(als.AlternatingLeastSquares):
        @property
        def solver(self):
            made.append(self)
            solve = super().solver

            def watched(cells, of, by, **settings):
                if cells.shape[0] == rich[0].n_users and len(began) < len(made):
                    began.append(by.copy())
                told_solver.append(settings)
                return solve(cells, of, by, **settings)

            return watched

    monkeypatch.setattr(als, "AlternatingLeastSquares", Watched)
    told = {"factors": 6.0, "alpha": 3.0, "regularization": 0.5, "iterations": 2.0}
    Als.fit(*rich, told, seed=5, workers=2)
    (model,) = made
    # alpha is in the matrix; the factors are drawn, not those of an earlier fit
    assert (model.factors, model.alpha, model.regularization) == (6, 1.0, 0.5)
    assert (model.iterations, model.num_threads, model.random_state) == (2, 2, 5)
    assert model.use_native
    assert model.use_cg
    assert told_solver == [{"regularization": 0.5, "num_threads": 2}] * 2 * 2
    assert began[0].shape == (rich[0].n_items, 6)
    Als.fit(*rich, told, seed=5, workers=2)
    np.testing.assert_array_equal(began[0], began[1])
