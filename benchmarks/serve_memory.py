"""Memory of the whole service on a large release, and how much of it workers share.

    python benchmarks/serve_memory.py [--users 1000000] [--items 1000000] [--events 5000000]
                                      [--release DIR] [--workers 1,4]

Makes a synthetic release (see `release.py`; kept and used again with `--release`), serves it with 1
and with 4 workers, asks for lists of many users, and prints the time until ready, the proportional
set size (a page shared by n processes counts 1/n for each, so that the sum is what the machine
needs), what is private to the workers, and the time of ranking 100 candidates and of recommending.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from serve import (  # noqa: E402
    BODIES,
    Peer,
    drive,
    family,
    free_port,
    prepare,
    rank_bodies,
    service,
    stop,
    wait_ready,
)

SECONDS = 5


def work(folder: Path, sock: Any, endpoint: Any) -> None:
    """One worker."""
    from recsys.serving.server import run_worker

    run_worker(service(folder, folder / "log.sqlite"), sock, endpoint)


def serve(folder: Path, port: int, workers: int) -> int:
    from recsys.serving.server import Endpoint, bind, supervise

    endpoint = Endpoint(port=port)
    with bind(endpoint, has_keys=False) as sock:
        return supervise(work, (folder, sock, endpoint), workers)


def measure(folder: Path, items: int, users: int, workers: int) -> None:
    port = free_port()
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", str(port)]
    command += ["--release", str(folder), "--workers", str(workers)]
    began = time.monotonic()
    process = subprocess.Popen(command)
    key = (folder / "key").read_text()
    peer = Peer("ours", process, port, "/v1/rank", "/readyz", [], key)
    try:
        wait_ready(peer, seconds=600)
        ready = time.monotonic() - began
        for path, bodies in (
            ("/v1/rank", rank_bodies(100, items, users)),
            ("/v1/recommend", recommend_bodies(users)),
        ):
            peer.path, peer.bodies = path, bodies
            drive(peer, 4 * workers, SECONDS)
            row = drive(peer, 1, SECONDS)
            print(
                f"  {path}: p50 {row['p50']:.1f} ms, p99 {row['p99']:.1f} ms, "
                f"{row['cpu_ms']:.1f} ms of processor time, {row['failed']:.0f} failed"
            )
        memory = [p.memory_full_info() for p in family(peer)]
        pss, uss = sum(m.pss for m in memory) / 1e6, sum(m.uss for m in memory) / 1e6
        print(
            f"{workers} worker(s): ready in {ready:.1f} s, {pss:,.0f} MB together, of which "
            f"{uss:,.0f} MB not shared",
            flush=True,
        )
    finally:
        stop(peer)


def recommend_bodies(users: int) -> list[bytes]:
    draw = np.random.default_rng(2)
    return [
        json.dumps({"user_id": f"user-{draw.integers(users)}", "k": 10}).encode()
        for _ in range(BODIES)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--release", type=Path, help="folder of the release; made there if empty")
    parser.add_argument("--workers", default="1,4")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        return serve(args.release, args.serve, int(args.workers))
    folder = args.release or Path(tempfile.mkdtemp(prefix="recsys-large-"))
    try:
        began = time.monotonic()
        prepare(folder, args.items, args.users, args.events)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
        print(f"{args.users:,} users, {args.items:,} items, {args.events:,} events")
        print(f"{size:,.0f} MB on disk, made in {time.monotonic() - began:.0f} s", flush=True)
        for workers in args.workers.split(","):
            measure(folder, args.items, args.users, int(workers))
    finally:
        if args.release is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
