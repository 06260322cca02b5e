"""A small shop for campaigns against a running service: generated tables, one night, `recsys serve`."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.append(str(Path(__file__).resolve().parent))

from serve import free_port

PATIENCE = 300.0
"""Seconds after which a service that does not come up is given up, on however slow a machine."""
CONFIG = """\
data: {items: data/items.parquet, events: data/events}
budget_minutes: 1
encoder: {fine_tune: false, max_tokens: 16}
"""


def make_shop(folder: Path) -> Path:
    """The config of a shop with a champion in `folder`; one that is there is used again."""
    config = folder / "recsys.yaml"
    if not config.exists():
        words = ["--users", "300", "--items", "200", "--days", "30", "--seed", "1"]
        recsys("generate", *words, "--to", str(folder))
        config.write_text(CONFIG)
        recsys("nightly", "-c", str(config))
    return config


def recsys(*words: str, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
    """A command; any exit code is taken with None.

    Raises:
        SystemExit: it ended otherwise than it should.
    """
    done = subprocess.run([sys.executable, "-m", "recsys", *words], capture_output=True, text=True)
    if code is not None and done.returncode != code:
        raise SystemExit(f"recsys {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done


class Service:
    """`recsys serve` in a process group of its own, on one port for all its lives."""

    def __init__(self, config: Path, workers: int = 1) -> None:
        self.config, self.workers = config, workers
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it need not be ready."""
        command = [sys.executable, "-m", "recsys", "serve", "-c", str(self.config)]
        command += ["--port", str(self.port), "--workers", str(self.workers)]
        with (self.config.parent / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def ready(self) -> bool:
        """Whether `/readyz` says so."""
        return self.ask("GET", "/readyz")[0] == 200

    def wait(self, ready: bool = True, seconds: float = PATIENCE) -> float:
        """Until it is ready, or no longer is; seconds it took.

        Raises:
            SystemExit: that did not come.
        """
        began = time.monotonic()
        while self.ready() is not ready:
            if time.monotonic() > began + seconds:
                raise SystemExit(f"the service did not become {'' if ready else 'un'}ready")
            time.sleep(0.05)
        return time.monotonic() - began

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, answer); status 0 where nobody answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return send(connection, method, path, body)
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()

    def children(self) -> list[int]:
        """Process ids of the workers."""
        import psutil

        assert self.process is not None
        found = psutil.Process(self.process.pid).children()
        return [p.pid for p in found if "spawn_main" in " ".join(p.cmdline())]

    def kill(self) -> None:
        """SIGKILL to all of its processes at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Stop it in order; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9


def send(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any
) -> tuple[int, Any]:
    """One call on a kept connection."""
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    is_json = "json" in (answer.getheader("content-type") or "")
    return answer.status, json.loads(content) if is_json else None


class Posters:
    """Clients that post events and repeat what was not answered, until they are stopped.

    Args:
        service: where to.
        items: ids to act on.
        clients: threads, each with a connection of its own.
        batch: events of a post.
        repeat: whether a post that was not accepted is sent again, under the same ids.
    """

    def __init__(
        self, service: Service, items: list[str], clients: int, batch: int, *, repeat: bool
    ) -> None:
        self._service, self._items, self._batch, self._repeat = service, items, batch, repeat
        self.accepted: list[tuple[float, str]] = []
        """(seconds, event id) of everything that was answered 200."""
        self.refused: dict[int, int] = {}
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def __enter__(self) -> "Posters":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        draw = random.Random(seed)
        for events in self._posts(draw):
            while not self._stopped.is_set() and not self._post(events) and self._repeat:
                time.sleep(draw.uniform(0.01, 0.1))

    def _posts(self, draw: random.Random) -> Iterator[list[dict[str, str]]]:
        while not self._stopped.is_set():
            yield [
                {
                    "user_id": f"campaign-{draw.randrange(50)}",
                    "item_id": draw.choice(self._items),
                    "event_type": "view",
                    "event_id": uuid4().hex,
                }
                for _ in range(self._batch)
            ]

    def _post(self, events: list[dict[str, str]]) -> bool:
        began = time.monotonic()
        status, _ = self._service.ask("POST", "/v1/events", events)
        with self._lock:
            if status == 200:
                # By when it was sent: what was under way when a log was replaced may count as before.
                self.accepted += [(began, event["event_id"]) for event in events]
            else:
                self.refused[status] = self.refused.get(status, 0) + 1
        return status == 200


def item_ids(service: Service) -> list[str]:
    """Some items of the catalogue."""
    _, found = service.ask("GET", "/v1/items?limit=100")
    return [item["item_id"] for item in found["items"]]
