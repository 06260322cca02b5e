import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.operations import notify as module
from recsys.operations.notify import notify
from recsys.storage.progress import Reporter


@pytest.fixture
def webhook(monkeypatch):
    """A server that answers with the codes it is given and keeps what it was sent."""
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    sent, codes = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(codes.pop(0) if codes else 204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.sent, server.codes = sent, codes
    server.url = f"http://127.0.0.1:{server.server_port}/secret-path"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def config_with(tmp_path, **section):
    return parse_config({"data": {"items": "i", "events": "e"}, "notify": section}, tmp_path)


def test_a_note_says_what_happened(webhook, tmp_path):
    config = config_with(tmp_path, webhook=webhook.url)
    facts = {"version": 3, "reason": "better", "metrics": {"ndcg@10": 0.2}}
    assert notify(config, "promoted", facts, Reporter(io.StringIO()))
    note = webhook.sent[0]
    assert note["text"] == "recsys: recsys version 3 is the new champion: better"
    assert note["metrics"] == {"ndcg@10": 0.2}
    assert (note["outcome"], note["model"]) == ("promoted", "recsys")


def test_only_wanted_outcomes_are_told(webhook, tmp_path):
    config = config_with(tmp_path, webhook=webhook.url, on=["failed"])
    assert not notify(config, "promoted", {}, Reporter(io.StringIO()))
    assert notify(config, "failed", {"reason": "no disk"}, Reporter(io.StringIO()))
    assert webhook.sent[0]["text"] == "recsys: the night of recsys failed: no disk"
    assert not notify(config_with(tmp_path), "failed", {}, Reporter(io.StringIO()))


@pytest.mark.parametrize(
    ("codes", "accepted", "calls"),
    [([500, 429], True, 3), ([500] * 3, False, 3), ([404], False, 1)],
)
def test_what_may_pass_is_tried_again(webhook, tmp_path, codes, accepted, calls):
    webhook.codes.extend(codes)
    said = io.StringIO()
    config = config_with(tmp_path, webhook=webhook.url)
    assert notify(config, "failed", {}, Reporter(said)) is accepted
    assert len(webhook.sent) == calls
    assert ("did not accept" in said.getvalue()) is not accepted
    assert "secret-path" not in said.getvalue()


def test_nobody_listening_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    reporter = Reporter(io.StringIO())
    assert not notify(config_with(tmp_path, webhook="http://127.0.0.1:9/x"), "failed", {}, reporter)
    assert len(reporter.warnings) == 1


def test_a_proxy_of_the_environment_is_for_other_machines(webhook, tmp_path, monkeypatch):
    """Another machine's note goes through it, as the server that is the proxy here sees."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    config = config_with(tmp_path, webhook=webhook.url)
    assert notify(config, "failed", {}, Reporter(io.StringIO()))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, webhook.url.removesuffix("/secret-path"))
    config = config_with(tmp_path, webhook="http://hooks.example/x")
    assert notify(config, "failed", {}, Reporter(io.StringIO()))
    assert len(webhook.sent) == 2
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "carrier-pigeon://roof")
    said = io.StringIO()
    assert not notify(config, "failed", {}, Reporter(said))
    assert "did not accept" in said.getvalue()


def test_another_kind_of_address_is_a_wrong_config(tmp_path):
    config = config_with(tmp_path, webhook="file:///etc/passwd")
    with pytest.raises(UsageError, match=r"notify\.webhook"):
        notify(config, "failed", {}, Reporter(io.StringIO()))
