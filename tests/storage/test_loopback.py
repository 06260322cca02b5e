"""A proxy of the environment is not asked for this machine."""

import http.server
import os
import threading

import httpx
import pytest

from recsys.serving.client import ApiError, Client
from recsys.storage.loopback import exempt, is_here

NOBODY = "http://127.0.0.1:9"
"""Where a proxy would be; nothing listens there."""


@pytest.fixture
def behind_a_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, NOBODY)
        monkeypatch.setenv(name.upper(), NOBODY)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def here():
    """Address of a server that says it is ready."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ready"}')

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_client_reaches_this_machine(here, behind_a_proxy):
    with Client(here) as client:
        assert client.ready()
    with pytest.raises(httpx.ConnectError):
        httpx.get(here, timeout=10)


def test_other_machines_are_asked_through_the_proxy(behind_a_proxy):
    with Client("http://shop.example", retries=0) as client, pytest.raises(ApiError):
        client.models()


def test_libraries_are_told(monkeypatch):
    monkeypatch.setenv("no_proxy", "intranet")
    monkeypatch.setenv("NO_PROXY", "")
    exempt("http://tracking.example:5000")
    exempt("http://user@localhost:5000")
    exempt("http://localhost:5001")
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == ("intranet,localhost", "localhost")


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8080", True),
        ("https://[::1]/x", True),
        ("http://localhost", True),
        ("http://localhost.example", False),
        ("http://10.0.0.1", False),
        ("sqlite:///x", False),
    ],
)
def test_which_addresses_are_here(url, here):
    assert is_here(url) is here
