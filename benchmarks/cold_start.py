"""The whole system on items and users that no fit has seen, beside BM25 and popularity.

    python benchmarks/cold_start.py DATA TO [--users 1000] [--minutes 10] [--seed 0] [--out cold.json]

A tenth of the items loses all events, and a tenth of the users with more than five events all of theirs;
`recsys nightly` runs on the rest (the items' texts stay in the items table). Then, through the release as a
service asks it:

- cold items: users whose last event was on such an item, asked after the events before it; recall@100
  in the whole catalogue, and of the cold items alone ranked as candidates (recall@10).
- new users: those taken out, with 0, 1, 3 and 5 of the events before their last one sent along; recall@100
  and nDCG@10 of the last one, where it is on an item that was not taken out.

BM25 and popularity are fitted on the same rest. Intervals are 95 % by a bootstrap over users. DATA holds
items.parquet and events.parquet; a TO that is there already is evaluated again with its champion.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.second_night import nightly
from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.evaluation.uncertainty import bootstrap
from recsys.features.interactions import History
from recsys.ingestion.tables.load import load_tables
from recsys.operations.open_release import state_folder
from recsys.query import RankingQuery
from recsys.recommender import LoadedRelease
from recsys.retrieval.fitted_source import SourceInputs
from recsys.storage.registry import Registry
from recsys.training.sources.fit_source import fit_one

SENT = (0, 1, 3, 5)


def lay_out(data, to, seed, minutes):
    """Write the rest; (events as columns in order of user and time, cold item ids, new user ids)."""
    again = to.exists()
    to.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    events = pq.read_table(data / "events.parquet")
    events = events.sort_by([(c.USER_ID, "ascending"), (c.TIMESTAMP, "ascending")])
    items, users = events[c.ITEM_ID].to_pylist(), events[c.USER_ID].to_pylist()
    known = sorted(set(items))
    cold = {known[i] for i in draw.permutation(len(known))[: len(known) // 10]}
    names, counts = np.unique(users, return_counts=True)
    long = names[counts > max(SENT)]
    new = {str(long[i]) for i in draw.permutation(len(long))[: max(1, len(long) // 10)]}
    rest = [item not in cold and user not in new for item, user in zip(items, users, strict=True)]
    if again:
        return events, cold, new
    pq.write_table(events.filter(pa.array(rest)), to / "events.parquet")
    pq.write_table(pq.read_table(data / "items.parquet"), to / "items.parquet")
    (to / "recsys.yaml").write_text(
        "data: {items: items.parquet, events: events.parquet}\n"
        f"budget_minutes: {minutes:g}\nname: cold\nclock: end_of_data\n"
    )
    return events, cold, new


class Baseline:
    """A source alone, asked with the same histories."""

    def __init__(self, name, tables):
        catalogue = tables.catalogue
        texts = [
            " ".join([title, *tags, text])
            for title, tags, text in zip(
                catalogue.titles, catalogue.tags, catalogue.descriptions, strict=True
            )
        ]
        extra = SourceInputs(catalogue, texts, None)
        self.source = fit_one(name, tables.interactions, extra, {}, seed=0, workers=2)
        self.catalogue = catalogue

    def history(self, events):
        """Of events as a request sends them; each counts the same."""
        count = len(events)
        return History(
            self.catalogue.indices_of([e["item_id"] for e in events]),
            np.zeros(count, np.int16),
            np.array([e["timestamp"] for e in events], np.int64),
            np.ones(count, np.float32),
            np.ones(count, np.int8),
        )

    def top(self, events, now, k, among=None):
        history = self.history(events)
        blocked = self.catalogue.blocked.copy()
        if among is not None:
            blocked[:] = 1
            blocked[self.catalogue.indices_of(among)] = 0
        blocked[history.item] = 1
        found = self.source.recall(history, k, now, blocked).items
        return [self.catalogue.id_of(int(i)) for i in found]


def place(listed, wanted):
    """1-based place in a list, infinity where it is not."""
    return listed.index(wanted) + 1 if wanted in listed else np.inf


def histories(events):
    """User → events as requests send them, in order."""
    found = {}
    stamps = events[c.TIMESTAMP].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    value = events[c.VALUE].to_pylist() if c.VALUE in events.column_names else [None] * len(stamps)
    for user, item, kind, at, stars in zip(
        events[c.USER_ID].to_pylist(), events[c.ITEM_ID].to_pylist(),
        events[c.EVENT_TYPE].to_pylist(), stamps, value, strict=True,
    ):  # fmt: skip
        event = {"item_id": item, "event_type": kind, "timestamp": at}
        found.setdefault(user, []).append(event | ({} if stars is None else {"value": stars}))
    return found


def asked(events, cold):
    """(what the system may know, the last event): earlier in time, not only in order, and not on cold
    items."""
    *before, target = events
    known = [e for e in before if e["timestamp"] < target["timestamp"] and e["item_id"] not in cold]
    return known, target


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    events, cold, new = lay_out(given.data, given.to, given.seed, given.minutes)
    print(f"night: {nightly(given.to)[0]:.0f} s", flush=True)
    config = load_config(given.to / "recsys.yaml")
    registry = Registry(config)
    version = registry.champion()
    loaded = LoadedRelease.open(
        registry.local_path(version), state_folder(config), version=str(version)
    )
    while loaded.encode_new(1000):
        pass
    tables = load_tables(max((given.to / "work/stages/tables").glob("*/tables")), config)
    baselines = {name: Baseline(name, tables) for name in ("bm25", "popular")}
    draw = np.random.default_rng(given.seed)
    of_user = histories(events)
    result = {}

    def sample(users):
        users = sorted(users)
        return [users[i] for i in draw.permutation(len(users))[: given.users]]

    def say(title, values):
        one_each = np.arange(len(values), dtype=np.int32)
        columns = np.asarray(values, float)[:, None]
        found = bootstrap(columns, one_each, resamples=2000, seed=0).interval(0)
        result[title] = found.value
        print(f"  {title:44s}{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]", flush=True)

    last_on_cold = [
        u for u, e in of_user.items()
        if u not in new and e[-1]["item_id"] in cold and asked(e, cold)[0]
    ]  # fmt: skip
    chosen, names = sample(last_on_cold), sorted(cold)
    print(f"cold items: {len(chosen):,} users, {len(cold):,} of {tables.catalogue.n_items:,} items")
    ranks = {
        f"{n}, {where}": [] for where in ("whole", "cold only") for n in ("recsys", *baselines)
    }
    for user in chosen:
        before, target = asked(of_user[user], cold)
        wanted, now = target["item_id"], target["timestamp"]
        listed = loaded.answer(RankingQuery(user, now, k=100)).item_ids
        ranks["recsys, whole"].append(place(listed, wanted))
        listed = loaded.answer(RankingQuery(user, now, k=100, items=names)).item_ids
        ranks["recsys, cold only"].append(place(listed, wanted))
        for name, one in baselines.items():
            ranks[f"{name}, whole"].append(place(one.top(before, now, 100), wanted))
            ranks[f"{name}, cold only"].append(place(one.top(before, now, 100, names), wanted))
    for name, found in ranks.items():
        k = 100 if name.endswith("whole") else 10
        say(f"{name}: recall@{k}", np.array(found) <= k)

    warm = [u for u in new if of_user[u][-1]["item_id"] not in cold and asked(of_user[u], cold)[0]]
    chosen = sample(warm)
    print(f"new users: {len(chosen):,}")
    for sent in SENT:
        ranks = {n: [] for n in ("recsys", *baselines)}
        for user in chosen:
            before, target = asked(of_user[user], cold)
            had = before[-sent:] if sent else []
            now = target["timestamp"]
            listed = loaded.answer(RankingQuery("nobody-yet", now, k=100, history=had)).item_ids
            ranks["recsys"].append(place(listed, target["item_id"]))
            for name, one in baselines.items():
                ranks[name].append(place(one.top(had, now, 100), target["item_id"]))
        for name, found in ranks.items():
            found = np.array(found)
            say(f"{sent} events, {name}: recall@100", found <= 100)
            say(f"{sent} events, {name}: nDCG@10", np.where(found <= 10, 1 / np.log2(found + 1), 0))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
