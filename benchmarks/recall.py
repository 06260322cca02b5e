"""Recall from a large catalogue: milliseconds of processor time per user, one thread, and memory.

    python benchmarks/recall.py [--items 1000000] [--users 300] [--depth 500]

Neighbour sources get rows of the length that fits keep on real data; dense sources get clustered
vectors, since random ones have no neighbours to find. Each dense source is compared with a full
scan of the same vectors: the share of the scan's items that the inverted lists find.
"""

import argparse
import resource
import sys
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from recsys.features.interactions import DAY, History
from recsys.retrieval.ann import LISTS_FROM, InvertedLists, scan
from recsys.retrieval.candidates import CandidateGenerator
from recsys.retrieval.collaborative.als import Als
from recsys.retrieval.collaborative.ease import Ease
from recsys.retrieval.collaborative.item_item import ItemItem, Transitions
from recsys.retrieval.collaborative.neighbours import NeighbourSource
from recsys.retrieval.collaborative.popularity import Popular, Recent
from recsys.retrieval.content.attributes import Attributes
from recsys.retrieval.content.bm25 import Bm25
from recsys.retrieval.sequence.source import SequenceSource

NEIGHBOURS = 60
"""Mean neighbours kept per item; on `games` the fits keep between 40 and 300."""
WIDTH = 128


def clustered(draw: np.random.Generator, n_items: int) -> np.ndarray:
    """float32[N, 128] around many centres of unequal size."""
    centres = draw.normal(size=(max(4, n_items // 200), WIDTH)).astype(np.float32)
    share = draw.dirichlet(np.full(len(centres), 0.5))
    own = draw.choice(len(centres), n_items, p=share)
    noise = draw.standard_normal((n_items, WIDTH), dtype=np.float32)
    vectors = centres[own] + 0.7 * noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def neighbour_source(
    cls: type[NeighbourSource], draw: np.random.Generator, n_items: int
) -> NeighbourSource:
    offsets = np.arange(n_items + 1, dtype=np.int64) * NEIGHBOURS
    near = np.repeat(np.arange(n_items, dtype=np.int64), NEIGHBOURS)
    near += draw.integers(1, 5000, len(near))
    value = draw.random(len(near), dtype=np.float32)
    known = np.ones(n_items, np.uint8)
    params = cls.Params().model_dump()
    return cls(
        offsets,
        (near % n_items).astype(np.int32),
        value,
        known,
        params=params,
        scale=1.0,
        fit_until=0,
    )


def dense_sources(draw: np.random.Generator, n_items: int) -> dict[str, Als | SequenceSource]:
    known = np.ones(n_items, np.uint8)
    als_params = Als.Params().model_dump()
    out: dict[str, Als | SequenceSource] = {}
    started = perf_counter()
    white = 0.05 * clustered(draw, n_items)
    lists = InvertedLists.build(white, 1) if n_items >= LISTS_FROM else None
    print(f"inverted lists of one dense source: {perf_counter() - started:.1f} s")
    out["als"] = Als(white, known, params=als_params, scale=1.0, fit_until=0, lists=lists)
    items = clustered(draw, n_items)
    targets = np.concatenate([items, np.zeros((n_items, 1), np.float32)], axis=1)
    lists = InvertedLists.build(targets, 1) if n_items >= LISTS_FROM else None
    weights = {
        "distance": np.zeros((1, 2, 20), np.float32),
        "norm": np.ones((2, WIDTH), np.float32),
    }
    weights["norm"][1] = 0
    for name, shape in {
        "attend.0": (WIDTH, 3 * WIDTH), "mix.0": (WIDTH, WIDTH), "widen.0": (WIDTH, 2 * WIDTH),
        "narrow.0": (2 * WIDTH, WIDTH), "widen_bias.0": (2 * WIDTH,), "narrow_bias.0": (WIDTH,),
    }.items():  # fmt: skip
        weights[name] = 0.02 * draw.standard_normal(shape, dtype=np.float32)
    weights["norm1.0"] = weights["norm2.0"] = weights["norm"]
    params = SequenceSource.Params().model_dump()
    out["sequence"] = SequenceSource(
        items, targets, known, weights, params=params, fit_until=0, lists=lists
    )
    return out


def some_history(draw: np.random.Generator, n_items: int) -> History:
    size = int(draw.integers(3, 40))
    near = int(draw.integers(0, n_items))
    return History(
        ((near + draw.integers(0, 20_000, size)) % n_items).astype(np.int32),
        np.zeros(size, np.int16),
        np.arange(size) * DAY,
        np.full(size, 1.0, np.float32),
        np.ones(size, np.int8),
    )


def found_share(source: Als | SequenceSource, histories: list[History], depth: int) -> float:
    """Share of the full scan's list that the source's own recall finds."""
    blocked = np.zeros(source.n_items, np.uint8)
    shares = []
    for history in histories[:20]:
        own = source.recall(history, depth, 0, blocked).items
        query = source._query(history) if isinstance(source, Als) else source.query(history)
        assert query is not None
        vectors = source.white if isinstance(source, Als) else source.targets
        full = scan(vectors, query, source.known, blocked, depth, None).items
        shares.append(len(np.intersect1d(own, full)) / depth)
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--depth", type=int, default=500)
    given = parser.parse_args()
    draw = np.random.default_rng(1)
    counts = draw.pareto(1.2, given.items).astype(np.float32)
    sources = {
        "popular": Popular(counts, params={"half_life": 0.0}, fit_until=0),
        "recent": Recent(counts, params={"half_life": 7.0, "newness": 3.0}, fit_until=0),
        **{
            cls.name: neighbour_source(cls, draw, given.items)
            for cls in (ItemItem, Transitions, Attributes, Bm25, Ease)
        },
        **dense_sources(draw, given.items),
    }
    histories = [some_history(draw, given.items) for _ in range(given.users)]
    blocked = np.zeros(given.items, np.uint8)
    print(f"{given.items:,} items, depth {given.depth}, {given.users} users, one thread")
    print(f"{'processor time':14s}{'median ms':>10s}{'p95 ms':>10s}")
    for name, source in sources.items():
        report(name, lambda h, s=source: s.recall(h, given.depth, 0, blocked), histories)
    stage = CandidateGenerator(sources, given.depth, given.depth)
    report("all, fused", lambda h: stage.candidates(h, 0, blocked), histories)
    for name in ("als", "sequence"):
        print(
            f"{name}: finds {found_share(sources[name], histories, given.depth):.1%} of a full scan"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


def report(name: str, call, histories: list[History]) -> None:  # type: ignore[no-untyped-def]
    call(histories[0])
    times = []
    for history in histories:
        started = thread_time()
        call(history)
        times.append(1e3 * (thread_time() - started))
    print(f"{name:14s}{np.median(times):10.3f}{np.percentile(times, 95):10.3f}", flush=True)


if __name__ == "__main__":
    main()
