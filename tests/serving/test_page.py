"""The demonstration page in headless Chromium: act, see the list change, nothing runs that is text."""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from recsys.serving.keys import add_key


def chromium():
    """A Chromium that runs: a distribution's placeholder for a package elsewhere does not."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found and not subprocess.run([found, "--version"], capture_output=True).returncode:
            return found
    return None


CHROMIUM = chromium()
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--window-size=1280,1000",
)
PICTURES = Path(__file__).parents[2] / "docs" / "site" / "pictures.py"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium runs here")


class Quiet(SimpleHTTPRequestHandler):
    """A shop's own server."""

    def log_message(self, *_):
        pass


class Page:
    """One tab, driven over the DevTools protocol."""

    def __init__(self, folder, url):
        client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", url]
        self._open = ExitStack()
        with ExitStack() as opening:
            errors = opening.enter_context((folder / "chromium.txt").open("wb"))
            process = opening.enter_context(subprocess.Popen(command, stdout=errors, stderr=errors))
            opening.callback(process.terminate)
            port = self._port(folder / "profile" / "DevToolsActivePort")
            connection = client.connect(self._target(port, url), max_size=None, open_timeout=60)
            self._socket = opening.enter_context(connection)
            self._open = opening.pop_all()
        self._number = 0
        self.problems = []
        self.call("Runtime.enable")
        self.call("Log.enable")

    def _port(self, file):
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if file.exists() and file.read_text().strip():
                return file.read_text().split()[0]
            time.sleep(0.05)
        raise AssertionError("Chromium did not start")

    def _target(self, port, url):
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=60) as answer:
                for target in json.load(answer):
                    if target["type"] == "page" and target["url"].startswith(url):
                        return target["webSocketDebuggerUrl"]
            time.sleep(0.05)
        raise AssertionError("the page did not open")

    def call(self, method, **parameters):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("method") == "Runtime.exceptionThrown":
                self.problems.append(message["params"]["exceptionDetails"])
            entry = message.get("params", {}).get("entry", {})
            if entry.get("source") == "security":
                self.problems.append(entry)
            if message.get("id") == self._number:
                return message["result"]

    def run(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script, what=None, seconds=120):
        until = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < until, (
                f"never true: {script}\n{self.run('document.body.innerText')}"
            )
            time.sleep(0.05)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        self._open.close()


@pytest.fixture
def page(live, tmp_path):
    with live() as server:
        opened = Page(tmp_path, server.url + "/")
        try:
            yield opened
        finally:
            opened.close()


ROWS = "[...document.querySelectorAll('#list li')].map((row) => row.dataset.itemId)"


def test_an_action_changes_the_list_and_text_stays_text(page, tmp_path):
    page.wait("document.querySelectorAll('#list li').length === 10")
    page.wait("document.querySelectorAll('#found li').length === 20")
    before = page.run(ROWS)
    page.run("document.querySelector('#list li .acts button:last-child').click()")
    page.wait("document.querySelector('#history .title') !== null")
    page.wait(f"!({ROWS}).includes({json.dumps(before[0])})")
    assert page.run("document.querySelector('#history .meta').textContent").startswith("purchase")
    assert "new in the list" in page.run("document.querySelector('#list').innerText")

    page.run(
        "document.querySelector('#query').value = 'script'; document.querySelector('#search button').click()"
    )
    page.wait("document.querySelectorAll('#found li').length === 1")
    title = page.run("document.querySelector('#found .title').textContent")
    assert title == "<script>document.title='hacked'</script>"
    assert page.run("document.title") == "recsys: see the list change"
    assert page.run("document.querySelectorAll('main script').length") == 0

    page.run(
        "const other = document.querySelector('#other'); other.value = '2'; other.dispatchEvent(new Event('change'))"
    )
    page.wait(
        "!document.querySelector('#second').hidden && document.querySelectorAll('#second-list li').length === 10"
    )
    assert page.run("document.querySelector('#second-title').textContent").endswith("version 2")

    page.run("document.querySelector('#new-title').value = '<b>A new film</b>'")
    page.run("document.querySelector('#new button').click()")
    page.wait("document.querySelector('#new-place .meta') !== null")
    assert (
        page.run("document.querySelector('#new-place .title').textContent") == "<b>A new film</b>"
    )
    said = page.run("document.querySelector('#new-place .meta').textContent")
    assert re.fullmatch(r"place \d+ of 11 beside the list", said)

    page.run("document.querySelector('#forget').click()")
    page.wait("document.querySelector('#history').innerText.includes('Nothing yet')")
    assert not page.problems
    page.picture(Path(tmp_path) / "page.png")


def test_every_control_has_a_name(page):
    page.wait("document.querySelectorAll('#list li').length === 10")
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, meter')].filter((node) => "
        "!(node.textContent.trim() || node.labels?.length || node.ariaLabel)).length"
    )
    assert nameless == 0
    assert page.run("document.documentElement.lang") == "en"
    assert re.match(
        r"10 items for visitor", page.run("document.querySelector('#status').textContent")
    )


LIVE = {
    "window_days": 7, "champion": "1", "before": "0", "fall": "version 1 earns less <i>", "drift": [],
    "change": {"positive@10": {"before": 0.2, "now": 0.1}},
    "versions": [{
        "version": "1", "lists": 5, "persons": 4, "coverage": 0.5,
        "rates": {"positive@10": [0.1, None, None]},
        "days": {"2026-01-01": {"positive@10": [0.1, 0.05, 0.2]},
                 "2026-01-02": {"positive@10": [0.2, 0.1, 0.3]}},
    }],
}  # fmt: skip
NIGHT = {
    "report": "20260101T000000", "verdict": "Ahead.", "alarms": ["an alarm"], "seconds": 90.5,
    "stages": [{"name": "tables", "seconds": 1.5, "peak_mb": 300.0, "skipped": False}],
    "drift": [{"what": "events", "measure": "PSI", "value": 0.5, "limit": 0.25, "level": "warn"}],
    "parity": [{"name": "36 features", "passed": True, "detail": "equal"}],
}  # fmt: skip


@pytest.mark.parametrize("width", [390, 1400])
def test_the_operators_page_draws_what_there_is(live, fakes, tmp_path, width):
    provider = fakes[0]()
    provider.live = lambda: LIVE
    provider.operations = lambda: {
        "name": "shop", "champion": 1, "live": LIVE, "last_night": NIGHT, "missing": ["x: y"],
        "history": [{"at": "2026-01-01T00:00:00", "action": "promote", "version": 1,
                     "before": None, "reason": "first"}],
        "nights": [{"version": 1, "at": "2026-01-01T00:00:00", "outcome": "promote",
                    "aliases": ["champion"], "reasons": ["first"], "ndcg@10": 0.2}],
        "experiments": [], "at_work": None, "bytes": {"state": 1500},
    }  # fmt: skip
    with live(provider) as server:
        opened = Page(tmp_path, server.url + "/ops")
        try:
            opened.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900,
                deviceScaleFactor=1, mobile=width < 800,
            )  # fmt: skip
            opened.wait("document.querySelector('#stages td') !== null")
            alarms = opened.run("document.querySelector('#alarms').innerText")
            for said in ("an alarm", "earns less <i>", "cannot be read: x: y"):
                assert said in alarms
            assert opened.run("document.querySelectorAll('#live svg line').length") == 2
            # Wide tables scroll by themselves: the page does not.
            assert opened.run("document.documentElement.scrollWidth <= innerWidth")
            assert not opened.problems
            opened.picture(tmp_path / "ops.png")
        finally:
            opened.close()


def test_the_pictures_find_what_they_show(page):
    """`make pictures` drives this page; where its structure changes, it must change too."""
    spec = importlib.util.spec_from_file_location("pictures", PICTURES)
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    page.wait("document.querySelectorAll('#list li').length === 10")
    page.run("document.querySelector('#list li .acts button:last-child').click()")
    page.wait("document.querySelector('#history .title') !== null")
    pictures.show_person(page, page.run("document.querySelector('#user').value"))
    assert page.run("document.querySelectorAll('#list details[open]').length") >= 3


def test_the_documents_snippet_sends_events_with_a_collect_key(live, tmp_path):
    """The lines of docs/api.md in a shop's page, which lies on another origin."""
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```html\n(<script>\nconst endpoint.*?</script>)\n```", text, re.S)
    key = add_key(tmp_path / "keys.yaml", "page", ["collect"])
    with live(keys_file=tmp_path / "keys.yaml", clock="wall") as server, ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=tmp_path)
    ) as shop:  # fmt: skip
        page = snippet.replace(
            re.search(r'"(https://[^"]*)"', snippet)[1], f"{server.url}/v1/events?key={key}"
        )
        (tmp_path / "shop.html").write_text(f'<div data-item="3" data-list="l">Film</div>{page}')
        Thread(target=shop.serve_forever, daemon=True).start()
        opened = Page(tmp_path, f"http://127.0.0.1:{shop.server_address[1]}/shop.html")
        try:
            opened.wait("document.querySelector('[data-item]') !== null")
            opened.run("document.querySelector('[data-item]').click()")
            session = opened.run("session")
            assert opened.run("waiting.length") == 1
            opened.run("send()")
            kept = server.app.versions.champion().events
            until = time.monotonic() + 60
            while f"session:{session}" not in kept:
                assert time.monotonic() < until, "no event arrived"
                time.sleep(0.05)
        finally:
            opened.close()
            shop.shutdown()
    (event,) = kept[f"session:{session}"]
    assert (event["item_id"], event["event_type"]) == ("3", "click")
    assert event["impression_id"] == "l"
