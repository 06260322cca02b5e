"""Events, impressions and shown items that `recsys generate` writes per CPU second, and its memory.

    python benchmarks/generate.py [--users 100000] [--items 20000] [--days 5]

Runs in this process, on one core; the first day of a small world, which loads and compiles, is not
counted. There is no peer: none of the generators known to us writes propensities and texts.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from recsys.ingestion.generator import generate, settings_of
from recsys.storage.progress import Reporter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        quiet = Reporter(quiet=True)
        generate(settings_of(users=100, items=50, days=1), Path(name) / "small", quiet)
        started, cpu = time.perf_counter(), time.process_time()
        settings = settings_of(users=args.users, items=args.items, days=args.days)
        counts = generate(settings, Path(name) / "log", quiet)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        size = sum(f.stat().st_size for f in (Path(name) / "log").rglob("*") if f.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{counts['events']:,} events, {counts['impressions']:,} impressions, {size / 1e6:,.0f} MB"
    )
    print(f"CPU {cpu:.1f} s, wall {seconds:.1f} s, peak {peak:.2f} GB")
    print(f"{counts['events'] / cpu * 60 / 1e6:.1f} million events per CPU minute (aim: millions)")


if __name__ == "__main__":
    main()
