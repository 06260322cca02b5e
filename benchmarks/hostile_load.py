"""Mixed hostile load on one service: how long honest calls take before, during and after it.

    python benchmarks/hostile_load.py CONFIG [--minutes 60] [--lanes 2] [--pause 1] [--json FILE]

Serves CONFIG's champion with `recsys serve` on loopback (give a copy of a workspace: events are
posted to its log), and asks one honest call every quarter of a second: recommend, rank, an event.
For two minutes nothing else comes, then `--lanes` callers attack in rounds of random kind with a
pause between them, then for two minutes nothing again. Each kind is bounded in connections and bytes,
so that the machine stays usable. Printed: quantiles of honest calls per phase, and for each kind of
attack; memory of all processes of the service; what hostile calls were answered. The exit code is 1
where anything but an answer below 500, 503 or a closed connection was given, or where honest calls
failed for another reason than 503.
"""

import argparse
import asyncio
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.append(str(Path(__file__).resolve().parent))

from serve import catalogue_ids, free_port

QUIET_SECONDS = 120
HONEST_EVERY = 0.25
PATIENCE = 30.0
"""Seconds after which a call counts as never answered."""
CLOSED = 0
"""Stands for a connection that was closed without an answer."""
NEVER = -1
"""Stands for no answer in time."""

Reply = tuple[int, bytes]


def head(method: str, path: str, length: int, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    return "\r\n".join([*lines, f"content-length: {length}", *more, "", ""]).encode()


@dataclass
class Target:
    """The service under load, and what is kept of it."""

    port: int
    items: list[str]
    phase: str = "before"
    attacks: list[str] = field(default_factory=list)
    """Under way."""
    honest: list[tuple[str, list[str], float, int]] = field(default_factory=list)
    """Phase, attacks under way at its begin, seconds, status of each honest call."""
    answers: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    memory: list[tuple[str, float]] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, data: bytes) -> Reply:
        """What one connection is answered first."""
        try:
            reader, writer = await self.connect()
        except OSError:
            return CLOSED, b""
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(data)
                await writer.drain()
                top = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: (\d+)", top)
                body = await reader.readexactly(int(size[1])) if size else b""
            return int(top[9:12]), body
        except TimeoutError:
            return NEVER, b""
        except (OSError, EOFError, ValueError):
            return CLOSED, b""
        finally:
            writer.close()

    async def call(self, path: str, body: Any, method: str = "POST") -> Reply:
        data = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        return await self.raw(head(method, path, len(data)) + data)


Attack = Callable[[Target], Awaitable[list[int]]]


async def overload(target: Target) -> list[int]:
    """300 new connections at once, each with a list to rank."""
    body = {"user_id": "1", "items": target.items}
    replies = await asyncio.gather(*[target.call("/v1/rank", body) for _ in range(300)])
    return [status for status, _ in replies]


async def held(target: Target, count: int, start: bytes, seconds: float) -> list[int]:
    """Connections that send a beginning and wait."""
    writers = []
    for _ in range(count):
        try:
            _, writer = await target.connect()
            writer.write(start)
            writers.append(writer)
        except OSError:
            continue
    await asyncio.sleep(seconds)
    for writer in writers:
        writer.close()
    return [CLOSED] * len(writers)


async def half_heads(target: Target) -> list[int]:
    return await held(target, 1_200, b"GET /healthz HTTP/1.1\r\nx: ", 12)


async def trickling_bodies(target: Target) -> list[int]:
    return await held(target, 80, head("POST", "/v1/rank", 1_900_000) + b" " * 900_000, 11)


async def unread_answers(target: Target) -> list[int]:
    """Asks for a large document again and again and reads nothing."""
    ask = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    return await held(target, 10, ask * 100, 10)


async def endless_head(target: Target) -> list[int]:
    """One header line of up to 20 MB."""
    try:
        _, writer = await target.connect()
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        async with asyncio.timeout(PATIENCE):
            for _ in range(20):
                writer.write(b"a" * 1_000_000)
                await writer.drain()
    except (OSError, TimeoutError):
        return [CLOSED]
    writer.close()
    return [NEVER]


async def spelt_versions(target: Target) -> list[int]:
    names = ["1", "01", "001", "champion", "models:/recsys/1", "models:/x@champion", "2", "9", "-1"]
    bodies = [{"user_id": "1", "items": ["1"], "model_version": n} for n in names * 4]
    return [(await target.call("/v1/rank", body))[0] for body in bodies]


async def new_types(target: Target) -> list[int]:
    """A post of 1,000 events of as many types."""
    tag = random.randrange(10**6)
    return [(await target.call("/v1/events", _events(target, 1_000, lambda n: f"t{tag}-{n}")))[0]]


async def far_hours(target: Target) -> list[int]:
    """Five posts of 1,000 events on one item, each in an hour of its own long ago."""
    found = []
    for _ in range(5):
        events = _events(target, 1_000, lambda n: "view")
        first = random.randrange(10_000)
        for n, event in enumerate(events):
            at = time.gmtime(8.8e8 - 3600 * (first + n))
            event |= {
                "item_id": target.items[0],
                "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", at),
            }
        found.append((await target.call("/v1/events", events))[0])
    return found


def _events(target: Target, count: int, kind: Callable[[int], str]) -> list[dict[str, Any]]:
    return [
        {
            "user_id": f"h{n % 50}",
            "item_id": target.items[n % len(target.items)],
            "event_type": kind(n),
        }
        for n in range(count)
    ]


async def inline_tags(target: Target) -> list[int]:
    """80 items of its own with 1,600 tags of 500 characters."""
    tag = random.randrange(10**9)
    items = [
        {
            "item_id": f"x{tag}-{n}",
            "title": f"t{n}",
            "tags": [f"{tag}-{n}-{k}-" + "y" * 480 for k in range(20)],
            "category": f"c{tag}{n}",
        }
        for n in range(80)
    ]
    return [(await target.call("/v1/rank", {"user_id": "1", "items": items}))[0]]


async def odd_bodies(target: Target) -> list[int]:
    """What is no JSON, or JSON of another shape, or too much of it."""
    rank: list[Any] = [
        b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"user_id":' + b"9" * 5_000 + b"}",
        b'{"user_id":"1","items":["1"],"user_id":"2"}', b'{"user_id":"\\ud800","items":["1"]}',
        {"user_id": "1", "items": [None, 1, {}, []]}, {"user_id": {"$ne": ""}, "items": ["1"]},
        {"user_id": "x" * 300, "items": ["1"]}, {"user_id": "1", "items": ["1"] * 5_000},
        {"user_id": "1", "items": [{"item_id": "n", "title": "x" * 1_000_000}]},
        b" " * 3_000_000, {"user_id": "1", "items": ["1"], "history": [{"item_id": "1"}] * 2_000},
        b'{"user_id":"1","items":[{"item_id":"n","price":1e999}]}',
    ]  # fmt: skip
    found = [(await target.call("/v1/rank", body))[0] for body in rank]
    tree: Any = {"equals": {"category": "x"}}
    for _ in range(300):
        tree = {"not": tree}
    found.append(
        (await target.call("/v1/recommend", {"user_id": "1", "k": 10, "filters": tree}))[0]
    )
    for event in ({"timestamp": "0001-01-01T00:00:00Z"}, {"timestamp": 10**30}, {"value": "NaN"}):
        body = {"user_id": "1", "item_id": "1", "event_type": "view"} | event
        found.append((await target.call("/v1/events", body))[0])
    return found


async def odd_requests(target: Target) -> list[int]:
    """Smuggling, other hosts, traversal, methods and encodings that are not offered."""
    body = b'{"user_id":"1","items":["1"]}'
    heads = [
        b"POST /v1/rank HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/users/1 HTTP/1.1\r\n\r\n",
        b"POST /v1/rank HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET /v1/users/1 HTTP/1.1\r\nhost: attacker.example\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET /v1/items/%2e%2e%2f%00/similar HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"OPTIONS /v1/rank HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://attacker.example\r\n\r\n",
        head("POST", "/v1/rank", len(body), "content-encoding: gzip") + body,
        head("POST", "/v1/rank", len(body), "expect: 100-continue") + body,
    ]
    return [(await target.raw(data))[0] for data in heads]


async def odd_items(target: Target) -> list[int]:
    """Items whose attributes are of another type, or too many, and their deletion."""
    name, found = f"hostile-{random.randrange(200)}", []
    for more in (
        {"price": "not a number"},
        {f"column {n}": n for n in range(500)},
        {"title": "\x00" * 10},
        {"tags": ["t"] * 20_000},
        {},
    ):
        body = {"title": "hostile", **more}
        found.append((await target.call(f"/v1/items/{name}", body, "PUT"))[0])
    found.append((await target.call(f"/v1/items/{name}", None, "DELETE"))[0])
    return found


ATTACKS: list[Attack] = [
    overload, half_heads, trickling_bodies, unread_answers, endless_head, spelt_versions, new_types,
    far_hours, inline_tags, odd_bodies, odd_requests, odd_items,
]  # fmt: skip


async def ask_honestly(target: Target) -> None:
    """One call after the other, each timed, by people and on items that exist."""
    draw, count = random.Random(1), 0
    while True:
        count += 1
        user, began = str(draw.randint(1, 900)), time.monotonic()
        beside = list(target.attacks)
        if count % 4 == 0:
            path, body = "/v1/rank", {"user_id": user, "items": draw.sample(target.items, 100)}
        elif count % 4 == 1:
            event = {"user_id": user, "item_id": draw.choice(target.items), "event_type": "view"}
            path, body = "/v1/events", event
        else:
            path, body = "/v1/recommend", {"user_id": user, "k": 10}
        status, _ = await target.call(path, body)
        took = time.monotonic() - began
        target.honest.append((target.phase, beside, took, status))
        await asyncio.sleep(max(0.0, HONEST_EVERY - took))


async def attack_in_turn(target: Target, until: float, pause: float, seed: int) -> None:
    """One lane: rounds of random kind."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        attack = draw.choice(ATTACKS)
        target.attacks.append(attack.__name__)
        target.answers[attack.__name__].update(await attack(target))
        target.attacks.remove(attack.__name__)
        await asyncio.sleep(pause)


async def watch_memory(target: Target, pid: int) -> None:
    """Resident and private memory of all processes of the service, every five seconds."""
    while True:
        parent, total = psutil.Process(pid), 0
        for process in [parent, *parent.children(recursive=True)]:
            try:
                total += process.memory_full_info().uss
            except psutil.Error:
                continue
        target.memory.append((target.phase, total / 1e6))
        await asyncio.sleep(5)


def quantiles(calls: list[tuple[float, int]]) -> dict[str, Any]:
    """Milliseconds of the answered, and how many were not."""
    good = sorted(took * 1e3 for took, status in calls if 200 <= status < 300)
    bad = Counter(status for _, status in calls if not 200 <= status < 300)
    at = (
        {f"p{q}": good[min(len(good) - 1, len(good) * q // 100)] for q in (50, 95, 99)}
        if good
        else {}
    )
    return {"answered": len(good), "not": dict(bad), **at, "max": good[-1] if good else None}


def report(target: Target) -> dict[str, Any]:
    phases = {
        phase: quantiles([(took, s) for p, _, took, s in target.honest if p == phase])
        for phase in ("before", "during", "after")
    }
    kinds = {
        kind: quantiles(
            [(took, s) for p, k, took, s in target.honest if p == "during" and kind in k]
        )
        for kind in sorted(target.answers)
    }
    memory = {}
    for phase in phases:
        found = [mb for p, mb in target.memory if p == phase]
        memory[phase] = {"first": found[0], "most": max(found), "last": found[-1]} if found else {}
    hours = [mb for p, mb in target.memory if p == "during"]
    return {
        "honest": phases,
        "honest while": kinds,
        "hostile": {kind: dict(found) for kind, found in sorted(target.answers.items())},
        "private MB": memory,
        "private MB by tenths of the load": [
            round(statistics.median(hours[len(hours) * n // 10 : len(hours) * (n + 1) // 10]))
            for n in range(10)
            if len(hours) >= 10
        ],
    }


def faults(found: dict[str, Any]) -> list[str]:
    """What no caller may see."""
    wrong = [
        f"{kind}: {count} times {status}"
        for kind, answers in found["hostile"].items()
        for status, count in answers.items()
        if status >= 500 and status != 503
    ]
    for phase, calls in found["honest"].items():
        wrong += [
            f"honest calls {phase}: {n} times {s}" for s, n in calls["not"].items() if s != 503
        ]
    return wrong


async def drive(target: Target, pid: int, minutes: float, lanes: int, pause: float) -> None:
    beside = [
        asyncio.create_task(ask_honestly(target)),
        asyncio.create_task(watch_memory(target, pid)),
    ]
    await asyncio.sleep(QUIET_SECONDS)
    target.phase = "during"
    until = time.monotonic() + 60 * minutes
    await asyncio.gather(*[attack_in_turn(target, until, pause, seed) for seed in range(lanes)])
    target.phase = "after"
    await asyncio.sleep(QUIET_SECONDS)
    for task in beside:
        task.cancel()


def serve(config: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """The service, once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "recsys", "serve", "-c", str(config), "--port", str(port)]
    with (config.parent / "hostile-serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if asyncio.run(Target(port, []).call("/readyz", None, "GET"))[0] == 200:
            return process, port
        time.sleep(0.5)
    process.kill()
    raise SystemExit(f"the service was not ready; see {config.parent / 'hostile-serve.log'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path, help="recsys.yaml of a workspace with a champion")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lanes", type=int, default=2, help="attackers at once")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds between an attacker's rounds"
    )
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    args = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384), most))
    process, port = serve(args.config)
    try:
        target = Target(port, catalogue_ids(port, 100))
        asyncio.run(drive(target, process.pid, args.minutes, args.lanes, args.pause))
        found = report(target)
    finally:
        process.terminate()
        code = process.wait(60)
    wrong = faults(found) + ([] if code == 0 else [f"the service ended with {code}"])
    text = json.dumps(found | {"faults": wrong}, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
