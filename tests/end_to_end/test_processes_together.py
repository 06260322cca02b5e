"""What deploy/compose.yaml starts, started here: PostgreSQL, MLflow, the night by its timer, the service.

The commands are those of the file; only names of hosts, folders and ports are of this machine.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from recsys.serving.keys import add_key

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
BIN = Path(sys.executable).parent
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, text, popular, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
serving: {{keys_file: keys.yaml, timeout_ms: 60000}}
"""
USERS = 40


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def call(url, key=None, body=None):
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
    data = None if body is None else json.dumps(body).encode()
    with OPENER.open(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return answer.read().decode()


def wait_for(url, process, seconds=240):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, f"ended with {process.returncode}"
        try:
            return call(url)
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"nothing answers at {url}")


@pytest.mark.slow
@pytest.mark.postgres
def test_service_log_registry_and_night(tmp_path, postgres, tiny_model, slice_of_movies):
    folder, users = slice_of_movies(tmp_path / "shop", USERS, CONFIG.format(model=tiny_model))
    key = add_key(folder / "keys.yaml", "shop", ["rank", "events"])
    port, tracking = free_port(), free_port()
    own = {
        "/srv/recsys": str(folder),
        "/srv/mlflow": str(tmp_path / "artifacts"),
        "/srv/every-night.sh": str(DEPLOY / "compose" / "every-night.sh"),
        "postgresql+psycopg://recsys@postgres/mlflow": postgres.uri.replace("://", "+psycopg://"),
        "mlflow:5000": f"127.0.0.1:{tracking}",
        "--port=5000": f"--port={tracking}",
        "0.0.0.0": "127.0.0.1",
        "8080": str(port),
    }
    given = SERVICES["service"]["environment"]
    assert given["RECSYS__SERVING__LOG"].startswith("postgresql://")
    environment = os.environ | {
        "RECSYS__SERVING__LOG": postgres.uri,
        "RECSYS__TRACKING__URI": f"http://127.0.0.1:{tracking}",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }

    def start(name, **more):
        words = []
        for word in SERVICES[name]["command"]:
            for ours, here in own.items():
                word = word.replace(ours, here)
            words.append(word)
        log = (tmp_path / f"{name}.txt").open("w")
        stack.enter_context(log)
        process = subprocess.Popen(
            words, env=environment | more, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path
        )
        stack.callback(stop, process)
        return process

    with ExitStack() as stack:
        mlflow = start("mlflow")
        wait_for(f"http://127.0.0.1:{tracking}/health", mlflow)
        night = start("night", ONCE="1", AT_ONCE="1")
        code = night.wait(timeout=500)
        said = (tmp_path / "night.txt").read_text()
        assert code in (0, 4), said[-3000:]
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert {"time", "level", "message"} <= lines[0].keys()
        metrics = (folder / "work" / "log" / "night.prom").read_text()
        assert 'recsys_night_outcome{outcome="promoted"} 1' in metrics, said[-3000:]

        service = start("service")
        wait_for(f"http://127.0.0.1:{port}/readyz", service)
        asked = {"user_id": users[0], "k": 5}
        answer = json.loads(call(f"http://127.0.0.1:{port}/v1/recommend", key, asked))
        first = answer["items"][0]["item_id"]
        event = {"user_id": users[0], "item_id": first, "event_type": "rating", "value": 5}
        assert "accepted" in call(f"http://127.0.0.1:{port}/v1/events", key, event)
        watched = call(f"http://127.0.0.1:{port}/metrics")
        assert "recsys_model_info{" in watched
        assert 'recsys_requests_total{route="/v1/recommend",status="200"}' in watched


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
