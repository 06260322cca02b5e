"""A log that is replaced under load, again and again: is it refused, and is anything acknowledged lost?

    python benchmarks/log_replacements.py [--rounds 20] [--clients 4] [--shop FOLDER] [--seed 1]

Clients post events to `recsys serve` on loopback. In each round, after the log was drained and the
snapshot renewed as a night does, the log is replaced in one of these ways, in random order:

- deleted: the files of SQLite are removed under the running service;
- restored: an earlier backup is put in the place of the file under the running service;
- restored while stopped: the same, with the service stopped and started again;
- moved: from SQLite to PostgreSQL, with the service stopped and started again;
- replica: PostgreSQL goes back to where a lagging replica stood, under the running service;
- replica with writes: the same with the service stopped, and somebody else wrote there before it
  came back.

What counts: after it the service refuses (503, not ready), or goes on without loss. Then `recsys log
adopt` is called, the service is started again, and takes events. After each drain, and in the end, every
event that was acknowledged must be found in what was drained, but those that only the replaced log
held: sent before it was replaced, and not in the drain before. Those are counted by kind. The exit code
is 1 where anything else is missing, or lies there twice.

PostgreSQL is started in a folder of its own where its server programs are installed; without them its
kinds are left out, and that is said.
"""

import argparse
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from small_shop import CONFIG, Posters, Service, item_ids, make_shop, recsys  # noqa: E402

LOAD_SECONDS = 2.0
"""Of load before and after a log is replaced."""
NOTICED_SECONDS = 60.0
"""Within which a replaced log must be noticed, on however slow a machine."""


@dataclass
class Campaign:
    """The shop, its service, and what was acknowledged."""

    config: Path
    service: Service
    postgres: Any
    """A server to make databases on; None without one."""
    draw: random.Random
    address: str = ""
    """Of a log in PostgreSQL; empty for the workspace's own file."""
    accepted: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Event id → (when it was sent, round)."""
    gone: dict[str, str] = field(default_factory=dict)
    """Event id → kind of the replacement that took it along."""
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def file(self) -> Path:
        return self.config.parent / "work" / "log" / "log.sqlite"

    def use(self, address: str) -> None:
        """Write the config with another log."""
        self.address = address
        more = f"serving: {{log: {address}}}\n" if address else ""
        self.config.write_text(CONFIG + more)


def drain(campaign: Campaign) -> Counter[str]:
    """A short night; {event id: how often it was drained}.

    Raises:
        SystemExit: an event that was acknowledged before, and was not gone with a log, is not there.
    """
    import pyarrow.parquet as pq

    due = campaign.accepted.keys() - campaign.gone.keys()
    short_night(campaign.config)
    outputs = (campaign.config.parent / "work" / "stages" / "drain").glob("*/events.parquet")
    newest = max(outputs, key=lambda file: file.stat().st_mtime_ns)
    found = Counter(pq.read_table(newest, columns=["event_id"])["event_id"].to_pylist())
    if lost := due - found.keys():
        rounds = Counter(campaign.accepted[event][1] for event in lost)
        raise SystemExit(f"{len(lost):,} acknowledged events are lost; by round: {dict(rounds)}")
    return found


def short_night(config_file: Path) -> None:
    """What a night does with the log: drain it, read the tables, renew the snapshot."""
    from recsys.data_schemas.config import load_config
    from recsys.storage.progress import Reporter
    from recsys.storage.stages import StageRunner
    from recsys.storage.workspace import Workspace
    from recsys.training.night import read_data, release
    from recsys.training.night.night_context import Night

    config = load_config(config_file)
    workspace, quiet = Workspace(config.workspace_path), Reporter(quiet=True)
    with workspace.lock():
        night = Night(config, workspace, StageRunner(workspace, quiet), quiet)
        night.drained = read_data.drain(night)
        night.tables = read_data.validate(night)
        night.data = read_data.split(night, read_data.load(night.tables.product, night.config))
        night.state = release.snapshot(night)
        release.publish_state(night)


# --- kinds: each replaces the log and says what its state was ------------------------------------


def deleted(campaign: Campaign) -> None:
    for file in campaign.file.parent.glob("log.sqlite*"):
        file.unlink()


def backup(campaign: Campaign) -> Path:
    """A copy of the log as it stands now, made as SQLite itself makes one."""
    copy = campaign.file.with_name("backup.sqlite")
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(campaign.file)) as source, closing(sqlite3.connect(copy)) as to:
        source.backup(to)
    return copy


def restore(campaign: Campaign, copy: Path) -> None:
    for file in campaign.file.parent.glob("log.sqlite*"):
        file.unlink()
    shutil.copyfile(copy, campaign.file)


def moved(campaign: Campaign) -> None:
    campaign.use(campaign.postgres.empty())


def go_back(campaign: Campaign, position: int) -> None:
    """A log in PostgreSQL as a replica holds it that stands at an earlier position."""
    import psycopg

    with psycopg.connect(campaign.address) as base:  # one transaction
        base.execute("LOCK TABLE recsys_log IN ACCESS EXCLUSIVE MODE")
        base.execute("DELETE FROM recsys_log WHERE position > %s", (position,))
        base.execute(
            "UPDATE recsys_log_about SET value = %s WHERE name = 'last_position'", (str(position),)
        )
        base.execute(
            "SELECT setval(pg_get_serial_sequence('recsys_log', 'position'), %s)", (position,)
        )


def end_of_log(campaign: Campaign) -> int:
    import psycopg

    with psycopg.connect(campaign.address) as base:
        row = base.execute("SELECT coalesce(max(position), 1) FROM recsys_log").fetchone()
    return int(row[0]) if row else 1


def written_by_others(campaign: Campaign) -> None:
    """Somebody who knows of no snapshot writes to the log that took over."""
    from recsys.storage.eventlog import open_log

    with open_log(campaign.address) as log:
        event = {"user_id": "other", "item_id": "i", "event_type": "view", "timestamp": 1}
        log.append_events([event | {"event_id": f"other-{time.time_ns()}-{n}"} for n in range(50)])


SQLITE = ("deleted", "restored", "restored while stopped", "moved")
POSTGRES = ("replica", "replica with writes")
ANY = ("back to SQLite",)


def replace(campaign: Campaign, kind: str, earlier: Any) -> None:
    """Replace the log; `earlier` is a backup's path, or an earlier position."""
    steps: dict[str, Callable[[], None]] = {
        "deleted": lambda: deleted(campaign),
        "restored": lambda: restore(campaign, earlier),
        "restored while stopped": lambda: restore(campaign, earlier),
        "moved": lambda: moved(campaign),
        "replica": lambda: go_back(campaign, earlier),
        "replica with writes": lambda: (go_back(campaign, earlier), written_by_others(campaign))[1],
        "back to SQLite": lambda: (deleted(campaign), campaign.use(""))[1],
    }
    steps[kind]()


STOPPED = ("restored while stopped", "moved", "replica with writes", "back to SQLite")
LOSES_NOTHING = ("moved",)
"""Kinds after which the former log can still be read."""


def one_round(campaign: Campaign, number: int, kind: str, clients: int) -> None:
    """Load, replacement, refusal, adoption, load."""
    service = campaign.service
    service.start()
    service.wait()
    items = item_ids(service)
    with Posters(service, items, clients, 10, repeat=False) as posters:
        time.sleep(LOAD_SECONDS / 2)
        earlier: Any = end_of_log(campaign) if campaign.address else backup(campaign)
        time.sleep(LOAD_SECONDS / 2)
        # What was answered by now must be in the drain that begins now.
        campaign.accepted |= {event: (sent, number) for sent, event in list(posters.accepted)}
        drained = drain(campaign)
        time.sleep(LOAD_SECONDS * campaign.draw.random())
        if kind not in STOPPED:
            replace(campaign, kind, earlier)
            done = time.monotonic()
            took = service.wait(ready=False, seconds=NOTICED_SECONDS)
            time.sleep(LOAD_SECONDS)
    if kind in STOPPED:
        service.stop()
        replace(campaign, kind, earlier)
        done = time.monotonic()
        took = started_refusing(campaign, kind, clients, items, number)
    for sent, event in posters.accepted:
        campaign.accepted[event] = (sent, number)
        if sent <= done and event not in drained and kind not in LOSES_NOTHING:
            campaign.gone[event] = kind
    late = sum(sent > done for sent, _ in posters.accepted)
    campaign.outcomes[kind]["not ready, writes refused with 503"] += 1
    service.stop()
    recsys("log", "adopt", "-c", str(campaign.config))
    service.start()
    service.wait()
    with Posters(service, items, clients, 10, repeat=False) as after:
        time.sleep(LOAD_SECONDS / 2)
    service.stop()
    campaign.accepted |= {event: (sent, number) for sent, event in after.accepted}
    if not after.accepted:
        raise SystemExit(f"{kind}: nothing was accepted after `recsys log adopt`")
    print(
        f"{number}. {kind}: refused after {took:.1f} s ({posters.refused} by status), {late} "
        f"acknowledged after it, {len(after.accepted):,} after it was adopted",
        flush=True,
    )


def started_refusing(
    campaign: Campaign, kind: str, clients: int, items: list[str], number: int
) -> float:
    """Start over the replaced log: seconds until it answers, and that it takes nothing.

    Raises:
        SystemExit: it took the log for the former one.
    """
    service, began = campaign.service, time.monotonic()
    service.start()
    until = began + 5 * NOTICED_SECONDS
    while service.ask("POST", "/v1/rank", {"user_id": "u", "items": items[:3]})[0] != 200:
        if time.monotonic() > until:
            raise SystemExit(f"{kind}: the service does not answer")
        time.sleep(0.2)
    took = time.monotonic() - began
    with Posters(service, items, clients, 10, repeat=False) as posters:
        time.sleep(LOAD_SECONDS)
    if posters.accepted or service.ready():
        raise SystemExit(f"{kind}: the service took another log for its own")
    if set(posters.refused) != {503}:
        raise SystemExit(f"{kind}: refused with {posters.refused}")
    return took


def account(campaign: Campaign) -> int:
    """Say what became of all that was acknowledged; how many events were drained twice."""
    kept = drain(campaign)
    missing = campaign.accepted.keys() - kept.keys()
    twice = sum(count > 1 for count in kept.values())
    print(f"{len(campaign.accepted):,} events acknowledged, {sum(kept.values()):,} drained")
    for kind, outcomes in sorted(campaign.outcomes.items()):
        gone = sum(campaign.gone.get(event) == kind for event in missing)
        print(f"  {kind}: {dict(outcomes)}; {gone} events went with the log that was replaced")
    print(f"lost otherwise: 0; kept twice: {twice}")
    return twice


def postgres_server(folder: Path) -> Any:
    """A server as the tests start one; None where that cannot be."""
    from tests.conftest import Server, server_programs

    if server_programs() is None or (os.getuid() == 0 and shutil.which("runuser") is None):
        print("no PostgreSQL here: its kinds are left out")
        return None
    server = Server(folder)
    server.start()
    return server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shop", type=Path, help="a folder where the shop is made, and kept")
    args = parser.parse_args()
    folder = args.shop or Path(tempfile.mkdtemp(prefix="recsys-logs-"))
    config = make_shop(folder)
    place = tempfile.mkdtemp(prefix="recsys-postgres-")
    postgres = postgres_server(Path(place))
    campaign = Campaign(config, Service(config), postgres, random.Random(args.seed))
    campaign.use("")
    # A shop that was kept has read the log of the campaign before.
    recsys("log", "adopt", "--without-drained", "-c", str(config))
    try:
        for number in range(1, args.rounds + 1):
            kinds = [*POSTGRES, *ANY] if campaign.address else list(SQLITE)
            kinds = [kind for kind in kinds if postgres is not None or kind != "moved"]
            one_round(campaign, number, campaign.draw.choice(kinds), args.clients)
        return 1 if account(campaign) else 0
    finally:
        if campaign.service.process is not None and campaign.service.process.poll() is None:
            campaign.service.kill()
        if postgres is not None:
            postgres.stop()
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
