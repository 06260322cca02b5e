"""A service of several workers over the fake engine, as a program of its own.

python service_program.py LOG CHAMPION_FILE WORKERS [CERTIFICATE KEY]
"""

import sys
from pathlib import Path

from conftest import FakeProvider

from recsys.eventlog import EventLog
from serving.app import App
from serving.server import Endpoint, address, announce, bind, run_worker, supervise
from serving.settings import Settings

# No answer is to depend on how slow the machine is.
SETTINGS = Settings(champion_poll=0.1, log_poll=0.1, drain_seconds=5, timeout_ms=60_000)


def work(log, champion, sock, endpoint):
    app = App(FakeProvider(file=Path(champion)), lambda: EventLog.open(log), SETTINGS)
    run_worker(app, sock, endpoint)


def main(log, champion, workers, *pair):
    endpoint = Endpoint("127.0.0.1", 0, *map(Path, pair))
    with bind(endpoint, has_keys=False) as sock:
        announce(address(sock, endpoint), workers)
        if workers == 1:
            work(log, champion, sock, endpoint)
            return 0
        return supervise(work, (log, champion, sock, endpoint), workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]))
