"""The shipped commands on a generated world, scored against what its users truly like.

    python benchmarks/known_truth.py TO [--users 3000] [--items 2000] [--days 30] [--events-per-user 30]
                                        [--held 3] [--minutes 5] [--asked 1000] [--seed 7]

`recsys generate` draws the world and writes its truth: how much each user likes each item, and with which
probability an item that is looked at is clicked. The last days (`--held`) are taken away with the items that came
in them. A tenth of the items and a tenth of the users lose all events; texts and what users say of themselves stay.
`recsys nightly` and `recsys recommend --k 100` run on the rest, without the shown lists.

Lists are scored by the share of a user's true first ten that is in their first ten, and by nDCG@10 with the true
probability of a click as gain; both are over the items that the user has not met. Beside them the release's sources
alone, of which the best by this very nDCG is shown with popularity, an oracle that ranks by the truth, and what
lists at random get on average. Items without events are ranked among themselves (the release is asked to rank them,
as the API does). Intervals are 95 % by a bootstrap over users. A TO that is there already is scored again.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.held_out_step import drawn, recommended
from benchmarks.quality import interval_cell
from benchmarks.second_night import nightly
from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.evaluation.uncertainty import bootstrap
from recsys.ingestion.generator import WorldSettings
from recsys.ingestion.generator.world import World, make_world
from recsys.ingestion.generator.world_settings import BEHAVIOURS
from recsys.operations.open_release import load_release
from recsys.query import RankingQuery

TENTH = 0.1
K = 10
OURS, POPULAR, ORACLE, CHANCE = "recsys", "popularity", "oracle: the true taste", "chance"
MEASURES = ("of the true first ten", "nDCG@10 by true probability")
DISCOUNT = 1 / np.log2(np.arange(K) + 2)


def lay_out(to, given):
    """Generate, take away what is held out, write the tables of the night and whom to ask."""
    sizes = {"users": given.users, "items": given.items, "days": given.days, "seed": given.seed}
    sizes["events-per-user"] = given.events_per_user
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "recsys", "generate", *words, "--to", str(to / "world")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    data = to / "world" / "data"
    items, users = (pd.read_parquet(data / f"{name}.parquet") for name in ("items", "users"))
    events = pd.read_parquet(data / "events").drop(columns=["day", c.IMPRESSION_ID])
    cut = events[c.TIMESTAMP].max().ceil("D") - pd.Timedelta(days=given.held)
    items = items[items[c.CREATED_AT] < cut]
    cold = {item for item in items[c.ITEM_ID] if drawn(item, "cold") < TENTH}
    new = {user for user in users[c.USER_ID] if drawn(user, "new") < TENTH}
    known = events[events[c.TIMESTAMP] < cut]
    known = known[~known[c.ITEM_ID].isin(cold) & ~known[c.USER_ID].isin(new)]
    items.to_parquet(to / "items.parquet", index=False)
    users.to_parquet(to / "user_table.parquet", index=False)
    known.to_parquet(to / "events.parquet", index=False)
    active = sorted(set(known[c.USER_ID]))
    asked = pd.concat(
        pd.Series(sorted(of)).sample(min(len(of), given.asked), random_state=1)
        for of in (active, new)
    )
    asked.rename(c.USER_ID).to_frame().to_parquet(to / "users.parquet", index=False)
    (to / "recsys.yaml").write_text(
        "data: {items: items.parquet, events: events.parquet, users: user_table.parquet}\n"
        f"name: known-truth\nclock: end_of_data\nbudget_minutes: {given.minutes:g}\n"
    )


@dataclass(frozen=True)
class TrueTaste:
    """What users would do: the world of the settings beside the tables, and who has met what."""

    world: World
    ids: list[str]
    """Items of the catalogue."""
    met: dict[str, set[str]]

    @classmethod
    def of(cls, to: Path, ids: list[str]) -> "TrueTaste":
        settings = json.loads((to / "world" / "truth.json").read_text(encoding="utf-8"))["settings"]
        events = pd.read_parquet(to / "events.parquet")
        met = events.groupby(c.USER_ID)[c.ITEM_ID].agg(set).to_dict()
        return cls(make_world(WorldSettings(**settings)), ids, met)

    def clicks(self, user: str, items: list[str]) -> np.ndarray:
        """float[n]: probability that the user clicks each item when looking at it."""
        numbers = np.array([int(item[1:]) for item in items])
        liking = self.world.affinity(np.full(len(items), int(user[1:])), numbers)
        chance = np.ones(len(items))
        for behaviour in BEHAVIOURS:
            if behaviour.name in ("view", "click"):
                chance /= 1 + np.exp(-(behaviour.base + behaviour.slope * liking))
        return chance

    def values(self, user: str, among: set[str], lists: dict[str, list[str]]) -> np.ndarray:
        """float[systems + 2, measures] of lists out of `among`, then the oracle's and chance's."""
        met = self.met.get(user, set())
        open_to = [item for item in self.ids if item in among and item not in met]
        chance = self.clicks(user, open_to)
        best = np.argsort(-chance, kind="stable")[:K]
        gain = dict(zip(open_to, chance, strict=True))
        ideal, first = chance[best] @ DISCOUNT[: len(best)], {open_to[i] for i in best}
        found = []
        for name, items in lists.items():
            if not met.isdisjoint(items):
                sys.exit(f"{name} recommends items that {user} has met")
            head = [item for item in items if item in among][:K]
            got = np.array([gain[item] for item in head])
            share = len(first.intersection(head)) / len(first)
            found.append((share, got @ DISCOUNT[: len(head)] / ideal))
        found.append((1.0, 1.0))
        found.append((K / len(open_to), chance.mean() * DISCOUNT.sum() / ideal))
        return np.array(found)


def source_lists(loaded, user, k, among):
    """Name of a source → its own best k of `among` (bool[N]) that the user has not met."""
    catalogue, now = loaded.state.catalogue, loaded.moment
    history = loaded.state.history(user, now)
    mask = catalogue.blocked.copy()
    mask[~among] = 1
    mask[history.item] = 1
    found = {}
    for name, source in loaded.recall.proposing.items():
        rows = source.recall(history, k, now, mask).items
        found[name] = [catalogue.id_of(int(i)) for i in rows]
    return found


def lists_of(loaded, user, listed, part, ids, cold):
    """System → list of a user, ours first: `recsys recommend`'s, or the release's ranking of `cold`."""
    if part == "items without events":
        asked = [item for item in ids if item in cold]
        ours = loaded.answer(RankingQuery(user, loaded.moment, items=asked, k=K)).item_ids
        among = np.isin(ids, asked)
    else:
        ours, among = listed[user], np.ones(len(ids), bool)
    return {OURS: list(ours)} | source_lists(loaded, user, 100, among)


def shown(part, names, values):
    """Print the systems of a part, each with ours less it; {system: {measure: interval, …}}."""
    people = np.arange(len(values), dtype=np.int32)
    columns = values.reshape(len(values), -1)
    found, width = bootstrap(columns, people, resamples=1000, seed=0), len(MEASURES)
    order = sorted(
        range(1, len(names) - 2), key=lambda n: -np.nan_to_num(found.estimate[n * width + 1])
    )
    best = next(n for n in order if names[n] != "popular")
    rows = {OURS: 0, f"{names[best]}, the best source": best, POPULAR: names.index("popular")}
    rows |= {ORACLE: len(names) - 2, CHANCE: len(names) - 1}
    print(f"{part}: {len(values):,} users\n| lists | {' | '.join(MEASURES)} | recsys less this |")
    print("|---|---|---|---|")
    result = {}
    for title, row in rows.items():
        of = [row * width + n for n in range(width)]
        less = found.differences(np.array([[n, row * width + n] for n in range(width)]))
        cells = [interval_cell(found, n) for n in of] + [interval_cell(less, 1) if row else ""]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
        result[title] = {name: found.interval(n)[:3] for name, n in zip(MEASURES, of, strict=True)}
        result[title]["recsys less this"] = [less.interval(n)[:3] for n in range(width)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("to", type=Path)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--events-per-user", type=float, default=30)
    parser.add_argument("--held", type=int, default=3, help="days that are taken away at the end")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--asked", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    to = given.to.resolve()
    if not to.exists():
        to.mkdir(parents=True)
        lay_out(to, given)
        print(f"night: {nightly(to)[0]:.0f} s", flush=True)
        recommended(to)
    loaded = load_release(load_config(to / "recsys.yaml"))
    ids = loaded.state.catalogue.item_ids.to_pylist()
    truth = TrueTaste.of(to, ids)
    asked = pq.read_table(to / "users.parquet")[c.USER_ID].to_pylist()
    table = pq.read_table(to / "lists.parquet")
    listed = dict(zip(table[c.USER_ID].to_pylist(), table[c.ITEM_IDS].to_pylist(), strict=True))
    warm = set().union(*truth.met.values())
    cold = set(ids) - warm
    active = [user for user in asked if user in truth.met]
    new = [user for user in asked if user not in truth.met]
    print(f"{len(warm):,} items with events, {len(cold):,} without")
    result = {}
    for part, users, among in (
        ("all items", active, set(ids)),
        ("items with events", active, warm),
        ("items without events", active, cold),
        ("new users, all items", new, set(ids)),
    ):
        values, names = [], []
        for user in users:
            lists = lists_of(loaded, user, listed, part, ids, cold)
            values.append(truth.values(user, among, lists))
            names = [*lists, ORACLE, CHANCE]
        result[part] = shown(part, names, np.stack(values))
    (to / "scores.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
