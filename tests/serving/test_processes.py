"""Real processes: workers that share a port, die, restart, swap, and stop in order."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from recsys.client import ApiError, Client
from recsys.eventlog import EventLog

PROGRAM = Path(__file__).with_name("service_program.py")


class Service:
    def __init__(self, folder, workers):
        self.log, self.champion = folder / "log.sqlite", folder / "champion.json"
        self.promote("1")
        root = str(Path(__file__).parents[2])
        command = [sys.executable, str(PROGRAM), str(self.log), str(self.champion), str(workers)]
        with (folder / "stderr.txt").open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
            )
        assert self.process.stdout is not None
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]

    def promote(self, version):
        aside = self.champion.with_suffix(".tmp")
        aside.write_text(json.dumps(version))
        aside.replace(self.champion)

    def workers(self):
        return [c for c in psutil.Process(self.process.pid).children() if is_worker(c)]

    def wait_ready(self, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if httpx.get(self.url + "/readyz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("not ready")


def is_worker(process):
    try:
        return "multiprocessing.spawn" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@contextmanager
def service(folder, workers):
    running = Service(folder, workers)
    try:
        running.wait_ready()
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(30)
        running.process.stdout.close()
        assert code == 0, (folder / "stderr.txt").read_text()[-2000:]


class Load:
    """Threads that post events and rank until stopped."""

    def __init__(self, url, threads=3):
        self.accepted, self.versions, self.errors = [], Counter(), []
        self._stop = threading.Event()
        self._url = url
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name):
        with Client(self._url, retries=4, timeout=10) as client:
            n = 0
            while not self._stop.is_set():
                n += 1
                event_id = f"{name}-{n}"
                try:
                    client.event(f"u{name}", "1", "click", event_id=event_id)
                    self.accepted.append(event_id)
                    self.versions[client.rank(f"u{name}", ["1", "2"]).model_version] += 1
                except ApiError as error:
                    self.errors.append(error)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)


def test_a_killed_worker_loses_no_accepted_event_and_is_replaced(tmp_path):
    with service(tmp_path, workers=2) as running:
        wait_for(lambda: len(running.workers()) == 2)
        with Load(running.url) as load:
            wait_for(lambda: len(load.accepted) > 50)
            victim = running.workers()[0]
            victim.kill()
            wait_for(lambda: len({w.pid for w in running.workers()} - {victim.pid}) == 2)
            before = len(load.accepted)
            wait_for(lambda: len(load.accepted) > before + 50)
            running.promote("2")
            wait_for(lambda: load.versions["2"] > 50)
        assert set(load.versions) == {"1", "2"}
        # A connection cut in the middle is repeated by the client: no call failed for good.
        assert not load.errors
        with EventLog.open(running.log) as log:
            kept = [r.payload["event_id"] for r in log.read(0, 10**6) if r.kind == "event"]
        assert len(kept) == len(set(kept))
        assert set(load.accepted) <= set(kept)


def test_every_worker_sees_an_event_within_a_second(tmp_path):
    with service(tmp_path, workers=2) as running:
        ask = {"user_id": "new", "items": ["1", "2", "3"]}
        last = httpx.post(running.url + "/v1/rank", json=ask).json()["items"][-1]["item_id"]
        event = {"user_id": "new", "item_id": last, "event_type": "click"}
        assert httpx.post(running.url + "/v1/events", json=event).status_code == 200
        time.sleep(1.0)
        for _ in range(20):
            answer = httpx.post(running.url + "/v1/rank", json=ask)
            assert answer.json()["items"][0]["item_id"] == last
        counters = httpx.get(running.url + "/metrics").text
        ranked = re.search(
            r'recsys_requests_total\{route="/v1/rank",status="200"\} (\S+)', counters
        )
        assert float(ranked[1]) == 21.0


def test_workers_of_a_killed_parent_stop(tmp_path):
    running = Service(tmp_path, workers=2)
    running.wait_ready()
    workers = running.workers()
    running.process.kill()
    running.process.wait()
    running.process.stdout.close()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert (len(gone), alive) == (2, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_single_worker_stops_in_order(tmp_path, number):
    running = Service(tmp_path, workers=1)
    running.wait_ready()
    answer = httpx.post(running.url + "/v1/recommend", json={"user_id": "u"})
    running.process.send_signal(number)
    assert running.process.wait(20) == 0
    running.process.stdout.close()
    with EventLog.open(running.log) as log:
        impressions = [r.payload for r in log.read(0) if r.kind == "impression"]
    assert [shown["impression_id"] for shown in impressions] == [answer.json()["impression_id"]]
