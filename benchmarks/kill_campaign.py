"""SIGKILL to a service under clients that post events: is an acknowledged one lost, or kept twice?

    python benchmarks/kill_campaign.py [--kills 30] [--events 50000] [--clients 6] [--shop FOLDER]

Six clients post events in lots to `recsys serve` with two workers on loopback, and send again what was
not answered, under the same event ids. At moments spread over the run the whole service or one of
its workers is killed; a killed service is started again. In the end the log is read. The exit code is
1 where an acknowledged event is missing or an event lies there twice.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from small_shop import PATIENCE, Posters, Service, item_ids, make_shop

BATCH = 25


def campaign(service: Service, posters: Posters, kills: int, events: int) -> Counter[str]:
    """Kill at even distances of accepted events; what was killed how often."""
    draw, done = random.Random(20261130), Counter[str]()
    for kill in range(kills):
        reach(posters, events * (kill + 1) // (kills + 1))
        time.sleep(draw.uniform(0, 0.5))
        workers = service.children()
        if workers and draw.random() < 0.5:
            os.kill(draw.choice(workers), signal.SIGKILL)
            done["one worker"] += 1
        else:
            service.kill()
            service.start()
            done["the whole service"] += 1
        print(f"kill {kill + 1}: {len(posters.accepted):,} events accepted", flush=True)
    reach(posters, events)
    return done


def reach(posters: Posters, events: int) -> None:
    until = time.monotonic() + PATIENCE
    while len(posters.accepted) < events:
        if time.monotonic() > until:
            raise SystemExit(f"only {len(posters.accepted):,} of {events:,} events were accepted")
        time.sleep(0.01)


def main() -> int:
    from recsys.data_schemas.config import load_config
    from recsys.storage.eventlog import log_address, open_log

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--shop", type=Path, help="where the shop is made, and kept")
    args = parser.parse_args()
    folder = args.shop or Path(tempfile.mkdtemp(prefix="recsys-kills-"))
    config = make_shop(folder)
    service = Service(config, workers=2)
    service.start()
    try:
        service.wait()
        began = time.monotonic()
        posters = Posters(service, item_ids(service), args.clients, BATCH, repeat=True)
        with posters:
            done = campaign(service, posters, args.kills, args.events)
        seconds = time.monotonic() - began
    finally:
        code = service.stop()
    kept: Counter[str] = Counter()
    with open_log(log_address(load_config(config))) as log:
        after = 0
        while records := log.read(after, 20_000):
            after = records[-1].position
            kept.update(r.payload["event_id"] for r in records if r.kind == "event")
    accepted = [event for _, event in posters.accepted]
    lost = len(set(accepted) - kept.keys())
    twice = sum(count > 1 for count in kept.values())
    print(f"{sum(done.values())} kills in {seconds:.0f} s: {dict(done)}")
    print(f"{len(accepted):,} events acknowledged, {sum(kept.values()):,} kept")
    print(f"posts not accepted, and sent again: {posters.refused} by status, 0 without an answer")
    print(f"acknowledged and lost: {lost}; kept twice: {twice}; the service ended with {code}")
    return 1 if lost or twice or code else 0


if __name__ == "__main__":
    sys.exit(main())
