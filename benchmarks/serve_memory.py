"""Memory of the online state, and how much of it workers share.

    python benchmarks/serve_memory.py [--users 1000000] [--items 1000000] [--events 5000000]

Builds a snapshot, opens it in 1 and in 4 processes, and reads in each what ranking 2,000 users would:
histories, and all counters of 100 candidates. Prints the time to open, and the proportional set size
(a page shared by n processes counts 1/n for each), so that the sum is what the machine needs.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from online_state import START, world  # noqa: E402

from features.interactions import DAY, HOUR  # noqa: E402
from features.state import OnlineState  # noqa: E402

READS = 2000
CANDIDATES = 100


def worker(folder: str, users: int, seed: int, pipe: Connection) -> None:
    """Open, read, say how long it took, and stay until told to go."""
    began = time.perf_counter()
    state = OnlineState.open(Path(folder))
    opened = time.perf_counter() - began
    rng = np.random.default_rng(seed)
    now = START + 61 * DAY
    kinds = np.arange(len(state.kinds), dtype=np.int16)
    widths = np.array([DAY, 7 * DAY], np.int64)
    for _ in range(READS):
        state.history(f"user-{rng.integers(users)}", now)
        items = rng.integers(0, state.catalogue.n_items, CANDIDATES).astype(np.int32)
        state.counters(now).read("item", items, kinds, widths)
    pipe.send(opened)
    pipe.recv()


def measure(folder: Path, users: int, workers: int, imports_mb: float) -> None:
    context = multiprocessing.get_context("spawn")
    running = []
    for seed in range(workers):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(str(folder), users, seed, there))
        process.start()
        there.close()
        running.append((process, here))
    opened = max(pipe.recv() for _, pipe in running)
    memory = [psutil.Process(process.pid).memory_full_info() for process, _ in running]
    pss, uss = sum(m.pss for m in memory) / 1e6, sum(m.uss for m in memory) / 1e6
    print(
        f"{workers} worker(s): opened in {opened:.2f} s, {pss:,.0f} MB together, of which "
        f"{uss:,.0f} MB not shared (an interpreter with our imports: {imports_mb:,.0f} MB)",
        flush=True,
    )
    for process, pipe in running:
        pipe.send(None)
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    args = parser.parse_args()
    imports_mb = psutil.Process().memory_full_info().uss / 1e6
    with tempfile.TemporaryDirectory(prefix="recsys-state-") as place:
        folder = Path(place) / "state"
        made, catalogue = world(args.events, args.users, args.items)
        state = OnlineState.build(
            made, catalogue, bucket_us=HOUR, windows_us=[DAY, 7 * DAY], log_position=-1
        )
        state.save(folder)
        del made, catalogue, state
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        print(f"{args.users:,} users, {args.items:,} items, {args.events:,} events")
        print(f"snapshot {size:,.0f} MB on disk", flush=True)
        for workers in (1, 4):
            measure(folder, args.users, workers, imports_mb)


if __name__ == "__main__":
    sys.exit(main())
