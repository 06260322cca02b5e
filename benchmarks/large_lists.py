"""Lists over a state of tens of millions of events: are Spark's the bytes of one machine?

    python benchmarks/large_lists.py FOLDER [--events 20000000] [--users 2000000] [--items 100000] [--asked 1000]

A synthetic release is written to FOLDER, unless it lies there, and registered. `recsys recommend` then makes lists
of 100 for users drawn at random, in a process of this machine and with `engine.kind: spark` (`local[2]`). Printed:
bytes of release and state, and of each run wall time, processor time and the largest private memory of any of
its Python processes. The exit code is 1 where the files differ.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

SPARK = {"RECSYS__ENGINE__KIND": "spark", "RECSYS__ENGINE__SPARK__MASTER": "local[2]"}
PARTS = "4"


def make(folder: Path, events: int, users: int, items: int) -> Path:
    """The config of a workspace whose champion is the release; one that is there is used again."""
    from synthetic_release import make_release

    from recsys.data_schemas.config import load_config
    from recsys.storage.registry import Registry
    from recsys.storage.workspace import Workspace

    config_file = folder / "recsys.yaml"
    if config_file.exists():
        return config_file
    folder.mkdir(parents=True)
    aside = folder / "aside.yaml"
    aside.write_text("data: {items: items.parquet, events: events.parquet}\n")
    config = load_config(aside)
    workspace = Workspace(config.workspace_path)
    made = folder / "release"
    made.mkdir()
    release = make_release(made, items, users, events)
    registry = Registry(config)
    registry.promote(registry.register(release.bundle, {"gate": "ok"}, {}), "the first")
    workspace.state.mkdir(parents=True, exist_ok=True)
    release.state.rename(workspace.state / "night")
    workspace.current_state.write_text(json.dumps({"snapshot": "night"}))
    for what, place in (("release", release.bundle), ("state", workspace.state / "night")):
        size = sum(f.stat().st_size for f in place.rglob("*") if f.is_file())
        print(f"{what}: {size / 1e6:,.0f} MB", flush=True)
    aside.rename(config_file)
    return config_file


def draw(file: Path, users: int, asked: int) -> Path:
    """Some users' ids."""
    numbers = random.Random(0).sample(range(users), asked)
    pq.write_table(pa.table({"user_id": [f"user-{n}" for n in numbers]}), file)
    return file


def run(config: Path, users: Path, out: Path, settings: dict[str, str]) -> str:
    """Make the lists; what it cost, in words.

    Raises:
        SystemExit: the command failed.
    """
    command = [sys.executable, "-m", "recsys", "recommend", "-c", str(config), "--k", "100"]
    command += ["--users", str(users), "--out", str(out)]
    began, private, seconds = time.monotonic(), 0.0, {}
    with out.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=os.environ | {"RECSYS__ENGINE__PARTS": PARTS} | settings,
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            for child in _tree(process.pid):
                try:
                    if "python" in child.name():
                        private = max(private, _private_mb(child.pid))
                    seconds[child.pid] = sum(child.cpu_times()[:2])
                except (psutil.Error, OSError):
                    continue
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(out.with_suffix(".log").read_text(errors="replace")[-3000:])
    return (
        f"{time.monotonic() - began:.0f} s, {sum(seconds.values()):.0f} s of processor, "
        f"a Python process at most {private:,.0f} MB of its own"
    )


def _tree(pid: int) -> list[psutil.Process]:
    try:
        own = psutil.Process(pid)
        return [own, *own.children(recursive=True)]
    except psutil.Error:
        return []


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=1_000)
    args = parser.parse_args()
    config = make(args.folder, args.events, args.users, args.items)
    users = draw(args.folder / "users.parquet", args.users, args.asked)
    made = []
    for name, settings in (("here", {"RECSYS__ENGINE__KIND": "local"}), ("spark", SPARK)):
        out = args.folder / f"{name}.parquet"
        print(f"{name}: {run(config, users, out, settings)}", flush=True)
        made.append(out.read_bytes())
    same = made[0] == made[1]
    print(f"lists of {args.asked:,} users: {'the same bytes' if same else 'OTHER BYTES'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
