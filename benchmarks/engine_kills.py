"""SIGKILL to parts of Spark while it makes lists: are they the bytes of one machine, at last?

    python benchmarks/engine_kills.py WORKSPACE/recsys.yaml [--rounds 2] [--evaluate EVENTS.parquet]

`recsys recommend`, or `recsys evaluate` on later events, runs once in processes of this machine, then on a
Spark of two executors that share no folder but scratch (`local-cluster[2,1,1200]`): once undisturbed, and in
each round with a Python worker, an executor's JVM, an executor with its machine's copy of the release, and the
driver killed in turn. A command that fails is given once more. The exit code is 1 where a file differs, nothing
was there to be killed, or files of the run are left in scratch.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PARTS = 12
PATIENCE = 600


def start(config, out, folder, spark, events):
    settings = {}
    if spark:
        settings = {
            "RECSYS__ENGINE__KIND": "spark",
            "RECSYS__ENGINE__SPARK__MASTER": "local-cluster[2,1,1200]",
            "RECSYS__ENGINE__SPARK__CONF": '{"spark.executor.memory": "1200m"}',
            "RECSYS_NODE_CACHE": str(folder / "node"),
        }
    environment = (
        os.environ
        | settings
        | {
            "RECSYS__ENGINE__SCRATCH": str(folder / "scratch"),
            "RECSYS__ENGINE__PARTS": str(PARTS),
        }
    )
    what = ["evaluate", "--events", str(events)] if events else ["recommend"]
    command = [sys.executable, "-m", "recsys", *what, "-c", str(config), "--out", str(out)]
    log = out.with_suffix(".log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def bytes_of(out, events):
    """What the command wrote, but for when an evaluation was made."""
    if not events:
        return out.read_bytes()
    tree = json.loads((out / "report.json").read_text())
    del tree["context"]["created_at"]
    return (out / "report.parquet").read_bytes() + json.dumps(tree).encode()


def below(process, words):
    """Processes that a command has started whose command line holds the words."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if words in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def made(folder):
    return {p: p.stat().st_mtime_ns for p in (folder / "scratch").rglob("made-*.parquet")}


def kill(process, folder, what):
    """Kill a part once the first lists are there; whether there was one to kill."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if len(made(folder)) >= 2:
            break
        time.sleep(0.02)
    if process.poll() is not None:
        return False
    if what == "driver":
        process.send_signal(signal.SIGKILL)
        return True
    words = "pyspark.daemon" if what == "Python worker" else "CoarseGrainedExecutorBackend"
    victims = below(process, words)
    if what == "Python worker":
        victims = [child for daemon in victims for child in daemon.children()] or victims
    if what == "executor and copy":
        shutil.rmtree(folder / "node", ignore_errors=True)
    if victims:
        victims[0].kill()
    return bool(victims)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--evaluate", type=Path, help="later events")
    args = parser.parse_args()
    failed, events = 0, args.evaluate
    with tempfile.TemporaryDirectory(prefix="recsys-engine-") as place:
        folder = Path(place)
        assert start(args.config, folder / "here.parquet", folder, False, events).wait() == 0
        wanted = bytes_of(folder / "here.parquet", events)
        turns = [
            "nothing",
            *["Python worker", "executor", "executor and copy", "driver"] * args.rounds,
        ]
        for turn, what in enumerate(turns):
            out, began = folder / f"{turn}.parquet", time.monotonic()
            process = start(args.config, out, folder, True, events)
            hit = what == "nothing" or kill(process, folder, what)
            tries, before = 1, {}
            if process.wait() != 0:
                # Executors end by themselves when their driver is gone.
                time.sleep(2)
                before, tries = made(folder), 2
                if start(args.config, out, folder, True, events).wait() != 0:
                    raise SystemExit(f"{what}: {out.with_suffix('.log').read_text()[-2000:]}")
            same = bytes_of(out, events) == wanted
            failed += not (same and hit)
            left = [p for p in (folder / "scratch" / "lists").rglob("*") if p.is_file()]
            failed += bool(left)
            print(
                f"{what}: {'killed, ' if hit and what != 'nothing' else ''}{tries} command(s), "
                f"{len(before)} of {PARTS} parts kept, {time.monotonic() - began:.0f} s, "
                f"{'the same bytes' if same else 'OTHER BYTES'}, {len(left)} files left",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
