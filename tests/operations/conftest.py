"""A tiny release and a registry in a folder of its own."""

import shutil
import warnings

import numpy as np
import pytest

from data_schemas.config import parse_config
from recsys.bundle import write_bundle
from recsys.registry import Registry


class Part:
    """A source or ranker that saves one array."""

    def __init__(self, value, fit_until=1_000_000):
        self.value, self.fit_until = value, fit_until

    def save(self, folder):
        np.save(folder / "array.npy", np.full(5, self.value, np.float32))


@pytest.fixture
def make_bundle(tmp_path):
    def make(value=1.0, out=None, **changes):
        parts = {
            "encoder": None,
            "items": {"ids": ["a", "bé", "c"], "vectors": np.eye(3, dtype=np.float32)},
            "sources": {"als": Part(value), "popular": Part(2.0, 500_000)},
            "ranker": Part(3.0),
            "features_json": {"families": ["text"]},
            "facts": {"config": {"seed": 7}, "data_window": [1, 2], "night": "2026-01-01"},
        }
        return write_bundle(out or tmp_path / f"bundle-{value}", **(parts | changes))

    return make


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's tables with nothing in them: making them takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = parse_config({"data": {"items": "items", "events": "events"}}, folder)
        registry = Registry(config)
        registry._client.search_registered_models()
    return registry._store.path


@pytest.fixture
def config(tmp_path, empty_database):
    (tmp_path / "work" / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, tmp_path / "work" / "mlflow" / "mlflow.db")
    return parse_config({"data": {"items": "items", "events": "events"}}, tmp_path)


@pytest.fixture
def registry(config):
    return Registry(config)
