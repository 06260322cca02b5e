"""What it would cost lists to keep items' vectors in 16 or 8 bits: nDCG@10, and how many lists change.

    python benchmarks/stored_vectors.py WORKSPACE/recsys.yaml [--users 1500] [--seed 0]

Takes the vectors and the encoder of the workspace's latest night as they are and rounds the vectors. Each
test user's last positive event is ranked among all items by what the user did before, by interest score
alone. The encoder may have learned from these events: the figures compare precisions, not models. The
interval is of the paired difference, bootstrapped over users; a list has changed where its ten items, or
their order, are not the same.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cold_items import interval, metrics

from recsys.data_schemas.config import load_config
from recsys.encoder.tower import InterestSource
from recsys.ingestion.tables.load import load_tables
from recsys.retrieval.ann import in_8_bits
from recsys.storage.workspace import Workspace


def newest(workspace, stage, below):
    """Path below the latest output of a stage."""
    places = (workspace.stages / stage).glob(f"*/{below}")
    return max(places, key=lambda place: place.stat().st_mtime)


def in_bits(vectors):
    """(name, bytes a vector, vectors as they would be read) of each precision."""
    width = vectors.shape[1]
    every = np.arange(len(vectors), dtype=np.int32)
    codes, scale, _ = in_8_bits(vectors, every)
    yield "float32", 4 * width, vectors
    yield "float16", 2 * width, vectors.astype(np.float16).astype(np.float32)
    yield "8 bits", width + 4, codes * scale[:, None]


def tests_of(events, users, seed):
    """(history, item, time) of the last positive event of some users who had liked something before."""
    last = {}
    for row in np.flatnonzero(events.grade > 0):
        last[int(events.user[row])] = int(row)
    histories, found = events.histories(), []
    for row in np.random.default_rng(seed).permutation(sorted(last.values())):
        now = int(events.time[row])
        history = histories.of(int(events.user[row])).before(now)
        if len(found) < users and (history.grade >= 0).any():
            found.append((history, int(events.item[row]), now))
    return found


def asked(source, tests, every):
    """(rank of each test's item, first ten items of each list)."""
    ranks, lists = [], []
    for history, item, now in tests:
        scores = np.nan_to_num(source.score(history, every, now)[:, 0], nan=-np.inf)
        seen = history.item[history.item != item]
        scores[seen] = -np.inf
        own = scores[item]
        ranks.append((scores > own).sum() + ((scores == own).sum() - 1) / 2)
        lists.append(np.lexsort((every, -scores))[:10])
    return np.array(ranks), np.array(lists)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    workspace = Workspace(config.workspace_path)
    tables = load_tables(newest(workspace, "tables", "tables"), config)
    vectors = np.load(newest(workspace, "vectors", "vectors.npy"))
    encoder = newest(workspace, "encoder", "encoder")
    tests = tests_of(tables.interactions, arguments.users, arguments.seed)
    every = np.arange(len(vectors), dtype=np.int32)
    print(f"{len(vectors):,} items, {len(tests):,} users")
    base = lists = None
    for name, size, kept in in_bits(vectors):
        kept = np.ascontiguousarray(kept, np.float32)
        rank, found = asked(InterestSource.open(encoder, kept, 2**62), tests, every)
        values = metrics(rank)["ndcg@10"]
        if base is None:
            base, lists = values, found
        mean, low, high = interval(values - base)
        changed = (found != lists).any(axis=1).mean()
        items = 1 - np.mean(
            [len(np.intersect1d(a, b)) / 10 for a, b in zip(found, lists, strict=True)]
        )
        print(
            f"{name}: {size:,} bytes an item, nDCG@10 {values.mean():.4f}, {mean:+.5f} "
            f"[{low:+.5f}, {high:+.5f}], {changed:.1%} of the lists changed, {items:.2%} of their items",
            flush=True,
        )


if __name__ == "__main__":
    main()
