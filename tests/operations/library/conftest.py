"""A small shop in frames, and one recommender fitted on it."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys

USERS, ITEMS, DAYS = 40, 30, 60


@pytest.fixture(scope="session")
def frames():
    """(interactions, items): even users buy even items; ids are whole numbers."""
    draw = np.random.default_rng(5)
    rows = []
    for user in range(USERS):
        own = draw.choice(np.arange(user % 2, ITEMS, 2), 10, replace=False)
        days = np.sort(draw.uniform(0, DAYS, len(own)))
        rows += [(100 + user, int(item), day) for item, day in zip(own, days, strict=True)]
    start = pd.Timestamp("2026-01-01", tz="UTC")
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "day"])
    interactions["timestamp"] = start + pd.to_timedelta(interactions.pop("day"), unit="D")
    items = pd.DataFrame(
        {
            "item_id": np.arange(ITEMS),
            "title": [f"{('red', 'blue')[i % 2]} widget number {i}" for i in range(ITEMS)],
            "category": [f"hall {i % 3}" for i in range(ITEMS)],
            "price": np.arange(ITEMS, dtype=float),
            "vector": [np.array([1.0 - i % 2, i % 2, i / ITEMS], np.float32) for i in range(ITEMS)],
        }
    )
    return interactions, items


@pytest.fixture(scope="session")
def data(frames):
    return recsys.Dataset(*frames, event_type="purchase")


@pytest.fixture(scope="session")
def quick(tiny_model):
    """Settings that make a fit take seconds."""
    return {
        "windows": {"cuts": 1},
        "encoder": {
            "model": str(tiny_model), "head_steps": 2, "max_steps": 1, "epochs": 1, "max_tokens": 16,
        },
        "sources": {"use": ["item_item"], "tune": False, "depth": 30, "candidates": 30},
        "ranker": {"trees": 5, "seeds": 1},
        "evaluation": {"bootstrap": 50, "examples": 1},
    }  # fmt: skip


@pytest.fixture(scope="session")
def parts_of_ones_own(tmp_path_factory):
    """A module on the path with a source, metrics and hooks; some of them wrong."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "shop_parts.py").write_text(PARTS, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


PARTS = """
import numpy as np

import recsys

TOLD = []


class Met(recsys.testing.Example):
    name = "met"


class Failing(recsys.testing.Example):
    name = "failing"

    def scores(self, history, now):
        return 1 / 0


class Greedy(recsys.testing.Example):
    name = "greedy"

    def recall(self, history, limit, now, blocked):
        return super().recall(history, limit + 1, now, blocked)


class TakesAName(recsys.testing.Example):
    name = "als"


def first_place(lists, truth):
    hit = np.zeros(truth.n_groups)
    for group in range(truth.n_groups):
        rows = slice(truth.offsets[group], truth.offsets[group + 1])
        hit[group] = lists.items[group, 0] in truth.items[rows]
    return hit


def too_short(lists, truth):
    return np.zeros(1)


def told_of_stage(stage):
    TOLD.append(stage.name)


def told_of_report(page):
    TOLD.append(page.read_text(encoding="utf-8"))


def breaks(page):
    raise OSError("no disk for this")


def not_before_noon(candidate):
    return f"version over {candidate.champion}: nobody is awake"


def of_no_argument():
    return None
"""


@pytest.fixture(scope="session")
def shop(data, quick, parts_of_ones_own, tmp_path_factory):
    """(recommender, its train part, its test part); its workspace is kept for a night."""
    train, test = data.split(days=10)
    model = recsys.Recommender(
        2,
        sources=["item_item", "own_vectors", "shop_parts:Met"],
        workspace=tmp_path_factory.mktemp("shop"),
        settings=quick,
        verbose=False,
    )
    assert model.fit(train) is model
    return model, train, test


@pytest.fixture(scope="session")
def root():
    return Path(__file__).parents[3]
