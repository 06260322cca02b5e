"""A service of several workers over the fake engine, as a program of its own.

python service_program.py LOG CHAMPION_FILE WORKERS [CERTIFICATE KEY]

With a file `slow` beside the champion's, a model takes two seconds to open.
"""

import sys
import time
from pathlib import Path

from conftest import FakeProvider

from recsys.serving.app import App
from recsys.serving.server import (
    Endpoint,
    address,
    announce,
    bind,
    run_worker,
    supervise,
)
from recsys.serving.settings import ServiceSettings
from recsys.storage.eventlog import open_log

# No answer is to depend on how slow the machine is.
SETTINGS = ServiceSettings(champion_poll=0.1, log_poll=0.1, drain_seconds=5, timeout_ms=60_000)


class Provider(FakeProvider):
    def load(self, version):
        if (self._file.parent / "slow").exists():
            time.sleep(2)
        return super().load(version)


def work(log, champion, sock, endpoint):
    app = App(Provider(file=Path(champion)), lambda: open_log(log), SETTINGS)
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
