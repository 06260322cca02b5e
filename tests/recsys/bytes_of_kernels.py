"""Runs the kernels that sum floats on fixed numbers and prints, for each, the digest of what it gave."""

import hashlib

import lightgbm
import numpy as np

from recsys.encoder import tower_kernels as tower
from recsys.ranker.tree_shares import TreeShares
from recsys.ranker.trees import FastTrees
from recsys.retrieval import history_kernels as history
from recsys.retrieval.sequence import block_kernels

ITEMS, BEST = 50, 10
DRAW = np.random.default_rng(0)


def floats(*shape):
    return (DRAW.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)


def best_arrays():
    return np.zeros(BEST, np.int32), np.zeros(BEST, np.float32)


def of_tower(h, d):
    past, base, none = floats(h, d), floats(ITEMS, d), np.zeros((0, d), np.float32)
    items, gate = np.arange(ITEMS, dtype=np.int32), np.ones(h, np.float32)
    user, attention = tower.attend(past, floats(d, 4), floats(d, 4), floats(h), gate, floats(d, d))
    scores = np.zeros((ITEMS, 6), np.float32)
    tower.score_items(user, past, base, none, items, scores)
    best = best_arrays()
    tower.best_of_few(user, base, none, items, *best)
    company, bounds = past.copy(), np.arange(ITEMS + 1, dtype=np.int64)
    beside, weights, share = items[::-1].copy(), np.ones(ITEMS, np.float32), np.float32(0.3)
    tower.add_company(company, items[:h], base, bounds, beside, weights, share)
    near, codes = np.zeros(ITEMS, np.float32), DRAW.integers(-99, 99, (ITEMS, d)).astype(np.int8)
    tower.scan(user, codes, floats(ITEMS), near)
    yield from {
        "attend": (user, attention), "score_items": (scores,), "best_of_few": best,
        "add_company": (company,), "scan": (near,),
    }.items()  # fmt: skip


def of_history(h, d):
    rows, queries, item = floats(ITEMS, d), floats(h, d), np.arange(h, dtype=np.int32)
    known, blocked = np.ones(ITEMS, np.uint8), np.zeros(ITEMS, np.uint8)
    largest, folded = np.zeros(ITEMS, np.float32), np.zeros(d, np.float32)
    items = np.arange(ITEMS, dtype=np.int32)
    history.largest_dots_at(rows, queries, known, items, largest)
    history.fold_in(rows, item, np.ones(h, np.float32), h, 4.0, folded)
    top, of_lists = best_arrays(), best_arrays()
    scratch = np.zeros(ITEMS, np.float32)
    history.dots_top(rows, queries[0], known, blocked, scratch, *top)
    scale = np.abs(rows).max(axis=1) / 127
    codes = np.round(rows / scale[:, None]).astype(np.int8)
    history.dots_top_of_lists(
        rows, queries[0], known, blocked, np.array([0, ITEMS]), items, codes, scale,
        scale * np.float32(d**0.5), np.zeros(1, np.int32), *of_lists,
    )  # fmt: skip
    yield from {
        "largest_dots_at": (largest,), "fold_in": (folded,), "dots_top": (*top, scratch),
        "dots_top_of_lists": of_lists,
    }.items()  # fmt: skip


def of_block(h, d):
    heads, inner = 2, 2 * d
    state = block_kernels.block(
        floats(h, d), min(h, 3), floats(heads, h), floats(2, d), floats(d, 3 * d), floats(d, d),
        floats(2, d), floats(d, inner), floats(inner), floats(inner, d), floats(d),
    )  # fmt: skip
    yield "block", (state,)


def of_trees(rows, width):
    x = floats(rows, width)
    data = lightgbm.Dataset(x, x[:, 0] + x[:, 1] * x[:, 2])
    how = {"num_leaves": 15, "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(how, data, 10)
    trees = FastTrees.of(booster)
    yield "trees", (trees.score(x), TreeShares.of(booster, trees).contributions(x))


def main():
    families = {
        of_tower: [(3, 16), (7, 32), (20, 384)],
        of_history: [(3, 16), (7, 33), (20, 384)],
        of_block: [(3, 16), (7, 64), (20, 64)],
        of_trees: [(200, 6), (500, 30)],
    }
    for family, shapes in families.items():
        for shape in shapes:
            for name, arrays in family(*shape):
                digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
                print(name, *shape, digest.hexdigest())


if __name__ == "__main__":
    main()
