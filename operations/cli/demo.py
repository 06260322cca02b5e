"""`recsys demo`: a night's retraining on bundled real data, then a ranking call to the service and a film
that nobody has seen."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.yaml_text import read_yaml
from recsys.operations.cli.demo_new_film import last_here, post_and_ask, told
from recsys.operations.cli.night_commands import exit_code, say

READY_SECONDS = 300.0
"""How long the service may take to be ready; measured: 23 s with ten jobs a core beside it."""
STOP_SECONDS = 60.0
"""How long it may take to stop: it answers what is in flight (20 s at most) and writes what waits."""
SHOWN = 5


def run_demo(args: argparse.Namespace) -> int:
    """Lay the data out where it is not yet, run the night, serve, ask once, stop."""
    from recsys.ingestion.bundled import lay_out_movies
    from recsys.training.nightly import run_night

    folder = Path(args.dir)
    config_file = lay_out_movies(folder)
    print(f"bundled data and a commented config are in {folder}/")
    result = run_night(load_config(config_file))
    say(result)
    with apart(config_file) as beside, service(beside) as address:
        show_call(address)
        show_new_film(address, folder / "data" / "events.parquet")
    print(
        f"\nserve it yourself:  {_own_name()} serve -c {config_file}\n"
        "and send it the same calls, to http://127.0.0.1:8080"
    )
    return exit_code(result)


def _own_name() -> str:
    """The command as this shell finds it."""
    if shutil.which("recsys"):
        return "recsys"
    as_module = Path(sys.argv[0]).name == "__main__.py"
    return f"{sys.executable} -m recsys" if as_module else sys.argv[0]


@contextmanager
def apart(config_file: Path) -> Iterator[Path]:
    """A config of the same workspace whose log is thrown away: the demonstration's own calls are
    nobody's behaviour, and a second run has nothing new to learn."""
    settings = read_yaml(config_file.read_text(encoding="utf-8"))
    beside = config_file.with_name(f".{config_file.stem}.{os.getpid()}.yaml")
    with tempfile.TemporaryDirectory(prefix="recsys-demo-") as folder:
        settings["serving"] = (settings.get("serving") or {}) | {"log": f"{folder}/log.sqlite"}
        try:
            beside.write_text(yaml.safe_dump(settings), encoding="utf-8")
            yield beside
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def service(config_file: Path) -> Iterator[str]:
    """The service on a free loopback port for the duration of the block; yields its address."""
    command = [sys.executable, "-m", "recsys", "serve", "-c", str(config_file), "--port", "0"]
    log = config_file.parent / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield _ready(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until /readyz answers; the address is read off the service's first line."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"https?://[\w.\[\]:-]+", text)
        if process.poll() is not None:
            raise RecsysError(
                "the service did not start", where=str(log), found=text.strip()[-1000:]
            )
        if found:
            try:
                if _asked("GET", f"{found[0]}/readyz", timeout=2).is_success:
                    return found[0]
            except httpx.TransportError:
                pass
        time.sleep(0.1)
    raise RecsysError(
        "the service was not ready in time", where=str(log), expected=f"{READY_SECONDS:g} s"
    )


def show_call(address: str) -> None:
    """Make one ranking call, print it as curl and its answer."""
    items = [item["item_id"] for item in _get(f"{address}/v1/items?limit=8")["items"]]
    user = {"user_id": "u1", "items": items, "explain": True}
    body = json.dumps(user)
    print(f"\ncurl -s {address}/v1/rank -H 'Content-Type: application/json' -d '{body}'")
    answer = _post(f"{address}/v1/rank", body)
    answer["items"] = answer["items"][:SHOWN]
    print(json.dumps(answer, indent=1, ensure_ascii=False)[:4000])
    body = json.dumps({"user_id": "u1", "k": SHOWN})
    print(f"\ncurl -s {address}/v1/recommend -H 'Content-Type: application/json' -d '{body}'")
    recommended = _post(f"{address}/v1/recommend", body)
    print(json.dumps(recommended, ensure_ascii=False)[:2000])


def show_new_film(address: str, events: Path) -> None:
    """Post a film that nobody has seen, print who gets it and a person's list before and after."""
    people, created_at = last_here(events)

    def call(method: str, path: str, body: Any) -> Any:
        sent = {} if body is None else {"json": body}
        return _asked(method, f"{address}{path}", **sent).raise_for_status().json()

    print("\n" + "\n".join(told(post_and_ask(call, people, created_at))))


def _asked(method: str, url: str, timeout: float = 60.0, **more: Any) -> httpx.Response:
    """Of the service here, whatever proxy the environment names for other machines."""
    return httpx.request(method, url, timeout=timeout, trust_env=False, **more)


def _get(url: str) -> Any:
    return _asked("GET", url).raise_for_status().json()


def _post(url: str, body: str) -> Any:
    headers = {"Content-Type": "application/json"}
    return _asked("POST", url, content=body, headers=headers).raise_for_status().json()
