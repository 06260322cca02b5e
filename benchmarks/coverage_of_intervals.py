"""How often the report's intervals hold the truth: known models, many seeds.

    python benchmarks/coverage_of_intervals.py [--seeds 400] [--out FILE.json]

Every seed draws users, what they want, and the lists of models whose quality is known. Two equal
models differ by luck alone, so the 95 % interval of their difference should hold 0 in about 95 of 100
seeds, and the verdict should hardly ever be "ahead" or "behind". Three models of rising quality
should be put in order.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from recsys.evaluation import metrics
from recsys.evaluation.evaluation import AHEAD, UNCLEAR, evaluate_lists
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.uncertainty import bootstrap, jackknife

ITEMS, LENGTH, RESAMPLES = 500, 10, 500
GROUPS_PER_USER = 2


def world(users: int, rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """Truth with one to five relevant items per group, and how easy each user is (0..1)."""
    groups = users * GROUPS_PER_USER
    wanted = rng.integers(1, 6, groups)
    items = np.concatenate([rng.choice(ITEMS, n, False) for n in wanted])
    user = np.arange(groups) // GROUPS_PER_USER
    truth = Truth.of(
        np.repeat(np.arange(groups), wanted),
        items,
        np.ones(len(items), int),
        user,
        np.zeros(groups, int),
    )
    return truth, rng.beta(0.6, 2.0, users)[user]


def model(name: str, truth: Truth, chance: np.ndarray, rng: np.random.Generator) -> RankedLists:
    """Finds each relevant item with the group's `chance`, at a random place."""
    groups = truth.n_groups
    ranked = rng.integers(0, ITEMS, (groups, LENGTH)).astype(np.int32)
    for row in range(groups):
        mine = truth.items[truth.offsets[row] : truth.offsets[row + 1]]
        found = mine[rng.random(len(mine)) < chance[row]]
        ranked[row, rng.permutation(LENGTH)[: len(found)]] = found
    return RankedLists(name, ranked, np.zeros(ranked.shape, np.float32))


def equal_models(users: int, seeds: int, true_mean: float) -> dict[str, float]:
    """Share of seeds whose interval of the difference of two equal models holds 0, and of one
    model's mean holds its true mean."""
    held = mean_held = 0
    for seed in range(seeds):
        rng = np.random.default_rng([users, seed])
        truth, easy = world(users, rng)
        ndcg = [
            metrics.ndcg(metrics.match(truth, model(n, truth, easy, rng)), LENGTH) for n in "ab"
        ]
        columns = np.column_stack([ndcg[0] - ndcg[1], ndcg[0]])
        found = bootstrap(columns, truth.user, resamples=RESAMPLES, seed=seed)
        difference, mean = found.interval(0), found.interval(1)
        held += difference.low <= 0.0 <= difference.high
        mean_held += mean.low <= true_mean <= mean.high
    return {"difference": held / seeds, "mean": mean_held / seeds}


def coverage_intervals(users: int, seeds: int) -> float:
    """Share of seeds whose jackknife interval of catalogue coverage holds its expected value."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng([7, users, seed])
        weight = 1.0 / np.arange(5, ITEMS + 5)
        shown = rng.choice(ITEMS, (users, LENGTH), p=weight / weight.sum()).astype(np.int32)
        counts = np.zeros((20, ITEMS), np.int64)
        for fold in range(20):
            counts[fold] = np.bincount(shown[fold::20].ravel(), minlength=ITEMS)
        whole = counts.sum(0)
        found.append(jackknife((whole - counts > 0).mean(1), float((whole > 0).mean()), users))
    expected = np.mean([i.value for i in found])
    return float(np.mean([i.low <= expected <= i.high for i in found]))


def verdicts(users: int, seeds: int) -> dict[str, float]:
    """Whole evaluations: false verdicts on three equal models, order of three unequal ones."""
    false = ordered = ahead = 0
    for seed in range(seeds):
        rng = np.random.default_rng([3, users, seed])
        truth, easy = world(users, rng)
        settings = {"ks": (LENGTH,), "catalogue_size": ITEMS, "resamples": RESAMPLES, "seed": seed}
        settings["item_popularity"] = np.ones(ITEMS, int)
        equal = [model(n, truth, easy, rng) for n in "abc"]
        report = evaluate_lists(truth, equal, main="a", **settings)
        metric = report.main_metric
        false += any(d[metric].verdict != UNCLEAR for d in report.differences.values())
        rising = [
            model(n, truth, easy * q, rng) for n, q in zip("abc", (1.0, 0.7, 0.4), strict=True)
        ]
        report = evaluate_lists(truth, rising, main="a", **settings)
        means = [report.systems[n][metric].value for n in "abc"]
        ordered += means == sorted(means, reverse=True)
        ahead += all(d[metric].verdict == AHEAD for d in report.differences.values())
    return {
        "false_verdict_on_equal_models": false / seeds,
        "three_models_in_order": ordered / seeds,
        "best_reported_ahead_of_both": ahead / seeds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    truth, easy = world(20_000, rng)
    many = metrics.ndcg(metrics.match(truth, model("a", truth, easy, rng)), LENGTH)
    true_mean = float(many.mean())
    result = {
        "level": 0.95,
        "seeds": given.seeds,
        "holds": {users: equal_models(users, given.seeds, true_mean) for users in (20, 50, 200)},
        "coverage_metric": {users: coverage_intervals(users, given.seeds) for users in (50, 200)},
        "verdicts_200_users": verdicts(200, max(20, given.seeds // 8)),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
