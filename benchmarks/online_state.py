"""Folding, reading and restarting the online state.

    python benchmarks/online_state.py [--events 1000000] [--users 1000000] [--items 100000]

Prints events folded per second and the cost of a single one, the time of reading all features of
100 candidates (afresh and kept), bytes per user and item, and the restart from a snapshot. The peer
of the fold is a dictionary of lists and counters, which is what one would write first.
"""

import argparse
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.data_schemas.columns import (
    EVENT_TYPE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from recsys.data_schemas.config import FeaturesConfig
from recsys.data_schemas.log_record import LogRecord
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import DAY, HOUR, Interactions
from recsys.features.random_world import SIGNALS, START, TYPES
from recsys.features.ranking_context import RankingContext
from recsys.features.state import OnlineState

BATCH = 5000


def world(events: int, users: int, items: int) -> tuple[Interactions, Catalogue]:
    rng = np.random.default_rng(3)
    table = pa.table(
        {
            "item_id": [f"item-{i}" for i in range(items)],
            "title": [f"Title of item {i}" for i in range(items)],
            "tags": [[f"tag{i % 40}", f"tag{i % 77}"] for i in range(items)],
            "category": [f"category{i % 50}" for i in range(items)],
            "price": rng.random(items),
        }
    )
    one = np.ones(events, np.float32)
    # Every user occurs, the rest fall where they may.
    user = np.concatenate([np.arange(users), rng.integers(0, users, max(0, events - users))])
    made = Interactions(
        user[:events].astype(np.int32),
        np.minimum(items ** rng.random(events), items - 1).astype(np.int32),
        rng.integers(0, 3, events).astype(np.int16),
        np.sort(START + rng.integers(0, 60 * DAY, events)),
        np.full(events, np.nan, np.float32),
        one,
        one.astype(np.int8),
        np.arange(events),
        np.array([f"user-{u}" for u in range(users)], object),
        TYPES,
        items,
    )
    return made, Catalogue.from_table(table)


def log(n: int, users: int, items: int, start: int) -> list[LogRecord]:
    """n events of one day after the snapshot."""
    rng = np.random.default_rng(5)
    time_ = np.sort(START + 60 * DAY + rng.integers(0, DAY, n)).tolist()
    user, item = rng.integers(0, users, n).tolist(), rng.integers(0, items, n).tolist()
    return [
        LogRecord(
            start + i,
            "event",
            {
                USER_ID: f"user-{user[i]}",
                ITEM_ID: f"item-{item[i]}",
                EVENT_TYPE: TYPES[i % 3],
                TIMESTAMP: time_[i],
            },
            time_[i],
        )
        for i in range(n)
    ]


def naive(records: list[LogRecord]) -> float:
    """Seconds to fold with dictionaries."""
    histories: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    counts: Counter[tuple[str, str, int]] = Counter()
    started = time.process_time()
    for _, _, payload, _ in records:
        item, kind, at = payload[ITEM_ID], payload[EVENT_TYPE], payload[TIMESTAMP]
        histories[payload[USER_ID]].append((item, kind, at))
        counts[item, kind, at // HOUR] += 1
    return time.process_time() - started


def fold(state: OnlineState, records: list[LogRecord], batch: int) -> float:
    """CPU seconds to fold in batches."""
    started = time.process_time()
    for low in range(0, len(records), batch):
        state.apply(records[low : low + batch])
    return time.process_time() - started


def read(state: OnlineState, users: int, *, kept: bool) -> tuple[float, float, float]:
    """(median, 95th percentile, median CPU time) in ms of all features of 100 candidates, histories
    included."""
    rng = np.random.default_rng(9)
    signals = {name: rng.random(100).astype(np.float32) for name in SIGNALS}
    features = FeatureSet.default(state.catalogue, TYPES, SIGNALS, FeaturesConfig())
    now, spent, busy = START + 61 * DAY, [], []
    for _ in range(2500):
        items = rng.integers(0, state.catalogue.n_items, 100).astype(np.int32)
        # Without keeping, each list has an hour of its own.
        at = now if kept else now - HOUR * int(rng.integers(0, 1000))
        started, cpu = time.perf_counter(), time.thread_time()
        history = state.history(f"user-{rng.integers(users)}", at)
        features.online(RankingContext(at, history, items, signals, state, state.catalogue))
        spent.append(time.perf_counter() - started)
        busy.append(time.thread_time() - cpu)
    print(f"  ({len(features)} columns)", end="")
    tail = np.array(spent[-500:]) * 1e3
    return (
        float(np.median(tail)),
        float(np.quantile(tail, 0.95)),
        float(np.median(busy[-500:])) * 1e3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--log", type=int, default=200_000)
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; CPU time unless said otherwise")
    events, catalogue = world(args.events, args.users, args.items)
    started = time.process_time()
    state = OnlineState.build(
        events, catalogue, bucket_us=HOUR, windows_us=[DAY], log_position=args.events
    )
    print(f"build from tables: {len(events) / (time.process_time() - started):,.0f} events/s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "state"
        state.save(folder)
        history = sum(f.stat().st_size for f in folder.glob("history*"))
        users = sum(f.stat().st_size for f in folder.glob("users*"))
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        rest = size - users - history
        print(f"snapshot: {size / 1e6:,.0f} MB = {(users + history) / args.users:.0f} bytes/user,")
        print(
            f"  of them {history / len(events):.0f} per event; {rest / args.items:.0f} bytes/item"
        )
        del state
        wall, cpu = time.perf_counter(), time.process_time()
        state = OnlineState.open(folder)
        state.history("user-1", START + 61 * DAY)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"restart with {args.users:,} users: {wall:.3f} s, CPU {cpu:.3f} s (aim: 2)")
        records = log(args.log, args.users, args.items, args.events + 1)
        state.apply(records[:BATCH])
        spent = fold(state, records[BATCH:], BATCH)
        rate = (len(records) - BATCH) / spent
        peer = len(records) / naive(records)
        print(f"fold, batches of {BATCH}: {rate:,.0f} events/s (aim: 200,000)")
        print(f"  dictionaries: {peer:,.0f} events/s, ratio {rate / peer:.2f}")
        single = log(2000, args.users, args.items, args.events + 1 + args.log)
        print(f"fold, one by one: {fold(state, single, 1) / len(single) * 1e6:.0f} µs per event")
        for kept, word in ((True, "kept for the hour"), (False, "every list its own hour")):
            middle, high, cpu = read(state, args.users, kept=kept)
            print(
                f" all features of 100 candidates, {word}: {middle:.3f} ms, p95 {high:.3f} ms, "
                f"CPU {cpu:.3f} ms"
            )


if __name__ == "__main__":
    main()
