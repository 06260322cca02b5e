"""Checking, numbering and writing tables: ours beside the same rules written with pandas.

    python benchmarks/ingest_tables.py [--events 20000000] [--items 200000] [--users 1000000] [--folder DIR]

Makes generated tables (1 % of the events break a rule), then runs each side in a process of its own
and prints wall time, processor time and the largest memory. Both set the same rows aside; the run
fails if they do not.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

CONFIG = "data: {items: items.parquet, events: events.parquet}\n"
KEYS = ["user_id", "item_id", "event_type", "timestamp"]


def make(folder: Path, events: int, items: int, users: int) -> None:
    """Items, and events with unknown items, blank users, times in the future and repeats."""
    import duckdb

    (folder / "recsys.yaml").write_text(CONFIG, encoding="utf-8")
    duckdb.sql("SET TimeZone = 'UTC'")
    duckdb.sql(
        f"COPY (SELECT 'i' || range AS item_id, 'item number ' || range AS title FROM range({items}))"
        f" TO '{folder}/items.parquet'"
    )
    # Everything of a row is a function of k, so that a k met again is an identical row.
    duckdb.sql(
        f"COPY (SELECT CASE WHEN k % 400 = 1 THEN ' ' ELSE 'u' || hash(k) % {users} END AS user_id,"
        " CASE WHEN k % 400 = 2 THEN 'nowhere' ELSE"
        f" 'i' || CAST(floor({items} * pow(hash(k + 1) / pow(2, 64), 2)) AS BIGINT) % {items} END"
        " AS item_id, 'click' AS event_type, to_timestamp(CASE WHEN k % 400 = 3 THEN 32503680000"
        " ELSE 1600000000 + k END) AS timestamp FROM (SELECT CASE WHEN range % 400 = 4"
        f" THEN range - 4 ELSE range END AS k FROM range({events}))) TO '{folder}/events.parquet'"
    )


def ours(folder: Path) -> int:
    """Rows set aside by `recsys.ingestion.tables`."""
    from recsys.data_schemas.config import load_config
    from recsys.ingestion.tables.ingest import ingest

    summary = ingest(load_config(folder / "recsys.yaml"), folder / "out")
    return int(summary["tables"]["events"]["quarantined"])


def pandas(folder: Path) -> int:
    """Rows set aside by the same rules in pandas, and the rest numbered, sorted and written."""
    import pandas as pd

    items = pd.read_parquet(folder / "items.parquet")
    events = pd.read_parquet(folder / "events.parquet")
    kept = (
        (events.user_id.str.strip() != "")
        & events.item_id.isin(items.item_id)
        & (events.timestamp <= pd.Timestamp.now("UTC"))
    )
    kept &= ~events.duplicated(KEYS) | ~kept
    good = events[kept].sort_values("timestamp", kind="stable")
    good["user_index"] = good.user_id.astype("category").cat.codes
    good["item_index"] = pd.Index(items.item_id).get_indexer(good.item_id)
    good.to_parquet(folder / "pandas.parquet", compression="zstd")
    events[~kept].to_parquet(folder / "quarantine.parquet")
    return int((~kept).sum())


def measure(name: str, folder: Path) -> int:
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--side", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    aside, peak = map(int, done.stdout.split())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{name:8} {time.monotonic() - began:7.1f} s wall  {cpu:7.1f} s of processors"
        f"  {peak / 1e6:6.2f} GB at most  {aside:,} rows set aside",
        flush=True,
    )
    return aside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--side", choices=("ours", "pandas"))
    args = parser.parse_args()
    if args.side:
        aside = {"ours": ours, "pandas": pandas}[args.side](args.folder)
        print(aside, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        folder = Path(place)
        make(folder, args.events, args.items, args.users)
        print(f"{args.events:,} events, {args.items:,} items, {args.users:,} users")
        found = {measure(name, folder) for name in ("ours", "pandas")}
    if len(found) > 1:
        print("the two sides disagree on the rows")
    return len(found) - 1


if __name__ == "__main__":
    sys.exit(main())
