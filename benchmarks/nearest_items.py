"""Nearest neighbours among many item vectors: our inverted lists beside faiss, hnswlib and usearch.

    python benchmarks/nearest_items.py --peers PYTHON [--items 200000] [--queries 200] [--depth 500]

PYTHON is an interpreter that has `faiss-cpu hnswlib usearch`. All search the same clustered vectors
in one thread; "filtered" leaves out a third of the items inside the search. Prints seconds to build,
milliseconds of processor time per query, the share of an exact scan's items that is found, and the
ratio to ours.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.recall import clustered
from recsys.retrieval.ann import InvertedLists, scan

PEERS = Path(__file__).with_name("nearest_items_peers.py")
BLOCKED = 1 / 3


def ours(vectors, queries, depth, blocked):
    """The same figures as `nearest_items_peers` gives."""
    known = np.ones(len(vectors), np.uint8)
    began = perf_counter()
    lists = InvertedLists.build(vectors, 1)
    found = {"build": perf_counter() - began}
    for name, mask in (("plain", np.zeros(len(vectors), np.uint8)), ("filtered", blocked)):
        scan(vectors, queries[0], known, mask, depth, lists)
        times, items = [], []
        for query in queries:
            began = thread_time()
            listed = scan(vectors, query, known, mask, depth, lists).items
            times.append(1e3 * (thread_time() - began))
            items.append(listed.tolist())
        found[name] = {"ms": times, "items": items}
    return found


def exact(vectors, queries, depth, blocked):
    """Items of a whole scan, by query."""
    known = np.ones(len(vectors), np.uint8)
    return [scan(vectors, q, known, blocked, depth, None).items for q in queries]


def row(name, found, truth, base):
    """One line of the table."""
    line = f"{name:10s}{found['build']:9.1f}"
    for kind in ("plain", "filtered"):
        if found[kind] is None:
            line += f"{'cannot':>40s}"
            continue
        ms = np.array(found[kind]["ms"])
        share = np.mean(
            [
                len(np.intersect1d(a, b)) / len(b)
                for a, b in zip(found[kind]["items"], truth[kind], strict=True)
            ]
        )
        ratio = np.median(ms) / np.median(base[kind]["ms"])
        line += f"{np.median(ms):10.3f}{np.percentile(ms, 95):10.3f}{share:10.1%}{ratio:9.2f}x"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--depth", type=int, default=500)
    given = parser.parse_args()
    draw = np.random.default_rng(1)
    vectors = clustered(draw, given.items)
    near = draw.integers(0, given.items, given.queries)
    queries = vectors[near] + 0.3 * clustered(draw, given.queries)
    blocked = draw.random(given.items) < BLOCKED
    masks = {"plain": np.zeros(given.items, np.uint8), "filtered": blocked.astype(np.uint8)}
    truth = {kind: exact(vectors, queries, given.depth, mask) for kind, mask in masks.items()}
    print(f"{given.items:,} items, depth {given.depth}, {given.queries} queries, one thread")
    columns = f"{'median ms':>10s}{'p95 ms':>10s}{'found':>10s}{'to ours':>10s}"
    print(f"{'':10s}{'build s':>9s}{columns}{columns}   (plain, filtered)")
    base = ours(vectors, queries, given.depth, masks["filtered"])
    row("ours", base, truth, base)
    with tempfile.TemporaryDirectory() as folder:
        for part, array in (("vectors", vectors), ("queries", queries), ("blocked", blocked)):
            np.save(f"{folder}/{part}.npy", array.astype(bool) if part == "blocked" else array)
        for name in ("faiss", "hnswlib", "usearch"):
            command = [given.peers, str(PEERS), name, folder, str(given.depth)]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode:
                print(f"{name:10s} failed: {answer.stderr.strip().splitlines()[-1]}")
                continue
            row(name, json.loads(answer.stdout.strip().splitlines()[-1]), truth, base)


if __name__ == "__main__":
    main()
