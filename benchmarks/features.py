"""Events per second of the point-in-time table, and its memory.

*Counters*: for every event a row is made that holds what was known of its item and category before
it: counts by event type and window, a rate and a trend. *Whole*: the default set with everything
else a ranker reads (histories, recency, overlap, attributes, time), for lists of 100 candidates. Each
size runs in a process of its own, so that its peak of memory is its own; the first rows, which load
and compile, are not counted.

    python benchmarks/features.py [--millions 1 5 20] [--sql] [--whole] [--feast [PYTHON]]

With `--sql` DuckDB counts the same rows by SQL. With `--feast`, Feast's `get_historical_features`
joins the same hourly counters to a sample of the same rows in the same run, by the interpreter
given, or in a virtual environment made for it under a temporary folder.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

# This script has the name of the package it measures. Python looks for imports beside a script
# first, so the folder is taken off the path, and a neighbour's `import features` is sent on.
HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
if __name__ == "features":
    del sys.modules[__name__]
    sys.modules[__name__] = importlib.import_module(__name__)
else:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.data_schemas.config import FeaturesConfig
    from recsys.features.catalogue import Catalogue
    from recsys.features.feature_set import FeatureSet
    from recsys.features.interactions import DAY, HOUR, Interactions
    from recsys.features.kinds.smoothed_rate import SmoothedRate
    from recsys.features.kinds.trend import Trend
    from recsys.features.kinds.window_count import WindowCount
    from recsys.features.random_world import START
    from recsys.features.rows import ANY_POSITION, BatchInputs, Rows

TYPES = ("view", "click", "purchase")
LIST = 100
"""Candidates of a list, for the whole table."""
FEAST_ROWS = 100_000


def world(n: int) -> "tuple[Interactions, Catalogue]":
    """n events of 90 days on n/100 items, whose popularity falls off like 1/rank."""
    rng = np.random.default_rng(7)
    n_items = max(1000, n // 100)
    item = np.minimum(n_items ** rng.random(n), n_items - 1).astype(np.int32)
    time_ = np.sort(START + rng.integers(0, 90 * DAY, n))
    table = pa.table(
        {
            "item_id": [f"item-{i}" for i in range(n_items)],
            "category": [f"category-{i % 50}" for i in range(n_items)],
            "tags": [[f"tag-{i % 40}", f"tag-{i % 77}"] for i in range(n_items)],
            "price": rng.random(n_items),
        }
    )
    kind = rng.choice(3, n, p=[0.8, 0.15, 0.05]).astype(np.int16)
    none = np.empty(n, np.float32)
    n_users = max(1000, n // 50)
    events = Interactions(
        rng.integers(0, n_users, n).astype(np.int32),
        item,
        kind,
        time_,
        none,
        none,
        np.zeros(n, np.int8),
        np.arange(n),
        np.array([f"user-{u}" for u in range(n_users)], object),
        TYPES,
        n_items,
    )
    return events, Catalogue.from_table(table)


def counters() -> "FeatureSet":
    return FeatureSet(
        [
            *(WindowCount("item", t, w) for t in ("", *TYPES) for w in (DAY, 7 * DAY, 0)),
            *(WindowCount("category", "", w) for w in (DAY, 7 * DAY, 0)),
            SmoothedRate("click", "view", 7 * DAY),
            Trend("", DAY, 7 * DAY),
        ]
    )


def rows_of(events: "Interactions") -> "Rows":
    """One row per event, as of its time."""
    n = len(events)
    return Rows(
        np.arange(n + 1),
        events.user,
        events.time,
        np.broadcast_to(np.int64(ANY_POSITION), n),
        events.item,
        {},
        events.histories(),
    )


def lists_of(events: "Interactions", n_lists: int) -> "Rows":
    """Lists of 100 candidates for the users of some events, just before them."""
    rng = np.random.default_rng(11)
    at = np.sort(rng.integers(0, len(events), n_lists))
    return Rows(
        np.arange(n_lists + 1) * LIST,
        events.user[at],
        events.time[at],
        np.broadcast_to(np.int64(ANY_POSITION), n_lists),
        events.item[rng.integers(0, len(events), n_lists * LIST)],
        {},
        events.histories(),
    )


def measure(millions: float, kind: str) -> dict[str, float]:
    """One table of `kind` (arrays, duckdb or whole) over so many events, after a small one."""
    events, catalogue = world(int(millions * 1e6))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if kind == "whole":
        features = FeatureSet.default(catalogue, TYPES, (), FeaturesConfig())
        rows, few = lists_of(events, len(events) // LIST), lists_of(events, 10)
    else:
        features, rows = counters(), rows_of(events)
        few = rows_of(events.where(np.arange(len(events)) < 1000))
    inputs = BatchInputs(events, catalogue, backend="duckdb" if kind == "duckdb" else "arrays")
    features.batch(few, replace(inputs, interactions=events.where(events.time < few.now[-1])))
    started, cpu = time.perf_counter(), time.process_time()
    table = features.batch(rows, inputs)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "millions": millions,
        "columns": table.shape[1],
        "rows": table.shape[0],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "data_gb": before,
    }


FEAST = '''
import json, sys, time
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Int64
folder = sys.argv[1]
open(f"{folder}/feature_store.yaml", "w").write(f"""
project: bench
registry: {folder}/registry.db
provider: local
online_store: {{type: sqlite, path: {folder}/online.db}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
""")
store = FeatureStore(folder)
item = Entity(name="item", join_keys=["item"])
names = [c for c in pd.read_parquet(f"{folder}/cells.parquet").columns if c.startswith("c_")]
view = FeatureView(name="counts", entities=[item], ttl=timedelta(days=400),
                   schema=[Field(name=n, dtype=Int64) for n in names],
                   source=FileSource(path=f"{folder}/cells.parquet", timestamp_field="event_timestamp"))
store.apply([item, view])
rows = pd.read_parquet(f"{folder}/rows.parquet")
started, cpu = time.perf_counter(), time.process_time()
found = store.get_historical_features(rows, [f"counts:{n}" for n in names]).to_df()
cpu = time.process_time() - cpu
found = found.sort_values(["event_timestamp", "item"], kind="stable")
print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": cpu, "rows": len(found),
                  "sums": [int(found[n].sum()) for n in names]}))
'''


def feast(python: str, n_rows: int) -> dict[str, Any]:
    """Feast and we on the same rows: the item counters of an hour joined as of a time."""
    events, catalogue = world(n_rows)
    features = FeatureSet([WindowCount("item", "", w) for w in (DAY, 7 * DAY, 0)])
    rows, inputs = rows_of(events), BatchInputs(events, catalogue)
    features.batch(rows, inputs)
    started, cpu = time.perf_counter(), time.process_time()
    ours = features.batch(rows, inputs)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_for_feast(folder, events, catalogue, features)
        if not python:
            venv.create(folder / "venv", with_pip=True)
            python = str(folder / "venv" / "bin" / "python")
            subprocess.run([python, "-m", "pip", "install", "-q", "feast"], check=True)
        (folder / "peer.py").write_text(FEAST)
        done = subprocess.run(
            [python, folder / "peer.py", folder], check=True, capture_output=True, text=True
        )
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    assert theirs["sums"] == ours.astype(np.int64).sum(axis=0).tolist(), "they joined the same"
    return {"seconds": seconds, "cpu_seconds": cpu, "theirs": theirs, "rows": theirs["rows"]}


def _write_for_feast(
    folder: Path, events: "Interactions", catalogue: "Catalogue", features: "FeatureSet"
) -> None:
    """The counters as of the start of every hour in which an item has events or rows, and rows.

    Feast joins what somebody computed; the counting itself is given to it for nothing.
    """
    hours = np.unique(np.stack([events.item, events.time // HOUR]), axis=1)
    n = hours.shape[1]
    cells = Rows(
        np.arange(n + 1),
        np.zeros(n, np.int32),
        hours[1] * HOUR,
        np.full(n, ANY_POSITION),
        hours[0].astype(np.int32),
        {},
        events.histories(),
    )
    counted = features.batch(cells, BatchInputs(events, catalogue)).astype(np.int64)
    stamp = pa.timestamp("us", "UTC")
    columns = {"item": hours[0], "event_timestamp": pa.array(hours[1] * HOUR, stamp)}
    columns |= {f"c_{i}": counted[:, i] for i in range(counted.shape[1])}
    pq.write_table(pa.table(columns), folder / "cells.parquet")
    rows = {"item": events.item, "event_timestamp": pa.array(events.time, stamp)}
    pq.write_table(pa.table(rows), folder / "rows.parquet")


def table(kind: str, sizes: list[float]) -> None:
    """Print one kind of table at several sizes, each in a process of its own."""
    print(f"{kind}: million events   columns   wall s   CPU s   events/CPU s   peak GB   per event")
    first = None
    for millions in sizes:
        command = [sys.executable, __file__, "--one", str(millions), "--kind", kind]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        found = json.loads(done.stdout)
        each = found["cpu_seconds"] / millions
        first = first or each
        print(
            f"{millions:>{len(kind) + 16}g} {found['columns']:>9} {found['seconds']:>8.1f}"
            f" {found['cpu_seconds']:>7.2f} {millions * 1e6 / found['cpu_seconds']:>14,.0f}"
            f" {found['peak_gb']:>9.2f} {each / first:>11.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, nargs="*", default=[1, 5, 20])
    parser.add_argument("--sql", action="store_true", help="count by SQL in DuckDB, too")
    parser.add_argument("--whole", action="store_true", help="the whole default set, too")
    parser.add_argument("--feast", nargs="?", const="", metavar="PYTHON", help="beside Feast")
    parser.add_argument("--feast-rows", type=int, default=FEAST_ROWS, help="rows Feast joins")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="arrays", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args.kind)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for kind in ("arrays", *(["duckdb"] if args.sql else []), *(["whole"] if args.whole else [])):
        if args.millions:
            table(kind, args.millions)
    if args.feast is not None:
        found = feast(args.feast, args.feast_rows)
        theirs = found["theirs"]
        print(
            f"{found['rows']:,} rows, 3 counters, CPU s (wall s): ours with the counting "
            f"{found['cpu_seconds']:.3f} ({found['seconds']:.3f}), Feast's join alone "
            f"{theirs['cpu_seconds']:.2f} ({theirs['seconds']:.2f}), ratio "
            f"{theirs['cpu_seconds'] / found['cpu_seconds']:.0f}"
        )


if __name__ == "__main__":
    main()
