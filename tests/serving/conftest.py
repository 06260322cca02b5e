"""A small deterministic engine and provider in place of a real model, and the app around them."""

import asyncio
import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import ClassVar

import httpx
import numpy as np
import pytest
import uvicorn

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.data_schemas.log_record import LogMark
from recsys.filters import columns_of, parse
from recsys.query import RankingResult, SimilarResult
from recsys.serving.app import App
from recsys.serving.server import Endpoint, address, bind
from recsys.serving.settings import ServiceSettings
from recsys.storage.eventlog import open_log
from recsys.told_attributes import ToldKinds

PATIENCE = 120.0
"""Seconds after which what should have come is missed, on however slow a machine."""
DATA_END = 1_700_000_000_000_000
CATALOGUE = {str(i): {"item_id": str(i), "title": f"Film {i}", "tags": ["a"]} for i in range(30)}
CATALOGUE["7"]["title"] = "<script>document.title='hacked'</script>"


def noise(*parts):
    """A number in [0, 1) out of the parts, always the same."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class FakeEngine:
    """Scores by a hash of version and item; items a user acted on gain one point per event."""

    def __init__(self, version):
        self.version, self.snapshot = version, ""
        self.log_position = 0
        self.moment = DATA_END + 1
        self.log_mark = LogMark("", 0)
        self.waiting = 0
        self.items = {item_id: dict(row) for item_id, row in CATALOGUE.items()}
        self.events = {}
        self.attributes = {}
        self.told = ToldKinds(0)
        self.prepared = []
        self.fail_on = None

    event_types = ()
    attribute_kinds: ClassVar = {"maker": "text", "price": "number"}
    vector_length = 2
    table_of_users: ClassVar = {"plan": "text", "age": "number"}

    @property
    def taken_kinds(self):
        return {**self.told.of_items, **self.attribute_kinds}

    @property
    def user_attribute_kinds(self):
        return {**self.told.of_users, **self.table_of_users}

    def answer(self, ask):
        if ask.user_id == self.fail_on:
            raise RuntimeError("broken")
        met = self.filter(ask)
        seen = [
            e["item_id"]
            for user in (ask.user_id, ask.session)
            for e in self.events.get(user, [])
            if e["timestamp"] < ask.now
        ]
        sent = [e for e in ask.history or () if (e["timestamp"] or 0) < ask.now]
        seen_more = [*seen, *(e["item_id"] for e in sent)]
        known = [i for i in ask.items or () if i in self.items or i in ask.new_items]
        unknown = [i for i in ask.items or () if i not in known]
        if ask.items is None:
            taken = set(ask.exclude) | (set() if ask.keep_seen else set(seen_more))
            known = [
                i
                for i, row in self.items.items()
                if i not in taken and row.get("available", True) and met.holds(row)
            ]
        scored = sorted(
            ((noise(self.version, i) + seen_more.count(i), i) for i in known), reverse=True
        )
        scored = scored[: ask.k] if ask.items is None else scored
        reasons = [
            {
                "families": {"text": 0.5},
                "similar": [],
                "sentence": {"en": "Because.", "zh": "因为。"},
            }
            for _ in scored[: ask.explain]
        ]
        return RankingResult(
            [i for _, i in scored],
            [s for s, _ in scored],
            unknown,
            ["text_encoder_missing"] if "no-encoder" in ask.context else [],
            reasons or None,
            np.ones((len(scored), 3), np.float32),
            {"ranker": 0.1},
            kept=ask.context.get("kept"),
        )

    def apply(self, records):
        self.told.take(records)
        for record in records:
            if record.position <= self.log_position:
                continue
            self.log_position = record.position
            payload = record.payload
            if record.kind == "event":
                if payload["item_id"] == "poison":
                    raise ValueError("poison")
                self.events.setdefault(payload["user_id"], []).append(payload)
            elif record.kind == "item":
                self.items.setdefault(payload["item_id"], {}).update(payload)
            elif record.kind == "forget":
                self.events.pop(payload["user_id"], None)
                self.attributes.pop(payload["user_id"], None)
            elif record.kind == "user":
                self.attributes.setdefault(payload["user_id"], {}).update(payload["attributes"])

    def filter(self, ask):
        for column in getattr(ask, "caps", {}):
            if column not in ("category", "maker"):
                raise UsageError("the cap names a column", where=f"caps.{column}", found=column)
        for rule in getattr(ask, "rules", ()):
            parse(getattr(rule, "filters", {}), columns_of(self.attribute_kinds))
        return parse(ask.filters, columns_of(self.attribute_kinds))

    def similar_to(self, ask):
        met, asked = self.filter(ask), [i for i in ask.items if i in self.items]
        others = sorted(
            (noise(ask.by, *asked, i), i)
            for i, row in self.items.items()
            if i not in [*asked, *ask.exclude] and met.holds(row) and asked
        )
        unknown = [i for i in ask.items if i not in asked]
        best = others[: ask.k]
        return SimilarResult([i for _, i in best], [score for score, _ in best], unknown)

    def popular(self, k, now, window, filters):
        met = parse(filters, columns_of(self.attribute_kinds))
        if window.endswith("m"):
            raise UsageError("too short", where="window", found=window, expected="a multiple of 1h")
        known = (e for events in self.events.values() for e in events if e["item_id"] in self.items)
        counts = Counter(e["item_id"] for e in known)
        return [(i, float(n)) for i, n in counts.most_common() if met.holds(self.items[i])][:k]

    def user(self, user_id):
        events, attributes = self.events.get(user_id), self.attributes.get(user_id, {})
        return {"events": events or [], "attributes": attributes} if events or attributes else None

    def item(self, item_id):
        return self.items.get(item_id)

    def search(self, query, limit):
        return [i for i, row in self.items.items() if query.lower() in row["title"].lower()][:limit]

    def prepare(self, items):
        self.prepared.append([item["item_id"] for item in items])


class FakeProvider:
    """Versions "1", "2" and "3"; the champion is what a test says, or what a file says."""

    def __init__(self, champion="1", file=None):
        self._champion, self._file = champion, file
        self.loads, self.polls = [], 0
        self.newest = ""

    @property
    def champion(self):
        return json.loads(self._file.read_text()) if self._file else self._champion

    @champion.setter
    def champion(self, version):
        self._champion = version

    def poll(self):
        self.polls += 1
        return self.champion

    def load(self, version):
        version = version or self.champion
        self.loads.append(version)
        if version not in {"1", "2", "3"}:
            raise RecsysError("there is no such model version", found=version)
        engine = FakeEngine(version)
        engine.snapshot = self.newest
        return engine

    def snapshot(self):
        return self.newest

    def versions(self):
        return ["3", "2", "1"]

    def resolve(self, name):
        return name

    def operations(self):
        return {}

    def live(self):
        return None


async def happened(condition):
    """Come back when a condition holds.

    Raises:
        AssertionError: it did not within PATIENCE.
    """
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def running(path, provider=None, with_model=True, **settings):
    """(client, app) of a started service over a log at `path`, once it has its model."""
    given = {"champion_poll": 0.02, "log_poll": 0.02, "clock": "end_of_data"}
    # No answer is to depend on how slow the machine is.
    settings = {**given, "timeout_ms": 60_000, **settings}
    app = App(
        provider or FakeProvider(),
        lambda: open_log(path / "log.sqlite"),
        ServiceSettings(**settings),
    )
    await app.start()
    if with_model:
        await happened(lambda: app.versions.ready)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client, app
    await app.stop()


@pytest.fixture
def serve(tmp_path):
    """Start a service: `async with serve(provider, **settings) as (client, app)`."""
    return lambda provider=None, **more: running(tmp_path, provider, **more)


@pytest.fixture
def eventually():
    """Wait for a condition: `await eventually(lambda: …)`."""
    return happened


@pytest.fixture
def fakes():
    """The fake classes themselves."""
    return FakeProvider, FakeEngine


class LiveServer:
    """A worker under uvicorn in a thread, on a free port."""

    def __init__(self, app):
        self.app = app
        self.sock = bind(Endpoint(port=0), has_keys=False)
        self.url = address(self.sock, Endpoint())
        config = uvicorn.Config(
            app, http=app.connections.protocol(), log_config=None, ws="none", lifespan="on"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.sock]})

    def __enter__(self):
        self._thread.start()
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                if httpx.get(self.url + "/readyz", timeout=10).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        self.__exit__()
        raise AssertionError("the service did not become ready")

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()
        self.sock.close()


@pytest.fixture
def live(tmp_path):
    """Start a real server: `with live(provider, **settings) as server`."""

    def start(provider=None, **settings):
        given = {"champion_poll": 0.05, "log_poll": 0.05, "clock": "end_of_data"}
        settings = {**given, "timeout_ms": 60_000, **settings}
        log = tmp_path / "log.sqlite"
        return LiveServer(
            App(provider or FakeProvider(), lambda: open_log(log), ServiceSettings(**settings))
        )

    return start
