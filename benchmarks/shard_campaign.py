"""Two workers on two shards that share nothing but a registry, a store and a PostgreSQL log; one is killed.

    python benchmarks/shard_campaign.py postgresql://me@127.0.0.1 [--events 5000000] [--every 500000]
        [--items 20000] [--users 200000] [--store s3://bucket/shop] [--keep FOLDER]

A synthetic release is registered and its state published in two shards. Two `recsys serve --shards` are started on
empty disks. Clients post events to both while one of them is killed and started again with its disk deleted;
then events are written to the log until there are as many as asked for, with `recsys snapshot` every so many. In the
end every acknowledged event is looked for in the log, and persons are asked for at their own shard and at the wrong
one. Two databases, of registry and log, are made on the server. Prints each worker's private memory, before and after
every snapshot. The exit code is 1 where something is missing.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.append(str(Path(__file__).resolve().parent))

from small_shop import PATIENCE, Posters, Service, item_ids, recsys

SHARDS = 2
LOT = 4000
"""Events written to the log at a time."""


class ShardWorker(Service):
    """`recsys serve` of one shard, with a disk of its own."""

    def __init__(self, folder: Path, settings: dict[str, Any], shard: int) -> None:
        folder.mkdir(parents=True)
        config = folder / "recsys.yaml"
        config.write_text(json.dumps(settings))
        super().__init__(config)
        self.shard = shard

    def start(self) -> None:
        command = [sys.executable, "-m", "recsys", "serve", "-c", str(self.config)]
        command += ["--port", str(self.port), "--shards", f"{self.shard}/{SHARDS}"]
        environment = os.environ | {"RECSYS_NODE_CACHE": str(self.disk)}
        with (self.config.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment
            )

    @property
    def disk(self) -> Path:
        """Where its copies of snapshots lie."""
        return self.config.parent / "copies"

    def lose_disk(self) -> None:
        """Delete all that it has fetched."""
        for folder in (self.disk, self.config.parent / "work"):
            shutil.rmtree(folder, ignore_errors=True)

    def private_mb(self) -> float:
        """Memory of its own, without what it maps from files."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kb = next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]
        return int(kb) / 1024

    def snapshot(self) -> str:
        """The snapshot that it serves, by its log."""
        told = (self.config.parent / "serve.log").read_text(errors="replace").splitlines()
        lines = [line for line in told if '"event":"champion"' in line.replace(" ", "")]
        return str(json.loads(lines[-1])["snapshot"]) if lines else ""


def databases(server: str) -> tuple[str, str]:
    """Addresses of two new databases: for the registry and for the log."""
    import psycopg

    made = []
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        for use in ("registry", "log"):
            name = f"shards_{use}_{uuid4().hex[:12]}"
            connection.execute(f"CREATE DATABASE {name}")
            made.append(f"{server}/{name}")
    return made[0], made[1]


def make_shop(folder: Path, settings: dict[str, Any], items: int, users: int) -> Path:
    """The machine of the nights: a registered release, and its state, published."""
    from synthetic_release import make_release

    from recsys.data_schemas.config import load_config
    from recsys.features.published_state import publish_state
    from recsys.features.state import OnlineState
    from recsys.storage.eventlog import log_address, open_log
    from recsys.storage.registry import Registry
    from recsys.storage.workspace import Workspace

    config_file = folder / "recsys.yaml"
    config_file.write_text(json.dumps(settings))
    config = load_config(config_file)
    (folder / "release").mkdir()
    release = make_release(folder / "release", items, users, 5 * users)
    registry = Registry(config)
    registry.promote(registry.register(release.bundle, {"gate": "ok"}, {}), "the first")
    workspace = Workspace(config.workspace_path)
    with open_log(log_address(config)) as log:
        state = OnlineState.open(release.state)
        state.log_mark = log.mark()
        state.log_position = log.last_position()
        state.save(workspace.state / "night")
    workspace.current_state.write_text(json.dumps({"snapshot": "night"}))
    publish_state(config, workspace.state / "night")
    return config_file


def killed_under_load(workers: list[ShardWorker], seconds: float) -> list[str]:
    """Post to both, kill one, let it come back on an empty disk; ids of what was acknowledged."""
    items = item_ids(workers[0])
    posters = [Posters(worker, items, 2, 25, repeat=True) for worker in workers]
    with posters[0], posters[1]:
        time.sleep(seconds)
        workers[1].kill()
        workers[1].lose_disk()
        time.sleep(seconds / 2)
        began = time.monotonic()
        workers[1].start()
        workers[1].wait()
        print(
            f"killed; ready again on an empty disk after {time.monotonic() - began:.1f} s",
            flush=True,
        )
        time.sleep(seconds)
    refused = Counter[int]()
    for poster in posters:
        refused.update(poster.refused)
    print(f"posts not accepted, and sent again: {dict(refused)} by status (0: no answer)")
    return [event for poster in posters for _, event in poster.accepted]


def grow(
    config_file: Path,
    workers: list[ShardWorker],
    items: list[str],
    events: int,
    every: int,
    users: int,
) -> list[list[float]]:
    """Write events to the log, a snapshot every so many; private MB of the workers after each."""
    from recsys.data_schemas.config import load_config
    from recsys.storage.eventlog import log_address, open_log
    from recsys.storage.eventlog.log import event_write, now_us

    draw, rows = random.Random(1), []
    with open_log(log_address(load_config(config_file))) as log:
        for start in range(0, events, every):
            for low in range(start, min(start + every, events), LOT):
                now = now_us()
                lot = [
                    {
                        "user_id": f"user-{draw.randrange(users)}",
                        "item_id": draw.choice(items),
                        "event_type": "view",
                        "timestamp": now,
                        "event_id": f"grown-{n}",
                    }
                    for n in range(low, min(low + LOT, start + every, events))
                ]
                log.submit([event_write(event) for event in lot]).result()
            followed(workers, log.last_position())
            before = [worker.private_mb() for worker in workers]
            said = recsys("snapshot", "-c", str(config_file)).stdout
            name = said.split()[-1]
            wait_for(lambda name=name: all(worker.snapshot() == name for worker in workers))
            followed(workers, log.last_position())
            after = [worker.private_mb() for worker in workers]
            rows.append(after)
            told = ", ".join(f"{b:.0f} → {a:.0f}" for b, a in zip(before, after, strict=True))
            print(
                f"{min(start + every, events):>10,} events: private MB of the workers {told}",
                flush=True,
            )
    return rows


def followed(workers: list[ShardWorker], position: int) -> None:
    """Until the workers have folded what lies up to a position."""

    def done(worker: ShardWorker) -> bool:
        status, told = worker.ask("GET", "/v1/ops")
        behind = told["log"].get("records_behind", {}) if status == 200 else {}
        return bool(behind) and max(behind.values()) <= 0

    wait_for(lambda: all(done(worker) for worker in workers))


def wait_for(condition: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("the workers did not get there in time")
        time.sleep(0.2)


def misplaced(workers: list[ShardWorker], users: list[str]) -> list[str]:
    """What is wrong with the answers about some persons, at their shard and at the other one."""
    from recsys.data_schemas.shards import shard_of

    wrong = []
    for user in users:
        for worker in workers:
            status, told = worker.ask("GET", f"/v1/users/{user}")
            _, listed = worker.ask("POST", "/v1/recommend", {"user_id": user, "k": 3})
            marks = [told.get("degraded", []), listed.get("degraded", [])]
            right = worker.shard == shard_of(user, SHARDS)
            if marks != ([[], []] if right else [["wrong_shard"], ["wrong_shard"]]):
                wrong.append(f"{user} at shard {worker.shard}: {status}, {marks}")
            if right and not told.get("events"):
                wrong.append(f"{user} at shard {worker.shard}: no events")
    return wrong


def campaign(
    server: str,
    folder: Path,
    events: int,
    every: int,
    items: int,
    users: int,
    store: str,
    seconds: float,
) -> list[str]:
    """The whole campaign; what was found wrong."""
    from recsys.data_schemas.config import load_config
    from recsys.storage.eventlog import log_address, open_log

    registry, log_uri = databases(server)
    settings = {
        "data": {"items": "none", "events": "none"},
        "tracking": {"uri": registry, "artifacts": f"{store}/models"},
        "serving": {"log": log_uri, "store": f"{store}/serving", "shards": SHARDS},
    }
    config_file = make_shop(folder, settings, items, users)
    workers = [ShardWorker(folder / f"worker-{n}", settings, n) for n in range(SHARDS)]
    try:
        for worker in workers:
            worker.start()
        print(
            "ready on empty disks after " + ", ".join(f"{w.wait():.1f} s" for w in workers),
            flush=True,
        )
        acknowledged = killed_under_load(workers, seconds)
        names = item_ids(workers[0])
        memory = grow(config_file, workers, names, events, every, users)
        wrong = misplaced(workers, [f"campaign-{n}" for n in range(20)])
    finally:
        for worker in workers:
            worker.stop()
    kept: Counter[str] = Counter()
    with open_log(log_address(load_config(config_file))) as log:
        after = 0
        while records := log.read(after, 20_000):
            after = records[-1].position
            kept.update(r.payload["event_id"] for r in records if r.kind == "event")
    wrong += [f"lost: {event}" for event in set(acknowledged) - kept.keys()]
    wrong += [f"twice: {event}" for event, count in kept.items() if count > 1]
    grown = sum(event.startswith("grown-") for event in kept)
    wrong += [f"only {grown} of {events} events in the log"] if grown != events else []
    print(
        f"{len(acknowledged):,} events acknowledged by the workers, {sum(kept.values()):,} in the log"
    )
    half = max(1, len(memory) // 2)
    early, late = max(map(max, memory[:half])), max(map(max, memory[half:] or memory))
    print(
        f"private MB after a snapshot, at most: {early:.0f} in the first half, {late:.0f} in the second"
    )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("server", help="address of a PostgreSQL server, without a database")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--every", type=int, default=500_000, help="events between two snapshots")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument(
        "--store", help="folder or s3:// address; a folder of the campaign when absent"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of load before and after the kill"
    )
    parser.add_argument("--keep", type=Path, help="where everything lies, and stays")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="recsys-shards-"))
    folder.mkdir(parents=True, exist_ok=True)
    store = args.store or str(folder / "store")
    wrong = campaign(
        args.server, folder, args.events, args.every, args.items, args.users, store, args.seconds
    )
    for line in wrong[:20]:
        print(line)
    print("nothing is lost, twice or misplaced" if not wrong else f"{len(wrong)} faults")
    if args.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
