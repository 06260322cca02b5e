"""The service against its peers: one LightGBM model, one load tool, one run.

    python benchmarks/serve.py                      every peer, 100 candidates; sizes for ours
    python benchmarks/serve.py --only ours,fastapi --seconds 3
    python benchmarks/serve.py --workspace demo/recsys.yaml      `recsys serve` on a real release
    python benchmarks/serve.py --workspace demo/recsys.yaml --only empty,ours,ours+why,fastapi,mlflow
                                                    both, one after the other: all figures of the docs

The fixture is a synthetic release (see `release.py`): 300 trees of 31 leaves over 40 features,
10,000 items, 10,000 users with 200,000 events in the state. Peers:

- `ours`: the whole service over that release, everything on: a key to check, recall signals of six
  sources, features from the live state, exploration, impressions logged to SQLite, feature rows
  sampled for parity, metrics, state followed. `ours+why` explains ten items.
- `empty`: our server with a handler that does nothing (the floor of the transport).
- `fastapi`: a minimal hand-written FastAPI and pydantic app that looks finished feature rows up and
  predicts.
- `mlflow`: `mlflow models serve` of the same booster; it is sent the finished 100x40 matrix as JSON.
- `bentoml`: a BentoML service in a virtual environment of its own (made on first use), that looks
  finished rows up as `fastapi` does.

The peers compute no feature; ours computes all of them. All servers run one process and are asked by
wrk over keep-alive connections on 127.0.0.1, 200 different requests in turn: one connection for
latency, eight for throughput. The 200 requests come again and again, so what recall says of their
people is kept after the first round; a row "anew" is of requests that each bring an event that was
not there before, so that every history is read: `kept` is the share of answers from what was kept,
as `/metrics` counts it. Cores are shared with the load tool, so processor time per request is
given as well: it is what compares on a busy machine, where wall-clock times are rough.
"""

import argparse
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
sys.path.append(str(Path(__file__).resolve().parent))
ITEMS, USERS, EVENTS = 10_000, 10_000, 200_000
PEERS = "empty,ours,ours+why,fastapi,mlflow,bentoml"
BODIES = 200
"""Different requests of a peer, asked in turn."""


def bare_predict_ms(folder: Path, rows: int) -> tuple[float, float]:
    """Medians of the predict alone, milliseconds: (by the clock, of processor time)."""
    import lightgbm

    booster = lightgbm.Booster(model_file=str(folder / "ranker.txt"))
    x = np.load(folder / "rows.npy")[:rows]
    wall, cpu = [], []
    for _ in range(300):
        start, used = time.perf_counter(), time.thread_time()
        booster.predict(x, num_threads=1)
        wall.append(time.perf_counter() - start)
        cpu.append(time.thread_time() - used)
    return float(np.median(wall)) * 1e3, float(np.median(cpu)) * 1e3


def prepare(folder: Path, items: int, users: int, events: int) -> None:
    """A release and a key in `folder`, unless they are there."""
    from synthetic_release import make_release

    from recsys.serving.keys import add_key

    if (folder / "key").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    make_release(folder, items, users, events)
    (folder / "key").write_text(add_key(folder / "keys.yaml", "benchmark", ["rank", "events"]))


# --- servers, each in a process of its own -------------------------------------------------------


def service(folder: Path, log: Path) -> Any:
    """The whole service over the release, everything on."""
    from synthetic_release import SyntheticRelease

    from recsys.serving.app import App
    from recsys.serving.settings import ServiceSettings
    from recsys.storage.eventlog import open_log

    settings = ServiceSettings(
        max_queue=256,
        clock="end_of_data",
        keys_file=folder / "keys.yaml",
        explore_share=0.05,
    )
    return App(SyntheticRelease(folder), lambda: open_log(log), settings)


def serve_ours(folder: Path, port: int, empty: bool) -> None:
    from starlette.responses import Response

    from recsys.serving.server import Endpoint, bind, run_worker

    endpoint = Endpoint(port=port)
    app = service(folder, Path(tempfile.mkdtemp(dir=folder)) / "log.sqlite")
    if empty:
        whole = app._http

        async def nothing(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != "/v1/rank":
                return await whole(scope, receive, send)
            await receive()
            return await Response(b"{}")(scope, receive, send)

        app._http = nothing
    run_worker(app, bind(endpoint, has_keys=False), endpoint)


def serve_fastapi(folder: Path, port: int) -> None:
    import lightgbm
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    booster = lightgbm.Booster(model_file=str(folder / "ranker.txt"))
    rows = np.load(folder / "rows.npy")
    index = {f"item-{n}": n % len(rows) for n in range(ITEMS)}

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
        self.rows = np.load(FOLDER + "/rows.npy")
        self.index = {f"item-{n}": n % len(self.rows) for n in range(10_000)}

    @bentoml.api(route="/v1/rank")
    def rank(self, user_id: str, items: list[str]) -> dict:
        scores = self.booster.predict(self.rows[[self.index[i] for i in items]], num_threads=1)
        order = np.argsort(-scores)
        return {"items": [{"item_id": items[i], "score": float(scores[i])} for i in order]}
"""


# --- load -----------------------------------------------------------------------------------------


ANY_ITEM = "<any item>"
"""In a request: an item drawn for each time that it is sent."""
WRK = """
local bodies, items = {}, {}
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
for line in io.lines("ITEMS") do items[#items + 1] = line end
local headers = {["content-type"] = "application/json", ["x-api-key"] = "KEY"}
local turn = 0
request = function()
  turn = turn % #bodies + 1
  local body = bodies[turn]:gsub("ANY", function() return items[math.random(#items)] end)
  return wrk.format("POST", nil, headers, body)
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %f %f %d %d %f\\n", latency:percentile(50), latency:percentile(99),
    summary.requests, summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout, summary.duration))
end
"""


@dataclass
class Peer:
    """A running server and how it is asked."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    path: str
    ready: str
    bodies: list[bytes]
    key: str = ""
    items: tuple[str, ...] = ("",)
    """What `ANY_ITEM` may stand for."""


def drive(peer: Peer, connections: int, seconds: float) -> dict[str, float]:
    """wrk on keep-alive connections that ask again at once; times in ms."""
    with tempfile.TemporaryDirectory() as place:
        bodies, items = Path(place) / "bodies", Path(place) / "items"
        script = Path(place) / "script.lua"
        bodies.write_bytes(b"\n".join(peer.bodies) + b"\n")
        items.write_text("\n".join(peer.items) + "\n", encoding="utf-8")
        text = WRK.replace("BODIES", str(bodies)).replace("ITEMS", str(items))
        script.write_text(text.replace("ANY", ANY_ITEM).replace("KEY", peer.key))
        before = cpu_seconds(peer)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s"]
        command += [str(script), f"http://127.0.0.1:{peer.port}{peer.path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used = cpu_seconds(peer) - before
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
    p50, p99, requests, failed, duration = map(float, line.split()[1:])
    return {
        "p50": p50 / 1e3,
        "p99": p99 / 1e3,
        "per_second": requests / (duration / 1e6),
        "cpu_ms": used * 1e3 / max(1.0, requests),
        "failed": failed,
    }


def measure(peer: Peer, seconds: float) -> dict[str, float]:
    """Latency on one connection, throughput on eight, memory of the server's processes."""
    drive(peer, 1, seconds / 4)
    before = recalls(peer)
    one_client = drive(peer, 1, seconds)
    many = drive(peer, 8, seconds)
    return {
        "p50_ms": one_client["p50"],
        "p99_ms": one_client["p99"],
        "cpu_ms": one_client["cpu_ms"],
        "per_second": many["per_second"],
        "per_cpu_second": 1e3 / many["cpu_ms"],
        "p99_of_8_ms": many["p99"],
        "memory_mb": memory_mb(peer),
        "kept": kept_share(before, recalls(peer)),
        "failed": one_client["failed"] + many["failed"],
    }


def recalls(peer: Peer) -> dict[str, float]:
    """Answers of recall by outcome so far, as the service counts them; none of a server that does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{peer.port}/metrics", timeout=10) as answer:
            shown = answer.read().decode()
    except OSError:
        return {}
    lines = (line for line in shown.splitlines() if line.startswith("recsys_recalls_total{"))
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def kept_share(before: dict[str, float], after: dict[str, float]) -> float:
    """Share of the answers between two counts that came from what was kept; NaN where none did."""
    more = {name: count - before.get(name, 0.0) for name, count in after.items()}
    return more.get("kept", 0.0) / sum(more.values()) if sum(more.values()) else float("nan")


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


def rank_bodies(count: int, items: int = ITEMS, users: int = USERS, **more: Any) -> list[bytes]:
    """Requests of random users for random candidates."""
    draw = np.random.default_rng(count)
    return [
        json.dumps(
            {
                "user_id": f"user-{draw.integers(users)}",
                "items": [f"item-{i}" for i in draw.choice(items, count, replace=False)],
                **more,
            }
        ).encode()
        for _ in range(BODIES)
    ]


def start(name: str, folder: Path, candidates: int) -> Peer:
    """Start a peer and wait until it answers."""
    port, environment = free_port(), {**os.environ, "FIXTURE": str(folder)}
    bodies, path, ready = rank_bodies(candidates), "/v1/rank", "/readyz"
    here = str(Path(__file__).resolve())
    me = [sys.executable, here, "--fixture", str(folder), "--port", str(port)]
    if name in ("ours", "empty", "fastapi"):
        command = [*me, "--server", name]
    elif name == "ours+why":
        command, bodies = [*me, "--server", "ours"], rank_bodies(candidates, explain=10)
    elif name == "mlflow":
        command = mlflow_command(folder, port)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        rows = np.nan_to_num(np.load(folder / "rows.npy")).round(6)
        parts = [rows[n : n + candidates] for n in range(0, len(rows) - candidates, candidates)]
        bodies = [json.dumps({"inputs": part.tolist()}).encode() for part in parts]
        path, ready = "/invocations", "/ping"
    else:
        command = bento_command(folder, port)
    log = (folder / f"{name}.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    key = (folder / "key").read_text()
    items = tuple(f"item-{n}" for n in range(ITEMS))
    peer = Peer(name, process, port, path, ready, bodies, key, items)
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


def wait_ready(peer: Peer, seconds: float = 300) -> None:
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
    """`recsys serve` on a workspace: its own people and items, with and without reasons, kept and read
    anew, and recommend."""
    port = free_port()
    command = [sys.executable, "-m", "recsys", "serve", "-c", str(config)]
    command += ["--port", str(port), "--workers", str(workers)]
    began = time.monotonic()
    users, items = people_and_items(config)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peer = Peer("release", process, port, "/v1/rank", "/readyz", [], items=tuple(items))
    try:
        wait_ready(peer)
        print(f"ready after {time.monotonic() - began:.1f} s with {workers} worker(s)")
        header()
        for name, path, bodies in workspace_calls(users, items):
            peer.path, peer.bodies = path, [json.dumps(body).encode() for body in bodies]
            print_row(name, measure(peer, seconds))
    finally:
        stop(peer)


def people_and_items(config: Path) -> tuple[list[str], list[str]]:
    """Ids of up to `BODIES` people of a workspace's events, and of all its items."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from recsys.data_schemas.config import load_config

    given = load_config(config)
    events, table = given.path(given.data.events), given.path(given.data.items)
    users = pc.unique(pq.read_table(events, columns=["user_id"])["user_id"])
    users = pc.cast(users, "string").to_pylist()
    ids = pc.cast(pq.read_table(table, columns=["item_id"])["item_id"], "string")
    draw = np.random.default_rng(5)
    chosen = draw.choice(len(users), min(BODIES, len(users)), replace=False)
    return [users[place] for place in chosen], ids.to_pylist()


def workspace_calls(
    users: list[str], items: list[str]
) -> list[tuple[str, str, list[dict[str, Any]]]]:
    draw = np.random.default_rng(6)

    def some(count: int) -> list[str]:
        return [items[n] for n in draw.choice(len(items), min(count, len(items)), replace=False)]

    def rank(count: int, **more: Any) -> list[dict[str, Any]]:
        return [{"user_id": user, "items": some(count), **more} for user in users]

    def recommend(**more: Any) -> list[dict[str, Any]]:
        return [{"user_id": user, "k": 10, **more} for user in users]

    new: dict[str, Any] = {"history": [{"item_id": ANY_ITEM}]}
    return [
        ("rank 100", "/v1/rank", rank(100)),
        ("rank 100, anew", "/v1/rank", rank(100, **new)),
        ("rank 100, why 10", "/v1/rank", rank(100, explain=10)),
        ("rank 1,000", "/v1/rank", rank(1000)),
        ("rank 10", "/v1/rank", rank(10)),
        ("recommend 10", "/v1/recommend", recommend()),
        ("recommend 10, anew", "/v1/recommend", recommend(**new)),
        ("recommend 10, why 10", "/v1/recommend", recommend(explain=True)),
    ]


# --- the run --------------------------------------------------------------------------------------


def header() -> None:
    names = ("p50 ms", "p99 ms", "cpu ms", "req/s", "req/cpu-s", "p99 of 8", "MB", "kept", "failed")
    print(f"{'':24}" + "".join(f"{name:>11}" for name in names))


def print_row(name: str, row: dict[str, float]) -> None:
    cells = [f"{row['p50_ms']:11.2f}{row['p99_ms']:11.2f}{row['cpu_ms']:11.2f}"]
    cells += [f"{row['per_second']:11.0f}{row['per_cpu_second']:11.0f}"]
    cells += [f"{row['p99_of_8_ms']:11.1f}{row['memory_mb']:11.0f}"]
    cells += [f"{row['kept']:11.2f}{row['failed']:11.0f}"]
    print(f"{name:24}" + "".join(cells), flush=True)


def compare(folder: Path, names: list[str], seconds: float, sizes: list[int]) -> None:
    rows: dict[str, dict[str, float]] = {}
    wall, cpu = bare_predict_ms(folder, 100)
    print(f"bare predict of 100 rows: {wall:.2f} ms, {cpu:.2f} ms of processor time (medians)")
    header()
    for name in names:
        peer = start(name, folder, 100)
        try:
            rows[name] = measure(peer, seconds)
            print_row(name, rows[name])
            if name in ("ours", "ours+why"):
                more = {"explain": 10} if name == "ours+why" else {}
                for size in sizes if name == "ours" else ():
                    peer.bodies = rank_bodies(size, **more)
                    print_row(f"{name}, {size} candidates", measure(peer, seconds / 2))
                peer.bodies = rank_bodies(100, history=[{"item_id": ANY_ITEM}], **more)
                print_row(f"{name}, anew", measure(peer, seconds / 2))
        finally:
            stop(peer)
    if "ours" in rows:
        print_ratios(rows, wall, cpu)


def print_ratios(rows: dict[str, dict[str, float]], wall: float, cpu: float) -> None:
    ours = rows["ours"]
    if "empty" in rows:
        for label, key, bare in (("p50", "p50_ms", wall), ("processor time", "cpu_ms", cpu)):
            times = (ours[key] - rows["empty"][key]) / bare
            print(f"{label} of ours = empty handler + {times:.2f} x bare predict")
        print(f"p99 of ours / p50 of ours: {ours['p99_ms'] / ours['p50_ms']:.2f}")
    for name in ("fastapi", "mlflow", "bentoml"):
        if name in rows:
            wide = ours["per_second"] / rows[name]["per_second"]
            deep = ours["per_cpu_second"] / rows[name]["per_cpu_second"]
            print(f"requests per second against {name}: {wide:.1f} x; per cpu-second {deep:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="peers, instead of all; with a workspace, besides it")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--release", type=Path, help="folder of the release; made there if empty")
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
    else:
        measure_all(args)


def measure_all(args: argparse.Namespace) -> None:
    """A workspace where one is named, the peers, or both."""
    if args.workspace:
        measure_workspace(args.workspace, args.workers, args.seconds)
    if args.only or not args.workspace:
        folder = args.release or Path(tempfile.mkdtemp(prefix="recsys-serve-"))
        try:
            prepare(folder, ITEMS, USERS, EVENTS)
            sizes = [int(size) for size in args.sizes.split(",") if size]
            compare(folder, (args.only or PEERS).split(","), args.seconds, sizes)
        finally:
            if args.release is None:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
