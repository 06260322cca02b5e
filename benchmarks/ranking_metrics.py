"""Our ranking metrics against RecTools on the same lists: equal values, time of each.

    python benchmarks/ranking_metrics.py [--users 50546] [--items 16859] [--out FILE.json]

The peer lives in a virtual environment of its own under a temporary folder (or in `--peer-python`,
an interpreter that has RecTools). Neither side's reading of files is timed; RecTools gets its
frames ready-made, we get arrays. Compilation is done before the clock starts, and the best of three runs counts on both sides.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from recsys.evaluation import metrics
from recsys.evaluation.evaluation import evaluate_lists
from recsys.evaluation.lists import RankedLists, Truth

PEER = "rectools==0.19.0"
KS = (10, 100)
RUNS = 3
PEER_SCRIPT = """
import json, sys, time
import numpy as np, pandas as pd
from rectools import Columns as C
from rectools.metrics import *

data = np.load(sys.argv[1])
users, length = data["items"].shape
reco = pd.DataFrame({
    C.User: np.repeat(np.arange(users), length),
    C.Item: data["items"].ravel(),
    C.Rank: np.tile(np.arange(1, length + 1), users),
})
truth = pd.DataFrame({C.User: data["group"], C.Item: data["truth"]})
catalog = np.arange(int(data["n_items"]))
wanted = {}
for k in json.loads(sys.argv[2]):
    wanted[f"ndcg@{k}"] = NDCG(k, divide_by_achievable=True)
    wanted[f"recall@{k}"] = Recall(k)
    wanted[f"precision@{k}"] = Precision(k)
    wanted[f"hit_rate@{k}"] = HitRate(k)
    wanted[f"map@{k}"] = MAP(k)
    wanted[f"mrr@{k}"] = MRR(k)
    wanted[f"coverage@{k}"] = CatalogCoverage(k, normalize=True)
seconds = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    values = calc_metrics(wanted, reco=reco, interactions=truth, catalog=catalog)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": min(seconds), "values": {k: float(v) for k, v in values.items()}}))
"""


def lists_like_a_shop(users: int, items: int, length: int) -> tuple[Truth, RankedLists]:
    """Popular items fill the lists; every third relevant item or so is hit."""
    rng = np.random.default_rng(1)
    weight = 1.0 / np.arange(10, items + 10)
    popular = rng.choice(items, size=(users, 2 * length), p=weight / weight.sum())
    ranked = np.empty((users, length), np.int32)
    wanted = 1 + rng.poisson(1.0, users)
    group = np.repeat(np.arange(users), wanted)
    truth = rng.integers(0, items, len(group))
    starts = np.cumsum(wanted) - wanted
    for user in range(users):
        row = popular[user]
        found = truth[starts[user] : starts[user] + wanted[user]]
        row[rng.integers(0, length, len(found))] = np.where(
            rng.random(len(found)) < 0.4, found, row[: len(found)]
        )
        _, first = np.unique(row, return_index=True)
        kept = row[np.sort(first)][:length]
        spare = np.setdiff1d(np.arange(3 * length), kept)[: length - len(kept)]
        ranked[user] = np.concatenate([kept, spare])
    scores = np.tile(np.linspace(1, 0, length, dtype=np.float32), (users, 1))
    ones = np.ones(len(group), np.int8)
    moments = np.full(users, 1_600_000_000_000_000)
    return Truth.of(group, truth, ones, np.arange(users), moments), RankedLists("x", ranked, scores)


def ours(truth: Truth, lists: RankedLists, items: int) -> dict[str, float]:
    """The means that RecTools is asked for."""
    matched = metrics.match(truth, lists)
    found: dict[str, float] = {}
    for k in KS:
        found[f"ndcg@{k}"] = float(np.nanmean(metrics.ndcg(matched, k)))
        found[f"recall@{k}"] = float(np.nanmean(metrics.recall(matched, k)))
        found[f"precision@{k}"] = float(np.nanmean(metrics.precision(matched, k)))
        found[f"hit_rate@{k}"] = float(np.nanmean(metrics.hit_rate(matched, k)))
        found[f"map@{k}"] = float(np.nanmean(metrics.average_precision(matched, k)))
        found[f"mrr@{k}"] = float(np.nanmean(metrics.mrr(matched, k)))
        found[f"coverage@{k}"] = metrics.coverage(lists, k, items)
    return found


def best_of(call: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    """Least wall time in seconds over `RUNS` calls, and the last answer."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
    return min(seconds), answer


def peer(python: str | None, truth: Truth, lists: RankedLists, items: int) -> dict[str, Any]:
    """RecTools' values and seconds, from its own interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        if python is None:
            venv.create(Path(folder) / "peer", with_pip=True)
            python = str(Path(folder) / "peer" / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
        data = Path(folder) / "lists.npz"
        np.savez(
            data, items=lists.items, group=truth.group_of_item, truth=truth.items, n_items=items
        )
        command = [python, "-c", PEER_SCRIPT, str(data), json.dumps(KS), str(RUNS)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=50_546)
    parser.add_argument("--items", type=int, default=16_859)
    parser.add_argument("--peer-python", default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()

    truth, lists = lists_like_a_shop(given.users, given.items, max(KS))
    ours(truth, lists, given.items)
    seconds, values = best_of(lambda: ours(truth, lists, given.items))
    theirs = peer(given.peer_python, truth, lists, given.items)
    largest = max(abs(values[name] - theirs["values"][name]) for name in values)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    other = RankedLists("y", np.roll(lists.items, 1, axis=1), lists.scores)
    popularity = np.bincount(truth.items, minlength=given.items)
    evaluate_lists(
        truth,
        [lists, other],
        main="x",
        ks=KS,
        catalogue_size=given.items,
        item_popularity=popularity,
    )
    whole = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "users": given.users,
        "length": max(KS),
        "metrics": len(values),
        "ours_seconds": seconds,
        "rectools_seconds": theirs["seconds"],
        "ratio": theirs["seconds"] / seconds,
        "largest_difference": largest,
        "whole_evaluation_of_two_systems_seconds": whole,
        "peak_mb_before_and_after_it": [before / 1024, peak / 1024],
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result | {"values": values, "rectools": theirs["values"]}))
    if largest > 1e-9:
        sys.exit("values differ")


if __name__ == "__main__":
    main()
