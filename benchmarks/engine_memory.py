"""What Spark's executors need beside the mapped folders while they make lists.

    python benchmarks/engine_memory.py WORKSPACE/recsys.yaml [--limit 3000] [--executors 2] [--cores 1]
        [--users FILE]

`recsys recommend` runs on `local-cluster[EXECUTORS,CORES,…]`, 900 MB for each executor's JVM, with
`spark.executor.pyspark.memory` at the limit; its Python workers and executors are looked at twenty times a
second, and the largest figures of any of them are printed: what is resident and its own, what is resident and
mapped from files, and the address space, which is what Spark's limit is held against; and the digest of the lists,
to be held against that of the same command without Spark. The exit code is 1 where the command fails.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

FIELDS = {"own": "RssAnon", "mapped": "RssFile", "resident": "VmHWM", "address space": "VmPeak"}
WHO = {"Python worker": "pyspark.daemon", "executor (JVM)": "CoarseGrainedExecutorBackend"}


def status(pid):
    """kB by field of /proc/PID/status."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    cells = (line.split() for line in lines)
    return {row[0].rstrip(":"): int(row[1]) for row in cells if len(row) == 3 and row[2] == "kB"}


def look(process, largest):
    """Raise `largest` to what a command's processes hold now."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        for who, words in WHO.items():
            if words in line:
                found = status(child.pid)
                for name, field in FIELDS.items():
                    key = (who, name)
                    largest[key] = max(largest.get(key, 0), found.get(field, 0) / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--limit", type=int, default=3000, help="spark.executor.pyspark.memory, MB")
    parser.add_argument("--executors", type=int, default=2)
    parser.add_argument("--cores", type=int, default=1, help="of each executor")
    parser.add_argument("--users", type=Path, help="whose lists are made; everybody's when absent")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsys-engine-") as place:
        folder = Path(place)
        conf = {
            "spark.executor.memory": "900m",
            "spark.executor.pyspark.memory": f"{args.limit}m",
            "spark.executorEnv.RECSYS_NODE_CACHE": str(folder / "node"),
        }
        # An executor is only started where both fit.
        shape = f"{args.executors},{args.cores},{900 + args.limit}"
        environment = os.environ | {
            "RECSYS__ENGINE__KIND": "spark",
            "RECSYS__ENGINE__SPARK__MASTER": f"local-cluster[{shape}]",
            "RECSYS__ENGINE__SPARK__CONF": json.dumps(conf),
            "RECSYS__ENGINE__SCRATCH": str(folder / "scratch"),
            "RECSYS__ENGINE__PARTS": "12",
        }
        out = folder / "lists.parquet"
        command = [sys.executable, "-m", "recsys", "recommend", "-c", str(args.config)]
        command += ["--out", str(out)]
        command += ["--users", str(args.users)] if args.users else []
        log = (folder / "log").open("wb")
        began, largest = time.monotonic(), {}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            look(process, largest)
            time.sleep(0.05)
        copies = sum(f.stat().st_size for f in (folder / "node").rglob("*") if f.is_file())
        print(
            f"limit {args.limit} MB, exit code {process.returncode}, {time.monotonic() - began:.0f} s"
        )
        print(f"mapped folders: {copies / 1e6:.0f} MB on the disk")
        if out.exists():
            print(f"lists: sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}")
        for who in WHO:
            told = ", ".join(f"{name} {largest.get((who, name), 0):,.0f} MB" for name in FIELDS)
            print(f"{who}: {told}")
        if process.returncode:
            print((folder / "log").read_text(errors="replace")[-3000:])
    return 1 if process.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
