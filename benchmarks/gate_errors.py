"""How often the gate is wrong: candidates whose true quality is known, by the gate's own decision.

    python benchmarks/gate_errors.py [--draws 300] [--report NIGHT'S REPORT FOLDER] [--out FILE.json]

Champion's lists are generated, or drawn with replacement from those that a night recorded. A
candidate that is truly 3 % worse has lost each list's hits with a chance of 3 %; beside that, a
share of its lists (0 or a tenth) is drawn anew, as good as before and other than before. Printed are

    promoted   how often it takes the champion's place: before (the rule that preceded this one, kept
               below), now as the same recipe on fresher data, now as a changed recipe, and as a
               changed recipe with six nights before of the same two recipes, each of as many users;
    spoilt     how often data that spoil candidate and refitted champion alike are refused, where the
               champion's recorded lists of half the users are shared;
    ratchet    what the champion has lost after 14 nights whose candidates are each 1 % worse than it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data_schemas.config import GateConfig
from recsys.evaluation import metrics
from recsys.evaluation.saved_lists import MAIN, read_lists
from recsys.evaluation.uncertainty import bootstrap
from recsys.training.night.gate import ChampionEvidence, Evidence, Paired, Reference, decide

USERS, CHANGED = (9, 30, 136, 10_000), (0.0, 0.1)
LOSSES = (-0.10, 0.0, 0.01, 0.03, 0.10)
"""A negative one is a gain."""
SPOILT = (0.0, 0.03, 0.10, 0.50)
EARLIER_NIGHTS, RATCHET_NIGHTS, STEP = 6, 14, 0.01
HIT = 0.45
"""Chance of a hit among ten in generated lists; places are uniform (nDCG@10 .20 on average)."""
CONFIG = GateConfig()


@dataclass(frozen=True)
class SimulatedShop:
    """Values of the gate's metric to draw moments from; generated where there are none."""

    recorded: np.ndarray | None

    def draw(self, users: int, rng: np.random.Generator) -> np.ndarray:
        """float64[users]: one moment of each."""
        if self.recorded is not None:
            return rng.choice(self.recorded, users)
        place = rng.integers(1, 11, users)
        return np.where(rng.random(users) < HIT, 1.0 / np.log2(place + 1.0), 0.0)


def pairs(
    world: SimulatedShop,
    users: int,
    loss: float,
    changed: float,
    rng: np.random.Generator,
    first: int = 0,
) -> Paired:
    """A candidate that is truly `loss` worse, beside the champion; users are numbered from `first`."""
    theirs = world.draw(users, rng)
    ours = np.where(rng.random(users) < changed, world.draw(users, rng), theirs)
    ours = _better(ours, -loss, rng) if loss < 0 else _worse(ours, loss, rng)
    same = loss == 0 and changed == 0
    return Paired(ours, theirs, first + np.arange(users), same)


def _worse(values: np.ndarray, loss: float, rng: np.random.Generator) -> np.ndarray:
    """Each list's hits lost with a chance of `loss`."""
    return np.where(rng.random(len(values)) < loss, 0.0, values)


def _better(values: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    """So many misses turned into hits, as good as those there are, that the mean gains `gain`."""
    hits = values[values > 0]
    if not len(hits) or len(hits) == len(values):
        return values
    chance = min(1.0, gain * len(hits) / (len(values) - len(hits)))
    turned = (values == 0) & (rng.random(len(values)) < chance)
    return np.where(turned, rng.choice(hits, len(values)), values)


def old_rule(found: Paired, margin: float, resamples: int, seed: int) -> bool:
    """The rule before: promoted where the interval is above the tolerated loss, or the difference
    is and not all of the interval is a loss."""
    columns = np.column_stack([found.ours - found.theirs, found.theirs])
    drawn = bootstrap(columns, found.user, resamples=resamples, seed=seed)
    difference, base = drawn.interval(0), drawn.interval(1)
    limit = -margin * (base.value or 0.0)
    shown = difference.low is not None and difference.low >= limit
    surely = difference.high is not None and difference.high < 0
    return shown or ((difference.value or 0.0) >= limit and not surely)


def new_rule(found: Paired, same_recipe: bool, earlier: Paired | None = None, **more) -> bool:
    """The gate's own decision, all other rules kept."""
    champion = ChampionEvidence(
        1, "simulated", overall=found, same_recipe=same_recipe, earlier=earlier,
        earlier_nights=EARLIER_NIGHTS if earlier is not None else 0, **more,
    )  # fmt: skip
    return decide(CONFIG, Evidence(champion)).promoted


def promoted(
    world: SimulatedShop, users: int, loss: float, changed: float, draws: int
) -> dict[str, float]:
    """Share of draws that take the champion's place, by rule."""
    resamples = 300 if users < 1000 else 100
    found: dict[str, list[bool]] = {"before": [], "same": [], "other": [], "pooled": []}
    for seed in range(draws):
        rng = np.random.default_rng([users, int(1000 * (1 + loss)), int(100 * changed), seed])
        tonight = pairs(world, users, loss, changed, rng)
        earlier = pairs(world, users * EARLIER_NIGHTS, loss, changed, rng, users)
        found["before"].append(old_rule(tonight, CONFIG.margin, resamples, seed))
        found["same"].append(new_rule(tonight, True))
        found["other"].append(new_rule(tonight, False))
        found["pooled"].append(new_rule(tonight, False, earlier))
    return {name: float(np.mean(values)) for name, values in found.items()}


def spoilt(world: SimulatedShop, users: int, loss: float, draws: int) -> dict[str, float]:
    """Share refused where candidate and refitted champion have lost alike. Before: none, ever."""
    refused = []
    for seed in range(draws):
        rng = np.random.default_rng([5, users, int(1000 * loss), seed])
        recorded = pairs(world, max(1, users // 2), loss, 0.1, rng)
        alike = Paired(recorded.ours, recorded.ours, recorded.user, same=True)
        reference = (Reference("the champion's recorded lists", (recorded,)),)
        refused.append(not new_rule(alike, True, recorded=reference))
    return {"before": 0.0, "now": float(np.mean(refused))}


def ratchet(world: SimulatedShop, users: int, draws: int) -> dict[str, float]:
    """True loss of the champion, against the first one, after the nights."""
    ends: dict[str, list[float]] = {"before": [], "recorded": [], "through": [], "other": []}
    for seed in range(draws):
        rng = np.random.default_rng([11, users, seed])
        for rule, losses in ends.items():
            losses.append(1.0 - _after_nights(world, users, rule, rng))
    return {rule: float(np.mean(losses)) for rule, losses in ends.items()}


def _after_nights(world: SimulatedShop, users: int, rule: str, rng: np.random.Generator) -> float:
    """Quality of the champion at the end, 1 at the start. Under `recorded` every night compares the
    same moments, else each night its own; `other` is a changed recipe every night."""
    quality, chain = [1.0], []
    value, fate = world.draw(users, rng), rng.random(users)
    for night in range(RATCHET_NIGHTS):
        if rule != "recorded" and night:
            value, fate = world.draw(users, rng), rng.random(users)
        versions = [np.where(fate < q, value, 0.0) for q in (*quality, quality[-1] * (1.0 - STEP))]
        users_of = np.arange(users)
        tonight = Paired(versions[-1], versions[-2], users_of)
        if rule == "before":
            up = old_rule(tonight, CONFIG.margin, 200, night)
        elif rule == "recorded":
            references = [
                Reference(f"version {n}", (Paired(versions[-1], v, users_of),))
                for n, v in enumerate(versions[:-2])
            ]
            up = new_rule(tonight, True, best=references)
        else:
            references = [
                Reference(f"version {n}", (tonight, *chain[n:][::-1])) for n in range(len(chain))
            ]
            up = new_rule(tonight, rule == "through", best=references)
        if up:
            quality.append(quality[-1] * (1.0 - STEP))
            chain.append(tonight)
    return quality[-1]


def recorded_values(report: Path) -> np.ndarray:
    """The gate's default metric of a night's own lists."""
    kept = read_lists(report)
    if kept is None or MAIN not in kept.systems:
        sys.exit(f"{report} holds no lists of a night (lists.parquet)")
    values = metrics.ndcg(metrics.match(kept.truth, kept.systems[MAIN]), 10)
    return values[np.isfinite(values)]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(share: float) -> str:
    return f"{share:.0%}" if share == 0 or abs(share) >= 0.1 else f"{share:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--report", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    world = SimulatedShop(recorded_values(given.report) if given.report else None)
    result = {
        "draws": given.draws,
        "promoted": _each(
            lambda users, loss, changed: promoted(world, users, loss, changed, given.draws),
            [(u, loss, c) for c in CHANGED for u in USERS for loss in LOSSES],
            ["before", "same", "other", "pooled"],
            ["users", "truly worse", "lists drawn anew", "before", "now, same recipe",
             "now, changed recipe", f"changed, with {EARLIER_NIGHTS} nights before"],
        ),
        "spoilt": _each(
            lambda users, loss: spoilt(world, users, loss, given.draws),
            [(u, loss) for u in USERS for loss in SPOILT],
            ["before", "now"],
            ["users", "both spoilt by", "refused before", "refused now"],
        ),
        "ratchet": _each(
            lambda users: ratchet(world, users, max(10, given.draws // 8)),
            [(u,) for u in USERS],
            ["before", "recorded", "through", "other"],
            ["users", "lost before", "now, same recipe, same moments every night",
             "now, same recipe, new moments every night", "now, changed recipe every night"],
        ),
    }  # fmt: skip
    if given.out:
        given.out.write_text(json.dumps(result))


def _each(
    measure: Callable[..., dict[str, float]],
    cells: Sequence[tuple[float, ...]],
    names: Sequence[str],
    head: Sequence[str],
) -> list[dict[str, float]]:
    """Measure every cell, print the table, give the rows back."""
    rows = [(cell, measure(*cell)) for cell in cells]
    shown = [[f"{c[0]:,}", *map(percent, c[1:]), *(percent(m[n]) for n in names)] for c, m in rows]
    print(table(head, shown), flush=True)
    print(flush=True)
    return [{"cell": cell, **found} for cell, found in rows]


if __name__ == "__main__":
    main()
