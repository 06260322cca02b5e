"""More than can be answered: connections, heads, bodies and posts that are under way at the end."""

import asyncio
import json
import re
import socket
import time
from dataclasses import replace

import httpx

from recsys.serving.turns import Turns

ASK = {"user_id": "u", "items": ["1", "2"]}
EVENT = {"user_id": "u", "item_id": "1", "event_type": "click"}


def sleepy(fakes, seconds):
    """A provider whose rankings hold the loop for some time."""
    provider, engine = fakes

    class Slow(engine):
        def answer(self, ask):
            if ask.user_id:
                time.sleep(seconds)
            return super().answer(ask)

    slow = provider()
    slow.load = lambda version: Slow("1")
    return slow


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def post(path, body, length=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = len(data) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {size}\r\n\r\n".encode() + data


def refused(server, reason):
    shown = httpx.get(server.url + "/metrics").text
    found = re.search(rf'recsys_arrivals_refused_total{{reason="{reason}"}} (\S+)', shown)
    return float(found[1]) if found else 0.0


def test_between_two_turns_the_loop_looks_around():
    async def scenario():
        turns, order = Turns(), []

        async def rank(name):
            await turns.take()
            order.append(name)

        async def notice():
            for n in range(6):
                await asyncio.sleep(0)
                order.append(n)

        async with asyncio.TaskGroup() as together:
            for name in "ab":
                together.create_task(rank(name))
            together.create_task(notice())
        assert order.index("b") - order.index("a") > 2
        gone = asyncio.create_task(rank("gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait_for(rank("c"), 5)
        assert order[-1] == "c"

    asyncio.run(scenario())


def test_overload_is_refused_on_new_connections_too(live, fakes):
    """100 connections at once where four may wait: all but a handful are told so."""
    with live(sleepy(fakes, 0.05), max_queue=4) as server:
        calls = [connect(server) for _ in range(100)]
        for raw in calls:
            raw.sendall(post("/v1/rank", ASK))
        answers = [raw.recv(4000) for raw in calls]
        for raw in calls:
            raw.close()
    told = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503")]
    assert len(told) >= 50
    assert all(b"retry-after" in answer for answer in told)
    assert sum(answer.startswith(b"HTTP/1.1 200") for answer in answers) == 100 - len(told)


def test_a_long_head_is_refused(live):
    with live() as server:
        with connect(server) as raw:
            raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-long: ")
            sent = 0
            try:
                while sent < 20_000_000:
                    raw.sendall(b"a" * 65_536)
                    sent += 65_536
                answer = raw.recv(1000)
            except OSError:
                answer = b""
            # It was closed long before the end; the answer may be lost with what was still sent.
            assert sent < 20_000_000
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
        with connect(server) as raw:
            many = b"".join(b"x-%d: %s\r\n" % (n, b"b" * 100) for n in range(400))
            raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n" + many + b"\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 431")
        assert refused(server, "head") >= 2
        assert httpx.get(server.url + "/healthz").status_code == 200


def give_heads(server, seconds):
    """From now on; a machine that is busy must not make an honest caller late."""
    guard = server.app.connections
    guard.settings = replace(guard.settings, head_timeout=seconds)


def answer_of(raw):
    """The head of the next answer, which is read whole; empty where the connection was closed."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = raw.recv(4000)
        if not more:
            return b""
        answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    size = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(body) < size:
        body += raw.recv(4000)
    return head


def test_a_half_head_and_silence_are_given_up(live):
    health = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with live() as server, connect(server) as kept:
        kept.sendall(health)
        assert answer_of(kept).startswith(b"HTTP/1.1 200")
        give_heads(server, 0.1)
        with connect(server) as silent:
            assert answer_of(silent) == b""
        # A busy machine may send the half too late: then it was silent.
        told = b""
        while not told:
            with connect(server) as raw:
                raw.sendall(health[:30])
                told = answer_of(raw)
        assert told.startswith(b"HTTP/1.1 408")
        give_heads(server, 60)
        # The wait between two requests is another one.
        kept.sendall(health)
        assert answer_of(kept).startswith(b"HTTP/1.1 200")
        give_heads(server, 0.1)
        kept.sendall(health[:30])
        assert answer_of(kept).startswith(b"HTTP/1.1 408")
        give_heads(server, 60)
        assert refused(server, "head_late") >= 2
        assert refused(server, "silent") >= 1


def test_a_post_that_is_still_on_its_way_when_the_service_stops_is_answered(live, monkeypatch):
    monkeypatch.setattr("recsys.serving.connections.LINGER_SECONDS", 60.0)
    with live() as server, connect(server) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert answer_of(raw).startswith(b"HTTP/1.1 200")
        server._server.should_exit = True
        until = time.monotonic() + 60
        while not any(c._last for c in server._server.server_state.connections):
            assert time.monotonic() < until
            time.sleep(0.01)
        raw.sendall(post("/v1/events", EVENT))
        assert answer_of(raw).startswith(b"HTTP/1.1 200")
        assert raw.recv(1) == b"", "and the connection is closed behind it"


def test_half_heads_take_nobody_s_connection(live):
    with live(max_connections=20) as server:
        held = []
        for _ in range(60):
            raw = connect(server)
            raw.sendall(b"GET /healthz HTTP/1.1\r\n")
            held.append(raw)
            if len(held) % 20 == 0:
                assert httpx.get(server.url + "/healthz").status_code == 200
        assert refused(server, "connection_evicted") >= 30
        for raw in held:
            raw.close()


def test_bodies_that_trickle_in_take_no_place_in_the_queue(live):
    with live(max_queue=2) as server:
        held = []
        for _ in range(12):
            raw = connect(server)
            raw.sendall(post("/v1/rank", b"{", length=100))
            held.append(raw)
        assert httpx.post(server.url + "/v1/rank", json=ASK).status_code == 200
        assert httpx.post(server.url + "/v1/events", json=EVENT).status_code == 200
        for raw in held:
            raw.close()


def test_bodies_that_are_not_whole_are_bounded_together(live):
    with live(max_partial_bytes=3_000_000) as server:
        held = []
        for _ in range(5):
            raw = connect(server)
            raw.sendall(post("/v1/rank", b" " * 1_000_000, length=1_900_000))
            held.append(raw)
        assert held[0].recv(1000).startswith(b"HTTP/1.1 408")
        assert httpx.post(server.url + "/v1/rank", json=ASK).status_code == 200
        assert refused(server, "body_evicted") >= 1
        for raw in held:
            raw.close()
        assert server.app._bodies.held <= 3_000_000


def test_chunks_and_trailers_without_end_are_cut_off(live):
    with live(max_body_bytes=2_000) as server:
        with connect(server) as raw:
            raw.sendall(
                b"POST /v1/rank HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
            )
            sent = 0
            try:
                while sent < 20_000_000:
                    raw.sendall(b"x-more: " + b"a" * 4_000 + b"\r\n")
                    sent += 4_000
            except OSError:
                pass
            assert sent < 20_000_000
        assert httpx.get(server.url + "/healthz").status_code == 200


def test_an_answer_that_nobody_takes_is_let_go(live, caplog):
    """With all the requests behind it, and without a line in the log."""
    with live(answer_timeout=0.3) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        raw.connect((host, int(port)))
        ask = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        raw.sendall(ask * 200)
        until = time.monotonic() + 60
        while not refused(server, "unread"):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert httpx.get(server.url + "/healthz").status_code == 200
        raw.close()
    assert not [r.getMessage() for r in caplog.records if r.name == "uvicorn.error"]


def test_the_rest_of_a_body_that_was_answered_is_no_head(live):
    """Else a second answer would stand where the next one is expected."""
    with live() as server:
        head = post("/v1/nowhere", b"", length=200_000)
        with connect(server) as raw:
            raw.sendall(head)
            answer = raw.recv(4000)
            assert answer.startswith(b"HTTP/1.1 404")
            for _ in range(20):
                raw.sendall(b"x" * 10_000)
            raw.sendall(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            while b"recsys_requests" not in answer:
                answer += raw.recv(4000)
            assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"404", b"200"]
        give_heads(server, 0.1)
        with connect(server) as raw:
            raw.sendall(head)
            raw.sendall(b"x" * 1_000)
            answer = b""
            while more := raw.recv(4000):
                answer += more
            # The rest did not come in time; nothing else is said.
            assert answer.count(b"HTTP/1.1") <= 1
