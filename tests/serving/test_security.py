"""Keys, hosts, origins, overload, and answers when parts fail."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from recsys.data_schemas.errors import UsageError
from recsys.serving.keys import (
    KeyRing,
    KeysUnreadable,
    add_key,
    read_keys,
    remove_key,
)
from recsys.serving.server import Endpoint, bind
from recsys.storage.loopback import is_loopback

ASK = {"user_id": "u", "items": ["1", "2"]}


def run(scenario):
    return asyncio.run(scenario())


@pytest.fixture
def keys(tmp_path):
    """(file, key of scopes rank and events, key of all scopes)"""
    file = tmp_path / "keys.yaml"
    return (
        file,
        add_key(file, "app", ["rank", "events"]),
        add_key(file, "ops", ["rank", "events", "admin", "replay"]),
    )


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_a_key_for_pages_stores_events_and_does_nothing_else(serve, keys):
    file, _, ops_key = keys
    page_key = add_key(file, "page", ["collect"])
    event = json.dumps({"session_id": "s", "item_id": "1", "event_type": "view"})
    plain = {"content-type": "text/plain;charset=UTF-8"}

    async def scenario():
        async with serve(keys_file=file) as (client, app):

            async def post(key, path="/v1/events", headers=plain):
                return await client.post(f"{path}?key={key}", content=event, headers=headers)

            assert (await post(page_key)).status_code == 200
            asked = {**bearer(page_key), "content-type": "application/json"}
            assert (
                await client.post("/v1/events", content=event, headers=asked)
            ).status_code == 200
            assert len(app.versions.champion().events["session:s"]) == 2
            # Any other key is too dear for an address, and text sent with it is not read.
            assert (await post(ops_key)).status_code == 403
            elsewhere = {**plain, **bearer(ops_key)}
            answer = await client.post("/v1/events", content=event, headers=elsewhere)
            assert answer.status_code == 415
            assert (await post("rk_no_key")).status_code == 401
            assert (await post(page_key, "/v1/impressions")).status_code == 401
            for path in ("/v1/rank", "/v1/impressions", "/v1/users/u/merge"):
                answer = await client.post(path, json=ASK, headers=bearer(page_key))
                assert answer.status_code == 403
            assert (await client.get("/v1/items/1", headers=bearer(page_key))).status_code == 403
        async with serve() as (client, _):
            unkeyed = await client.post("/v1/events", content=event, headers=plain)
            assert unkeyed.status_code == 415

    run(scenario)


def test_keys_are_needed_scoped_and_not_stored(serve, keys):
    file, app_key, ops_key = keys
    assert app_key.split("_")[2] not in file.read_text()
    assert oct(file.stat().st_mode)[-3:] == "600"

    async def scenario():
        async with serve(keys_file=file) as (client, _):
            missing = await client.post("/v1/rank", json=ASK)
            assert (missing.status_code, "Bearer" in missing.headers["www-authenticate"]) == (
                401,
                True,
            )
            wrong = bearer(app_key[:-1] + ("0" if app_key[-1] != "0" else "1"))
            assert (await client.post("/v1/rank", json=ASK, headers=wrong)).status_code == 401
            for headers in (bearer(app_key), {"x-api-key": app_key}):
                assert (await client.post("/v1/rank", json=ASK, headers=headers)).status_code == 200
            assert (await client.delete("/v1/users/u", headers=bearer(app_key))).status_code == 403
            assert (await client.delete("/v1/users/u", headers=bearer(ops_key))).status_code == 200
            then = {**ASK, "as_of": "2023-01-01T00:00:00Z"}
            assert (
                await client.post("/v1/rank", json=then, headers=bearer(app_key))
            ).status_code == 403
            assert (
                await client.post("/v1/rank", json=then, headers=bearer(ops_key))
            ).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            document = (await client.get("/openapi.json")).json()
            assert "401" in document["paths"]["/v1/rank"]["post"]["responses"]

    run(scenario)


def test_keys_are_exchanged_without_a_restart(keys):
    file, app_key, _ = keys
    ring = KeyRing(file)
    assert ring.scopes(app_key) == {"rank", "events"}
    new_key = add_key(file, "new", ["rank"])
    remove_key(file, app_key.split("_")[1])
    ring.look()
    assert ring.scopes(new_key) == {"rank"}
    assert ring.scopes(app_key) is None
    for nonsense in ("", "rk_", "rk__", "x_y_z", "rk_ü_é"):
        assert ring.scopes(nonsense) is None


@pytest.mark.parametrize("spoilt", ["keys: [{half", "", "keys: 3", "- keys", "keys:\n\t- a", None])
def test_a_key_file_that_cannot_be_read_lets_nobody_in(keys, spoilt):
    """A key that was taken out while the file has a typo would else stay valid."""
    file, app_key, ops_key = keys
    ring, before = KeyRing(file), file.read_text()
    if spoilt is None:
        file.unlink()
    else:
        file.write_text(spoilt)
    ring.look()
    for key in (app_key, ops_key):
        with pytest.raises(KeysUnreadable):
            ring.scopes(key)
    file.write_text(before)
    ring.look()
    assert ring.scopes(app_key) == {"rank", "events"}


WRONG = [
    {"expires": "soon"},
    {"expires": 20300101},
    {"expires": True},
    {"expire": "2020-01-01"},
    {"scopes": ["everything"]},
    {"scopes": None},
    {"salt": "zz"},
    {"sha256": None},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_an_entry_that_is_not_understood_is_no_key_and_the_others_are(keys, wrong):
    file, app_key, ops_key = keys
    ring, content = KeyRing(file), yaml.safe_load(file.read_text())
    content["keys"][0] |= wrong
    file.write_text(yaml.safe_dump(content))
    ring.look()
    assert ring.scopes(app_key) is None
    assert ring.scopes(ops_key) is not None
    with pytest.raises(UsageError, match="cannot be read"):
        KeyRing(file)


def test_without_readable_keys_the_service_is_not_ready(serve, keys, eventually, monkeypatch):
    monkeypatch.setattr("recsys.serving.keys.RELOAD_SECONDS", 0.01)
    file, app_key, _ = keys
    before = file.read_text()

    async def scenario():
        async with serve(keys_file=file) as (client, app):
            file.write_text("keys: [{half")
            await eventually(lambda: app._keys.trouble)
            answer = await client.post("/v1/rank", json=ASK, headers=bearer(app_key))
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            ready = await client.get("/readyz")
            assert (ready.status_code, "key file" in ready.json()["reason"]) == (503, True)
            assert "recsys_keys_refused 1.0" in (await client.get("/metrics")).text
            file.write_text(before)
            await eventually(lambda: not app._keys.trouble)
            answer = await client.post("/v1/rank", json=ASK, headers=bearer(app_key))
            assert answer.status_code == 200
            monkeypatch.setattr("recsys.serving.keys.STALE_SECONDS", -1.0)
            answer = await client.post("/v1/rank", json=ASK, headers=bearer(app_key))
            assert answer.status_code == 503, "a disk that hangs leaves nobody's key valid"

    run(scenario)


def test_asking_for_a_key_reads_no_file(keys, monkeypatch):
    file, app_key, _ = keys
    ring = KeyRing(file)
    monkeypatch.setattr(Path, "stat", None)
    monkeypatch.setattr(Path, "read_text", None)
    assert ring.scopes(app_key) == {"rank", "events"}


def test_keys_that_are_added_at_once_are_all_there(tmp_path):
    file = tmp_path / "keys.yaml"
    code = (
        "import sys; from pathlib import Path; from recsys.serving.keys import add_key\n"
        "for n in range(5): print(add_key(Path(sys.argv[1]), f'{sys.argv[2]} {n}', ['rank']))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file), str(n)], stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    made = [key for process in started for key in process.communicate()[0].split()]
    ring = KeyRing(file)
    assert len(made) == 15
    assert all(ring.scopes(key) == {"rank"} for key in made)


def test_a_link_beside_the_key_file_is_not_followed(keys):
    file, _, ops_key = keys
    victim = file.with_name("victim")
    victim.write_text("precious")
    for name in ("keys.yaml.tmp", "keys.yaml.part", ".keys.yaml.tmp"):
        file.with_name(name).symlink_to(victim)
    file.chmod(0o640)
    key = add_key(file, "new", ["rank"])
    assert victim.read_text() == "precious"
    assert oct(file.stat().st_mode)[-3:] == "640"
    assert {KeyRing(file).scopes(k) is None for k in (key, ops_key)} == {False}


def test_a_key_file_replaced_by_one_of_its_size_and_time_is_read(keys):
    file, app_key, ops_key = keys
    ring = KeyRing(file)
    other = file.with_name("other.yaml")
    other.write_text(file.read_text().replace(app_key.split("_")[1], "0" * 8))
    times = file.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert other.stat().st_size == times.st_size
    other.replace(file)
    ring.look()
    assert ring.scopes(app_key) is None
    assert ring.scopes(ops_key) is not None


@pytest.mark.parametrize(
    ("expires", "valid"),
    [
        ("2020-01-01T00:00:00Z", False),
        ("2020-01-01", False),
        ("2020-01-01 12:00:00", False),
        ("2200-01-01", True),
        ("2200-01-01T00:00:00+02:00", True),
        ("'2020-01-01'", False),
        ("'2200-01-01T00:00'", True),
        ("null", True),
    ],
)
def test_a_key_expires_at_a_time_or_with_a_day(keys, expires, valid):
    file, app_key, _ = keys
    lines = file.read_text().splitlines()
    lines.insert(lines.index("  name: app"), f"  expires: {expires}")
    file.write_text("\n".join(lines))
    assert (KeyRing(file).scopes(app_key) is not None) == valid
    # Who changes the file keeps what it says.
    add_key(file, "new", ["rank"])
    assert (KeyRing(file).scopes(app_key) is not None) == valid


def test_a_wrong_key_file_is_explained(tmp_path):
    with pytest.raises(UsageError, match="no key file"):
        KeyRing(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("keys: [{id: a}]")
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "bad.yaml")
    with pytest.raises(UsageError, match="unknown scope"):
        add_key(tmp_path / "k.yaml", "x", ["everything"])


def test_without_keys_only_loopback_is_bound():
    with pytest.raises(UsageError, match="loopback only") as refused:
        bind(Endpoint(host="0.0.0.0", port=0), has_keys=False)
    assert refused.value.code == 2
    with (
        bind(Endpoint(host="127.0.0.1", port=0), has_keys=False) as taken,
        pytest.raises(UsageError, match="cannot listen"),
    ):
        bind(Endpoint(port=taken.getsockname()[1]), has_keys=False)
    with bind(Endpoint(host="0.0.0.0", port=0), has_keys=True) as sock:
        assert sock.getsockname()[1] > 0
    assert [
        is_loopback(h) for h in ("localhost", "::1", "127.9.9.9", "example.org", "10.0.0.1")
    ] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_another_host_name_is_refused_so_a_page_elsewhere_cannot_rebind(serve):
    async def scenario():
        async with serve(allowed_hosts=("localhost", "127.0.0.1", "[::1]")) as (client, _):
            for host in ("127.0.0.1:8080", "localhost", "[::1]:80", "[::1]"):
                assert (await client.get("/healthz", headers={"host": host})).status_code == 200
            answer = await client.get("/v1/users/u", headers={"host": "evil.example"})
            assert answer.status_code == 421

    run(scenario)


def test_only_named_origins_are_allowed(serve):
    async def scenario():
        async with serve(cors_origins=("https://shop.example",)) as (client, _):
            asks = {"access-control-request-method": "POST"}
            asks["access-control-request-headers"] = "authorization, content-type"
            good = {"origin": "https://shop.example"}
            asked = await client.options("/v1/rank", headers=asks | good)
            assert asked.headers["access-control-allow-origin"] == "https://shop.example"
            assert "POST" in asked.headers["access-control-allow-methods"]
            answer = await client.post("/v1/rank", json=ASK, headers=good)
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
            bad = {"origin": "https://evil.example"}
            refused = await client.options("/v1/rank", headers=asks | bad)
            assert refused.status_code == 403
            assert refused.headers["content-type"] == "application/problem+json"
            wrong = await client.get("/v1/items/%FF", headers=good)
            assert wrong.headers["access-control-allow-origin"] == "https://shop.example"
            answer = await client.post("/v1/rank", json=ASK, headers=bad)
            assert "access-control-allow-origin" not in answer.headers

    run(scenario)


def test_overload_is_refused_at_once_with_a_time_to_return(serve, fakes):
    provider, engine = fakes

    class Slow(engine):
        def answer(self, ask):
            time.sleep(0.01)
            return super().answer(ask)

    provider = provider()
    provider.load = lambda version: Slow("1")

    async def scenario():
        async with serve(provider, max_queue=4) as (client, _):
            answers = await asyncio.gather(*(client.post("/v1/rank", json=ASK) for _ in range(20)))
            statuses = [answer.status_code for answer in answers]
            assert statuses.count(200) == 4
            refused = [answer for answer in answers if answer.status_code == 503]
            assert len(refused) == 16
            assert {answer.headers["retry-after"] for answer in refused} == {"1"}
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200

    run(scenario)


def test_when_the_engine_fails_the_popular_list_is_given_and_said_so(serve, capsys):
    async def scenario():
        async with serve() as (client, app):
            cold = (await client.post("/v1/recommend", json={"user_id": "", "k": 30})).json()
            assert "user_id" in cold["detail"]
            cold = (await client.post("/v1/recommend", json={"user_id": "new", "k": 30})).json()
            best = [item["item_id"] for item in cold["items"]]
            event = {"user_id": "secret-user", "item_id": best[0], "event_type": "click"}
            await client.post("/v1/events", json=event)
            await client.put(f"/v1/items/{best[1]}", json={"available": False})
            app.versions.champion().fail_on = "secret-user"
            ask = {"user_id": "secret-user", "k": 2, "exclude": [best[2]]}
            answer = (await client.post("/v1/recommend", json=ask)).json()
            assert [item["item_id"] for item in answer["items"]] == best[3:5]
            assert answer["degraded"] == ["ranking_failed"]
            assert answer["items"][0]["score"] is None
            for item in ("3", "4"):
                await client.patch(f"/v1/items/{item}", json={"attributes": {"maker": "m"}})
            filtered = {**ask, "filters": {"maker": ["m", "n"], "tags": "a"}}
            answer = (await client.post("/v1/recommend", json=filtered)).json()
            assert {item["item_id"] for item in answer["items"]} == {"3", "4"} - set(best[:3])
            items = ["nobody", best[5], {"item_id": "new", "title": "T"}, best[4]]
            answer = await client.post("/v1/rank", json={"user_id": "secret-user", "items": items})
            assert [item["item_id"] for item in answer.json()["items"]] == [best[4], best[5], "new"]
            assert answer.json()["unknown"] == ["nobody"]
            exact = {"user_id": "secret-user", "items": ["1"], "as_of": "2023-01-01T00:00:00Z"}
            failed = await client.post("/v1/rank", json=exact)
            assert (failed.status_code, "broken" in failed.text) == (500, False)

    run(scenario)
    logged = capsys.readouterr().err
    assert "broken" in logged
    assert "secret-user" not in logged


def test_a_request_that_waited_too_long_gets_the_popular_list(serve):
    async def scenario():
        async with serve(timeout_ms=1) as (client, app):
            take = app._handlers._json

            async def slow(request, decoder):
                await asyncio.sleep(0.005)
                return await take(request, decoder)

            app._handlers._json = slow
            answer = (await client.post("/v1/recommend", json={"user_id": "u", "k": 3})).json()
            assert answer["degraded"] == ["ranking_late"]
            assert len(answer["items"]) == 3

    run(scenario)


def test_a_record_that_cannot_be_folded_does_not_stop_the_others(serve):
    async def scenario():
        async with serve() as (client, app):
            for item in ("poison", "2"):
                event = {"user_id": "u", "item_id": item, "event_type": "click"}
                assert (await client.post("/v1/events", json=event)).status_code == 200
            assert [e["item_id"] for e in app.versions.champion().events["u"]] == ["2"]

    run(scenario)


def test_without_a_model_the_service_says_it_is_not_ready(serve, fakes):
    provider = fakes[0]()

    def fail(version):
        raise UsageError("nothing is registered")

    provider.load = fail

    async def scenario():
        async with serve(provider, with_model=False) as (client, _):
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "starting")
            answer = await client.post("/v1/rank", json=ASK)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")

    run(scenario)


def test_readiness_ends_when_the_process_is_asked_to_stop(serve):
    async def scenario():
        async with serve() as (client, app):
            app.drain()
            answer = await client.get("/readyz")
            assert (answer.status_code, answer.json()["status"]) == (503, "draining")
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200

    run(scenario)


def test_an_unreachable_log_refuses_events_and_goes_on_ranking(serve, monkeypatch):
    from recsys.storage.eventlog import LogUnavailable

    async def scenario():
        async with serve() as (client, app):

            def away(*_):
                raise LogUnavailable("the log's store does not answer")

            monkeypatch.setattr(app._log, "_commit", away)
            event = {"user_id": "u", "item_id": "1", "event_type": "click"}
            refused = await client.post("/v1/events", json=event)
            assert refused.status_code == 503
            assert "nothing of this call was accepted" in refused.json()["detail"]
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200
            monkeypatch.undo()
            assert (await client.post("/v1/events", json=event)).status_code == 200

    run(scenario)


def test_events_that_wait_for_the_log_take_no_place_of_a_ranking_call(
    serve, monkeypatch, eventually
):
    async def scenario():
        async with serve(max_queue=3) as (client, app):
            release = threading.Event()
            commit = app._log._commit

            def hang(writes):
                release.wait(60)
                return commit(writes)

            monkeypatch.setattr(app._log, "_commit", hang)
            event = {"user_id": "u", "item_id": "1", "event_type": "click"}
            posts = [asyncio.create_task(client.post("/v1/events", json=event)) for _ in range(5)]
            await eventually(lambda: sum(post.done() for post in posts) == 2)
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200
            release.set()
            statuses = sorted([(await post).status_code for post in posts])
            assert statuses == [200, 200, 200, 503, 503]

    run(scenario)


def test_a_filter_or_cap_on_nothing_is_refused_by_name(serve, fakes):
    provider, engine = fakes

    class Strict(engine):
        def answer(self, ask):
            if "colour" in ask.filters:
                where = "filters.colour"
                raise UsageError("no such column", where=where, found="colour", expected="tags")
            return super().answer(ask)

    provider = provider()
    provider.load = lambda version: Strict("1")

    async def scenario():
        async with serve(provider) as (client, _):
            body = {"user_id": "u", "filters": {"colour": "red"}}
            answer = await client.post("/v1/recommend", json=body)
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["pointer"] == "$.filters.colour"
            half = await client.post("/v1/recommend", json={"user_id": "u", "caps": {"a": 1.5}})
            assert (half.status_code, "caps.a" in half.text) == (422, True)

    run(scenario)


def test_bodies_of_all_sorts_meet_a_limit(serve):
    async def scenario():
        async with serve() as (client, _):
            headers = {"content-type": "application/json"}
            big = b'{"user_id": "u", "items": ["' + b"x" * 10_000_000 + b'"]}'
            assert (await client.post("/v1/rank", content=big, headers=headers)).status_code == 413
            many = {"user_id": "u", "items": [str(i) for i in range(100_000)]}
            answer = await client.post("/v1/rank", json=many)
            assert (answer.status_code, "at most 2000" in answer.text) == (422, True)
            sql = "'; DROP TABLE log; --"
            event = {"user_id": sql, "item_id": "1", "event_type": sql}
            assert (await client.post("/v1/events", json=event)).status_code == 200
            stored = (await client.get("/v1/users/" + quote(sql, safe=""))).json()
            assert [e["event_type"] for e in stored["events"]] == [sql]

    run(scenario)


def test_a_body_that_trickles_in_is_given_up(live):
    with live(body_timeout=0.3) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(
                b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_pages_allow_nothing_from_elsewhere(serve):
    async def scenario():
        async with serve() as (client, _):
            for path in ("/", "/docs", "/assets/app.js", "/assets/docs.js", "/assets/style.css"):
                answer = await client.get(path)
                assert answer.status_code == 200
                assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "innerHTML" not in answer.text
                assert "https://" not in answer.text.replace("https://www.rfc-editor.org", "")
            assert (await client.post("/")).status_code == 405

    run(scenario)
