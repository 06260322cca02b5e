"""A synthetic release and its online state at any size, for the benchmarks of the service.

Everything the service reads is there and of the stated size: histories, counters and attributes in
the state; neighbour lists, factors, text vectors with their search index in the bundle; a LightGBM
ranker of 300 trees of 31 leaves over 40 features, trained on features read from that state. What
the arrays hold is drawn at random around many centres, not fitted: this measures time and memory.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent))

from online_state import START, world

from recsys.data_schemas.config import FeaturesConfig
from recsys.encoder.tower import InterestSource, Tower
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import DAY, HOUR
from recsys.features.ranking_context import RankingContext
from recsys.features.state import OnlineState
from recsys.features.time_buckets import MomentGrid
from recsys.ranker import Ranker
from recsys.recommender import LoadedRelease
from recsys.retrieval.ann import LISTS_FROM, InvertedLists, in_8_bits
from recsys.retrieval.candidates import CandidateGenerator
from recsys.retrieval.collaborative.als import Als
from recsys.retrieval.collaborative.item_item import ItemItem, Transitions
from recsys.retrieval.collaborative.popularity import Popular, Recent
from recsys.retrieval.fitted_source import SourceInputs
from recsys.storage.bundle import write_bundle

TREES, LEAVES, FEATURES = 300, 31, 40
WIDTH = 128
"""Numbers of an item's factors."""
NEIGHBOURS = 60
"""Mean neighbours kept per item (measured on real data: between 40 and 300)."""
TEXT_WIDTH = 384
"""Dimensions of the default encoder's vectors."""
NOW = START + 60 * DAY
LISTS, PER_LIST = 80, 100
"""Lists, and candidates of each, that the ranker is trained on."""


class SyntheticRelease:
    """A folder with `bundle/`, `state/`, and the trees and rows that peers are given."""

    def __init__(self, folder: Path) -> None:
        # Named as a local copy is, so that its files are hashed once and not by every worker.
        self.bundle, self.state = folder / ("0" * 64), folder / "state"
        self.trees = folder / "ranker.txt"
        self.rows = folder / "rows.npy"
        """float32[LISTS * PER_LIST, 40]: features already computed, for peers that compute none."""

    # What a provider of models says.

    def poll(self) -> str:
        return "1"

    def snapshot(self) -> str:
        return self.state.name

    def load(self, version: str | None) -> LoadedRelease:
        return LoadedRelease.open(self.bundle, self.state, version="1")

    def resolve(self, name: str) -> str:
        return name

    def versions(self) -> list[str]:
        return ["1"]

    def operations(self) -> dict[str, Any]:
        return {}

    def live(self) -> None:
        return None


def make_release(folder: Path, items: int, users: int, events: int) -> SyntheticRelease:
    """Write a release; some ten seconds at 10,000 items, some minutes at a million."""
    release, draw = SyntheticRelease(folder), np.random.default_rng(7)
    interactions, catalogue = world(events, users, items)
    OnlineState.build(
        interactions, catalogue, bucket_us=HOUR, windows_us=[DAY, 7 * DAY], log_position=-1
    ).save(release.state)
    state = OnlineState.open(release.state)
    vectors, index = clustered_with_index(draw, items, TEXT_WIDTH)
    tower = Tower.plain(TEXT_WIDTH, places=50, kinds=len(state.kinds))
    inputs = SourceInputs(catalogue, [], vectors)
    fitted = [c.fit(interactions, inputs, {}, seed=1, workers=1) for c in (Popular, Recent)]
    sources: dict[str, Any] = {
        "item_item": neighbour_source(ItemItem, draw, items),
        "transitions": neighbour_source(Transitions, draw, items),
        "als": factors(draw, items),
        **{source.name: source for source in fitted},
    }
    text = InterestSource.of(tower, vectors, 0)
    features, ranker, rows = fit_ranker(draw, sources | {"text": text}, state)
    (folder / "encoder").mkdir()
    tower.save(folder / "encoder")
    place = folder / "lists"
    if index is not None:
        place.mkdir()
        for name, array in index.arrays().items():
            np.save(place / f"{name}.npy", array)
    write_bundle(
        release.bundle,
        encoder=folder / "encoder",
        items={
            "ids": catalogue.item_ids.to_pylist(),
            "vectors": vectors,
            "index": place if index is not None else None,
            "catalogue": release.state / "catalogue",
        },
        sources=sources,
        ranker=ranker,
        features_json=features.to_json(),
        facts={
            "depth": 200,
            "candidates": 500,
            "template": "{title}",
            "recipe": {"weights": {}},
            "windows": {"grid": MomentGrid(HOUR)._asdict()},
        },
    )
    ranker.boosters[0].save_model(str(release.trees))
    np.save(release.rows, rows)
    shutil.rmtree(place, ignore_errors=True)
    return release


def clustered_with_index(
    draw: np.random.Generator, items: int, width: int
) -> tuple[np.ndarray, InvertedLists | None]:
    """Unit vectors float32[items, width] around many centres, and the lists of those centres."""
    centres = draw.standard_normal((max(4, items // 250), width), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    own = np.sort(draw.integers(0, len(centres), items))
    vectors = np.empty((items, width), np.float32)
    for start in range(0, items, 50_000):
        part = slice(start, start + 50_000)
        near = centres[own[part]]
        near = near + 0.05 * draw.standard_normal(near.shape, dtype=np.float32)
        vectors[part] = near / np.linalg.norm(near, axis=1, keepdims=True)
    if items < LISTS_FROM:
        return vectors, None
    offsets = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=len(centres)))])
    member = np.arange(items, dtype=np.int32)
    return vectors, InvertedLists(
        centres, offsets.astype(np.int64), member, *in_8_bits(vectors, member)
    )


def neighbour_source(kind: Any, draw: np.random.Generator, items: int) -> Any:
    """Item-item or transitions with random lists of neighbours."""
    offsets = np.arange(items + 1, dtype=np.int64) * NEIGHBOURS
    near = np.repeat(np.arange(items, dtype=np.int64), NEIGHBOURS)
    near = (near + draw.integers(1, 5000, len(near))) % items
    value = draw.random(len(near), dtype=np.float32)
    params = kind.Params().model_dump()
    known = np.ones(items, np.uint8)
    return kind(offsets, near.astype(np.int32), value, known, params=params, scale=1.0, fit_until=0)


def factors(draw: np.random.Generator, items: int) -> Als:
    white, lists = clustered_with_index(draw, items, WIDTH)
    params = Als.Params().model_dump()
    known = np.ones(items, np.uint8)
    return Als(0.05 * white, known, params=params, scale=1.0, fit_until=0, lists=lists)


def fit_ranker(
    draw: np.random.Generator, sources: dict[str, Any], state: OnlineState
) -> tuple[FeatureSet, Ranker, np.ndarray]:
    """40 features of every kind, trees over them, and the rows they were trained on."""
    import lightgbm

    stage = CandidateGenerator(sources, depth=200, limit=500)
    whole = FeatureSet.default(
        state.catalogue, state.kinds, stage.signal_columns, FeaturesConfig()
    ).features
    signals, others = len(stage.signal_columns), FEATURES - len(stage.signal_columns)
    chosen = np.linspace(signals, len(whole) - 1, others).astype(int)
    features = FeatureSet([*whole[:signals], *(whole[i] for i in chosen)])
    rows = np.concatenate([one_list(draw, features, stage, state) for _ in range(LISTS)])
    known = np.nan_to_num(rows)
    known = (known - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
    taste = known @ draw.normal(size=FEATURES) / 4 + draw.normal(size=len(rows))
    options = {
        "objective": "lambdarank",
        "num_leaves": LEAVES,
        "min_data_in_leaf": 5,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lightgbm.Dataset(
        rows,
        np.clip(taste + 1, 0, 3).astype(int),
        group=[PER_LIST] * LISTS,
        feature_name=list(features.columns),
    )
    booster = lightgbm.train(options, data, TREES)
    return features, Ranker(features.columns, None, [booster]), rows


def one_list(
    draw: np.random.Generator, features: FeatureSet, stage: CandidateGenerator, state: OnlineState
) -> np.ndarray:
    """float32[100, 40] of a random user and random items."""
    user = f"user-{draw.integers(0, 1000)}"
    history = state.history(user, NOW)
    items = draw.choice(state.catalogue.n_items, PER_LIST, replace=False).astype(np.int32)
    mask = np.zeros(state.catalogue.n_items, np.uint8)
    signals = stage.signals_for(history, items, NOW, mask)
    return features.online(RankingContext(NOW, history, items, signals, state, state.catalogue))
