"""Takes the pictures of README and docs from a demonstration, with Chromium: `make pictures`.

    python docs/site/pictures.py demo

The newest report, and the demonstration page of a person with a history: reasons open, and two
versions side by side where there are two.
"""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parents[1] / "images"
WIDTH, HEIGHT = 1280, 1000
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({}))
CONTROLS = {
    "user": "#user", "other": "#other", "recommend": "#who button", "rows": "#list li",
    "why": "#list details", "sentence": "#list details summary", "history": "#history li",
    "second": "#second-list li", "status": "#status",
}  # fmt: skip
"""What is used of the demonstration page; a test holds the page to it."""


def chromium() -> str:
    """A Chromium that runs."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found and not subprocess.run([found, "--version"], capture_output=True).returncode:
            return found
    raise SystemExit("no Chromium runs here")


class Tab:
    """One tab of a headless Chromium, driven over the DevTools protocol."""

    def __init__(self, url: str, folder: Path) -> None:
        from websockets.sync.client import connect

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-first-run", "--disable-background-networking", "--remote-debugging-port=0",
                 "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]  # fmt: skip
        errors = (folder / "chromium.txt").open("wb")
        self._process = subprocess.Popen(
            [chromium(), *flags, f"--user-data-dir={folder / 'profile'}", url],
            stdout=errors,
            stderr=errors,
        )
        errors.close()
        port = self._port(folder / "profile" / "DevToolsActivePort")
        pages = json.load(OPEN.open(f"http://127.0.0.1:{port}/json", timeout=60))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self._socket = connect(address, max_size=None, open_timeout=60)
        self._number = 0

    def _port(self, file: Path) -> str:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if file.exists() and file.read_text().strip():
                return file.read_text().split()[0]
            time.sleep(0.1)
        raise SystemExit("Chromium did not start")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("id") == self._number:
                return dict(message["result"])

    def run(self, script: str) -> Any:
        """A script's value."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def wait(self, script: str, what: str) -> None:
        """Until a script is true; the picture's maker is told what never came."""
        until = time.monotonic() + 120
        while not self.run(script):
            if time.monotonic() > until:
                raise SystemExit(f"the page never had {what}: {script}")
            time.sleep(0.1)

    def picture(self, name: str, height: int = HEIGHT) -> Path:
        """Keep what is seen."""
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        (IMAGES / name).write_bytes(base64.b64decode(shot))
        return IMAGES / name

    def close(self) -> None:
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait()


def show_person(tab: Any, user: str) -> None:
    """A person's list with its reasons open, and a second version beside it where there is one."""
    named = {name: json.dumps(selector) for name, selector in CONTROLS.items()}
    count = "document.querySelectorAll({}).length".format
    tab.wait(f"{count(named['rows'])} > 0", "a list")
    tab.run(f"document.querySelector({named['user']}).value = {json.dumps(user)}")
    tab.run(
        f"(() => {{ const other = document.querySelector({named['other']});"
        " if (other.options.length > 1) other.selectedIndex = 1; })()"
    )
    tab.run(f"document.querySelector({named['recommend']}).click()")
    # The first list is somebody else's and still stands there while theirs is asked for.
    told = f"document.querySelector({named['status']}).textContent"
    tab.wait(f"{told}.includes('for ' + {json.dumps(user)})", "this person's list")
    tab.wait(f"{count(named['history'])} > 0", "a history")
    tab.wait(f"{count(named['why'])} > 0", "reasons")
    tab.wait(f"document.querySelector({named['sentence']}).textContent.length > 4", "a sentence")
    tab.run(
        f"[...document.querySelectorAll({named['why']})].slice(0, 3).forEach((d) => d.open = true)"
    )


def person_of(demo: Path) -> str:
    """Somebody with a history that fits the page: fifty events."""
    import pyarrow.parquet as pq

    counts = pq.read_table(demo / "data" / "events.parquet", columns=["user_id"])[
        "user_id"
    ].value_counts()
    return str(min(counts.to_pylist(), key=lambda entry: abs(entry["counts"] - 50))["values"])


def main(demo: Path) -> None:
    """Both pictures."""
    from recsys.operations.cli.demo import apart, service

    reports = sorted(demo.glob("work/reports/*/report.html"))
    if not reports:
        raise SystemExit(f"there is no report below {demo}; run `recsys demo {demo}` first")
    with tempfile.TemporaryDirectory() as folder:
        tab = Tab(reports[-1].resolve().as_uri(), Path(folder))
        try:
            tab.wait("document.readyState === 'complete'", "an end")
            print(tab.picture("report.png"))
        finally:
            tab.close()
    with (
        tempfile.TemporaryDirectory() as folder,
        apart(demo / "recsys.yaml") as beside,
        service(beside) as address,
    ):
        tab = Tab(f"{address}/", Path(folder))
        try:
            show_person(tab, person_of(demo))
            print(tab.picture("page.png", height=1400))
        finally:
            tab.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
