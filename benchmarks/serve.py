"""The service against its peers: one LightGBM model, one load tool, one run.

    python benchmarks/serve.py                      every peer, 100 candidates; sizes for ours
    python benchmarks/serve.py --only ours,fastapi --seconds 3
    python benchmarks/serve.py --workspace demo/recsys.yaml      `recsys serve` on a real release

The fixture is 300 trees of 31 leaves over 40 features. Peers:

- `ours`: the whole service: decoding and checks, keys off, impressions logged to SQLite, metrics,
  state followed; the engine looks 100 rows up and ranks them. `ours+why` explains ten items.
- `empty`: our server with a handler that does nothing (the floor of the transport).
- `fastapi`: a minimal hand-written FastAPI and pydantic app that looks rows up and predicts.
- `mlflow`: `mlflow models serve` of the same booster; it takes the 100x40 matrix as JSON.
- `bentoml`: a BentoML service in a virtual environment of its own (made on first use).

All servers run one process and are asked over keep-alive connections on 127.0.0.1: one connection
for latency, eight for throughput. Cores are shared with the load tool, so requests per second are
given per second of the server's own CPU time as well. Timings of a busy machine are rough; compare
within one run.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TREES, LEAVES, FEATURES, ITEMS = 300, 31, 40, 10_000
WARM_UP = 30
"""Requests before measuring."""


# --- fixture ------------------------------------------------------------------------------------


def make_fixture(folder: Path) -> None:
    """A booster of the stated size, and a matrix of item features."""
    import lightgbm

    rng = np.random.default_rng(7)
    x = rng.normal(size=(ITEMS, FEATURES)).astype(np.float32)
    y = np.clip(x @ rng.normal(size=FEATURES) / 4 + rng.normal(size=len(x)) + 1, 0, 3).astype(int)
    data = lightgbm.Dataset(x, y, group=[100] * (ITEMS // 100))
    options = {
        "objective": "lambdarank",
        "num_leaves": LEAVES,
        "min_data_in_leaf": 5,
        "num_threads": 1,
        "verbose": -1,
    }
    booster = lightgbm.train(options, data, TREES)
    booster.save_model(str(folder / "ranker.txt"))
    np.save(folder / "items.npy", x)


def bare_predict_ms(folder: Path, rows: int) -> float:
    """Median of the predict alone, milliseconds."""
    import lightgbm

    booster = lightgbm.Booster(model_file=str(folder / "ranker.txt"))
    x = np.load(folder / "items.npy")[:rows]
    times = []
    for _ in range(300):
        start = time.perf_counter()
        booster.predict(x, num_threads=1)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


# --- servers, each in a process of its own -------------------------------------------------------


class FixtureEngine:
    """The product's engine protocol around the fixture: looks rows up, ranks, explains."""

    version, log_position, data_end = "1", 0, 0

    def __init__(self, folder: Path) -> None:
        import lightgbm

        self._booster = lightgbm.Booster(model_file=str(folder / "ranker.txt"))
        self._rows = np.load(folder / "items.npy", mmap_mode="r")
        self._index = {f"i{n}": n for n in range(len(self._rows))}

    def answer(self, ask: Any) -> Any:
        from serving.engine import Answer

        names = ask.items if ask.items is not None else list(self._index)[: ask.k]
        found = [self._index[name] for name in names if name in self._index]
        x = self._rows[found]
        scores = self._booster.predict(x, num_threads=1)
        order = np.argsort(-scores, kind="stable")
        answer = Answer([names[i] for i in order], scores[order].tolist(), features=x[order])
        if ask.explain:
            top = x[order[: ask.explain]]
            shares = self._booster.predict(top, pred_contrib=True, num_threads=1)
            answer.reasons = [
                {"families": {"text": float(row[:20].sum()), "counters": float(row[20:-1].sum())}}
                for row in shares
            ]
        return answer

    def apply(self, records: Any) -> None:
        self.log_position = records[-1].position

    def similar(self, item_id: str, k: int, now: int) -> None:
        return None

    def user(self, user_id: str) -> None:
        return None

    def item(self, item_id: str) -> None:
        return None


class FixtureProvider:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def poll(self) -> str:
        return "1"

    def load(self, version: str | None) -> FixtureEngine:
        return FixtureEngine(self._folder)


def serve_ours(folder: Path, port: int, empty: bool) -> None:
    from recsys.eventlog import EventLog
    from serving.app import App
    from serving.asgi import Response
    from serving.server import Endpoint, bind, run_worker
    from serving.settings import Settings

    endpoint = Endpoint(port=port)
    app: Any = App(
        FixtureProvider(folder),
        lambda: EventLog.open(Path(tempfile.mkdtemp(dir=folder)) / "log.sqlite"),
        Settings(max_queue=256),
    )
    if empty:
        whole = app._http

        async def nothing(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != "/v1/rank":
                return await whole(scope, receive, send)
            await receive()
            return await Response(200, b"{}").send(send)

        app._http = nothing
    run_worker(app, bind(endpoint, has_keys=False), endpoint)


def serve_fastapi(folder: Path, port: int) -> None:
    import lightgbm
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    booster = lightgbm.Booster(model_file=str(folder / "ranker.txt"))
    rows = np.load(folder / "items.npy")
    index = {f"i{n}": n for n in range(len(rows))}

    class RankRequest(BaseModel):
        user_id: str
        items: list[str]

    class RankedItem(BaseModel):
        item_id: str
        score: float

    class RankedList(BaseModel):
        model_version: str
        items: list[RankedItem]

    app = FastAPI()

    @app.get("/readyz")
    def readyz() -> str:
        return "ready"

    @app.post("/v1/rank")
    async def rank(request: RankRequest) -> RankedList:
        scores = booster.predict(rows[[index[i] for i in request.items]], num_threads=1)
        order = np.argsort(-scores)
        items = [RankedItem(item_id=request.items[i], score=scores[i]) for i in order]
        return RankedList(model_version="1", items=items)

    uvicorn.run(app, port=port, log_level="error", access_log=False)


BENTO = """
import os
import bentoml, lightgbm
import numpy as np

FOLDER = os.environ["FIXTURE"]

@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Ranker:
    def __init__(self):
        self.booster = lightgbm.Booster(model_file=FOLDER + "/ranker.txt")
        self.rows = np.load(FOLDER + "/items.npy")
        self.index = {f"i{n}": n for n in range(len(self.rows))}

    @bentoml.api(route="/v1/rank")
    def rank(self, user_id: str, items: list[str]) -> dict:
        scores = self.booster.predict(self.rows[[self.index[i] for i in items]], num_threads=1)
        order = np.argsort(-scores)
        return {"items": [{"item_id": items[i], "score": float(scores[i])} for i in order]}
"""


# --- load -----------------------------------------------------------------------------------------


@dataclass
class Peer:
    """A running server and how it is asked."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    path: str
    ready: str
    body: bytes


async def drive(peer: Peer, connections: int, seconds: float) -> tuple[list[float], int]:
    """(latencies in s, failures) of keep-alive connections that ask again at once."""
    times: list[float] = []
    failures = 0
    stop = time.perf_counter() + seconds
    head = f"POST {peer.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    request = head.encode() + f"content-length: {len(peer.body)}\r\n\r\n".encode() + peer.body

    async def one() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
        while time.perf_counter() < stop:
            start = time.perf_counter()
            writer.write(request)
            status = await read_answer(reader)
            times.append(time.perf_counter() - start)
            failures += status != 200
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return times, failures


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Status of one answer, its body read."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"content-length:" in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    else:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split()[1])


def measure(peer: Peer, seconds: float) -> dict[str, float]:
    """Latency on one connection, throughput on eight, memory of the server's processes."""
    asyncio.run(drive(peer, 1, seconds / 4))
    alone, failed = asyncio.run(drive(peer, 1, seconds))
    before = cpu_seconds(peer)
    start = time.perf_counter()
    many, failed_many = asyncio.run(drive(peer, 8, seconds))
    elapsed = time.perf_counter() - start
    used = cpu_seconds(peer) - before
    return {
        "p50_ms": float(np.percentile(alone, 50)) * 1e3,
        "p99_ms": float(np.percentile(alone, 99)) * 1e3,
        "per_second": len(many) / elapsed,
        "per_cpu_second": len(many) / max(used, 1e-9),
        "p99_of_8_ms": float(np.percentile(many, 99)) * 1e3,
        "memory_mb": memory_mb(peer),
        "failed": failed + failed_many,
    }


def family(peer: Peer) -> list[Any]:
    import psutil

    parent = psutil.Process(peer.process.pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(peer: Peer) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in family(peer))


def memory_mb(peer: Peer) -> float:
    """Proportional set size: shared pages are counted once."""
    return sum(p.memory_full_info().pss for p in family(peer)) / 1e6


# --- starting -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def rank_body(count: int, **more: Any) -> bytes:
    items = [f"i{n}" for n in range(count)]
    return json.dumps({"user_id": "u", "items": items, **more}).encode()


def start(name: str, folder: Path, candidates: int) -> Peer:
    """Start a peer and wait until it answers."""
    port, environment = free_port(), {**os.environ, "PYTHONPATH": str(ROOT), "FIXTURE": str(folder)}
    body, path, ready = rank_body(candidates), "/v1/rank", "/readyz"
    me = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--fixture",
        str(folder),
        "--port",
        str(port),
    ]
    if name in ("ours", "empty", "fastapi"):
        command = [*me, "--server", name]
    elif name == "ours+why":
        command, body = [*me, "--server", "ours"], rank_body(candidates, explain=10)
    elif name == "mlflow":
        command = mlflow_command(folder, port)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        rows = np.load(folder / "items.npy")[:candidates]
        body = json.dumps({"inputs": rows.round(6).tolist()}).encode()
        path, ready = "/invocations", "/ping"
    else:
        command = bento_command(folder, port)
    log = (folder / f"{name}.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    peer = Peer(name, process, port, path, ready, body)
    wait_ready(peer)
    return peer


def mlflow_command(folder: Path, port: int) -> list[str]:
    import lightgbm
    import mlflow

    place = folder / "mlflow_model"
    if not place.exists():
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.lightgbm.save_model(
            lightgbm.Booster(model_file=str(folder / "ranker.txt")),
            str(place),
            pip_requirements=["lightgbm", "mlflow"],
        )
    program = str(Path(sys.executable).with_name("mlflow"))
    return [
        program,
        "models",
        "serve",
        "-m",
        str(place),
        "-p",
        str(port),
        "--env-manager",
        "local",
        "-w",
        "1",
    ]


def bento_command(folder: Path, port: int) -> list[str]:
    """BentoML pins packages of its own, so it lives in a virtual environment of its own."""
    venv = Path(os.environ.get("BENTO_VENV", ROOT / ".venv-bentoml"))
    if not (venv / "bin" / "bentoml").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "-q", "bentoml", "lightgbm", "numpy"]
        subprocess.run(pip, check=True)
    (folder / "bento_service.py").write_text(BENTO)
    program = str(venv / "bin" / "bentoml")
    return [program, "serve", "bento_service:Ranker", "--host", "127.0.0.1", "--port", str(port)]


def wait_ready(peer: Peer, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{peer.port}{peer.ready}", timeout=2):
                return
        except OSError:
            if peer.process.poll() is not None:
                raise SystemExit(f"{peer.name} did not start; see its log") from None
            time.sleep(0.1)
    raise SystemExit(f"{peer.name} was not ready in {seconds} s")


def stop(peer: Peer) -> None:
    for process in reversed(family(peer)):
        process.terminate()
    peer.process.wait(20)


# --- real release ---------------------------------------------------------------------------------


def measure_workspace(config: Path, workers: int, seconds: float) -> None:
    """`recsys serve` on a workspace: its own items, with and without reasons, and recommend."""
    port = free_port()
    command = [sys.executable, "-m", "recsys", "serve", "-c", str(config)]
    command += ["--port", str(port), "--workers", str(workers)]
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    peer = Peer("release", process, port, "/v1/rank", "/readyz", b"")
    try:
        wait_ready(peer)
        print(f"ready after {time.monotonic() - began:.1f} s with {workers} worker(s)")
        ids = catalogue_ids(port, 100)
        header()
        for name, path, body in workspace_calls(ids):
            peer.path, peer.body = path, json.dumps(body).encode()
            print_row(name, measure(peer, seconds))
    finally:
        stop(peer)


def catalogue_ids(port: int, count: int) -> list[str]:
    url = f"http://127.0.0.1:{port}/v1/items?limit={count}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [item["item_id"] for item in json.load(answer)["items"]]


def workspace_calls(ids: list[str]) -> list[tuple[str, str, dict[str, Any]]]:
    user = {"user_id": "42"}
    return [
        (f"rank {len(ids)}", "/v1/rank", {**user, "items": ids}),
        (f"rank {len(ids)}, why 10", "/v1/rank", {**user, "items": ids, "explain": 10}),
        ("rank 10", "/v1/rank", {**user, "items": ids[:10]}),
        ("recommend 10", "/v1/recommend", {**user, "k": 10}),
        ("recommend 10, why 10", "/v1/recommend", {**user, "k": 10, "explain": True}),
    ]


# --- the run --------------------------------------------------------------------------------------


def header() -> None:
    names = ("p50 ms", "p99 ms", "req/s", "req/cpu-s", "p99 of 8", "MB", "failed")
    print(f"{'':24}" + "".join(f"{name:>11}" for name in names))


def print_row(name: str, row: dict[str, float]) -> None:
    cells = [f"{row['p50_ms']:11.2f}{row['p99_ms']:11.2f}{row['per_second']:11.0f}"]
    cells += [f"{row['per_cpu_second']:11.0f}{row['p99_of_8_ms']:11.1f}{row['memory_mb']:11.0f}"]
    print(f"{name:24}" + "".join(cells) + f"{row['failed']:11.0f}", flush=True)


def compare(folder: Path, names: list[str], seconds: float, sizes: list[int]) -> None:
    print(
        f"bare predict of 100 rows: {bare_predict_ms(folder, 100):.2f} ms (median, one thread)",
        flush=True,
    )
    header()
    for name in names:
        peer = start(name, folder, 100)
        try:
            print_row(name, measure(peer, seconds))
            if name == "ours":
                for size in sizes:
                    peer.body = rank_body(size)
                    print_row(f"ours, {size} candidates", measure(peer, seconds / 2))
        finally:
            stop(peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="empty,ours,ours+why,fastapi,mlflow,bentoml")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--sizes", default="10,500,1000", help="candidate counts for ours")
    parser.add_argument("--workspace", type=Path, help="measure `recsys serve` on this config")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    parser.add_argument("--fixture", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.server == "fastapi":
        serve_fastapi(args.fixture, args.port)
    elif args.server:
        serve_ours(args.fixture, args.port, empty=args.server == "empty")
    elif args.workspace:
        measure_workspace(args.workspace, args.workers, args.seconds)
    else:
        folder = Path(tempfile.mkdtemp(prefix="recsys-serve-"))
        try:
            make_fixture(folder)
            sizes = [int(size) for size in args.sizes.split(",") if size]
            compare(folder, args.only.split(","), args.seconds, sizes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
