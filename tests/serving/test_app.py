"""The API through ASGI, with a fake engine: answers, errors, limits."""

import asyncio
import json

import pytest

JSON = {"content-type": "application/json"}


def run(scenario):
    return asyncio.run(scenario())


def test_a_posted_event_changes_the_next_list_at_once(serve):
    async def scenario():
        async with serve() as (client, _):
            ask = {"user_id": "u", "items": ["1", "2", "3"]}
            before = (await client.post("/v1/rank", json=ask)).json()
            last = before["items"][-1]["item_id"]
            event = {"user_id": "u", "item_id": last, "event_type": "click"}
            posted = await client.post("/v1/events", json=event)
            assert posted.status_code == 200
            assert posted.json()["accepted"] == 1
            after = (await client.post("/v1/rank", json=ask)).json()
            assert after["items"][0]["item_id"] == last
            assert before["impression_id"] != after["impression_id"]
            assert after["model_version"] == "1"

    run(scenario)


def test_unknown_ids_are_said_to_be_so_and_given_text_is_ranked(serve):
    async def scenario():
        async with serve() as (client, app):
            items = ["1", "nobody", {"item_id": "new", "title": "A film"}]
            answer = (await client.post("/v1/rank", json={"user_id": "u", "items": items})).json()
            assert answer["unknown"] == ["nobody"]
            assert {i["item_id"] for i in answer["items"]} == {"1", "new"}
            assert app.versions.champion().prepared == [["new"]]

    run(scenario)


def test_reasons_come_for_the_first_items_only(serve):
    async def scenario():
        async with serve(explain_items=2) as (client, _):
            answer = await client.post(
                "/v1/recommend", json={"user_id": "u", "k": 4, "explain": True}
            )
            items = answer.json()["items"]
            assert [("reasons" in item) for item in items] == [True, True, False, False]
            assert items[0]["reasons"]["families"] == {"text": 0.5}

    run(scenario)


def test_a_repeated_event_id_counts_once(serve):
    async def scenario():
        async with serve() as (client, app):
            event = {"user_id": "u", "item_id": "1", "event_type": "click", "event_id": "e"}
            first = (await client.post("/v1/events", json=event)).json()
            again = (await client.post("/v1/events", json=[event, event])).json()
            assert (first["accepted"], first["duplicates"]) == (1, 0)
            assert (again["accepted"], again["duplicates"]) == (0, 2)
            assert first["events"][0]["position"] == again["events"][0]["position"]
            assert len(app.versions.champion().events["u"]) == 1

    run(scenario)


def test_a_new_item_is_recommended_and_an_unavailable_one_is_not(serve):
    async def scenario():
        async with serve() as (client, _):
            body = {"title": "Brand new", "tags": ["x"], "attributes": {"price": 3.5}}
            assert (await client.put("/v1/items/a%2Fb", json=body)).status_code == 200
            seen = (await client.get("/v1/items/a%2Fb")).json()
            assert (seen["item_id"], seen["attributes"]) == ("a/b", {"price": 3.5})
            ask = {"user_id": "u", "k": 100}
            ids = [
                i["item_id"] for i in (await client.post("/v1/recommend", json=ask)).json()["items"]
            ]
            assert "a/b" in ids
            await client.put("/v1/items/a%2Fb", json={"available": False})
            ids = [
                i["item_id"] for i in (await client.post("/v1/recommend", json=ask)).json()["items"]
            ]
            assert "a/b" not in ids
            assert (await client.get("/v1/items/a%2Fb")).json()["title"] == "Brand new"

    run(scenario)


def test_a_forgotten_user_is_gone(serve):
    async def scenario():
        async with serve() as (client, _):
            event = {"user_id": "u", "item_id": "1", "event_type": "click"}
            await client.post("/v1/events", json=event)
            stored = (await client.get("/v1/users/u")).json()
            assert stored["events"][0]["item_id"] == "1"
            assert (await client.delete("/v1/users/u")).status_code == 200
            assert (await client.get("/v1/users/u")).status_code == 404

    run(scenario)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"user_id": "u", "items": ["1"], "itmes": []}', 422, "itmes"),
        (b'{"user_id": "u", "items": ["1", "1"]}', 422, "'1' is given more than once"),
        (b'{"user_id": "u", "items": []}', 422, "items"),
        (b'{"user_id": "u", "items": [{"item_id": "1"}]}', 422, "title"),
        (b'{"user_id": "u", "items": ["1"], "context": {"a": NaN}}', 400, "JSON"),
        (b'{"user_id": "u", "items": ["1"], "context": {"a": 1e999}}', 422, "range"),
        (b'{"user_id": "\xff", "items": ["1"]}', 400, "JSON"),
        (b'{"user_id": "u\\u0000", "items": ["1"]}', 422, "user_id"),
        (b"[" * 100_000, 422, "array"),
        (b'{"a":' * 100_000, 422, "a"),
        (b"", 400, "JSON"),
        (b'{"user_id": "u", "items": ["1"], "explain": 1000}', 422, "explain"),
        (b'{"user_id": "u", "items": ["1"], "as_of": "2020-01-01T00:00:00"}', 422, "as_of"),
    ],
)
def test_bad_bodies_are_named(serve, body, status, words):
    async def scenario():
        async with serve() as (client, _):
            answer = await client.post("/v1/rank", content=body, headers=JSON)
            assert answer.status_code == status, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == status
            assert words in answer.json()["detail"]

    run(scenario)


def test_limits_and_wrong_calls(serve):
    async def scenario():
        async with serve(max_body_bytes=1000, max_candidates=5) as (client, _):
            big = await client.post("/v1/rank", content=b" " * 1001, headers=JSON)
            assert big.status_code == 413

            async def stream():
                for _ in range(5):
                    yield b" " * 300

            assert (
                await client.post("/v1/rank", content=stream(), headers=JSON)
            ).status_code == 413
            many = {"user_id": "u", "items": [str(i) for i in range(6)]}
            answer = await client.post("/v1/rank", json=many)
            assert (answer.status_code, "at most 5" in answer.text) == (422, True)
            text = await client.post(
                "/v1/rank", content=b"{}", headers={"content-type": "text/plain"}
            )
            assert text.status_code == 415
            wrong = await client.get("/v1/rank")
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
            assert (await client.get("/nowhere")).status_code == 404
            assert (await client.get("/v1/items/%FF")).status_code == 422
            assert (await client.get("/v1/items?what=1")).status_code == 422
            future = {
                "user_id": "u",
                "item_id": "1",
                "event_type": "x",
                "timestamp": "2100-01-01T00:00:00Z",
            }
            assert (await client.post("/v1/events", json=future)).status_code == 409

    run(scenario)


def test_an_attribute_cannot_take_the_name_of_a_column(serve):
    async def scenario():
        async with serve() as (client, _):
            body = {"title": "T", "attributes": {"category": "x"}}
            assert (await client.put("/v1/items/n", json=body)).status_code == 409
            items = [{"item_id": "n", **body}]
            answer = await client.post("/v1/rank", json={"user_id": "u", "items": items})
            assert (answer.status_code, "'category'" in answer.json()["detail"]) == (409, True)

    run(scenario)


def test_impressions_reach_the_log_with_what_was_shown(serve, tmp_path):
    async def scenario():
        async with serve(explore_share=1.0, parity_share=1.0) as (client, app):
            ask = {"user_id": "u", "items": ["1", "2", "3"], "surface": "home"}
            ask["context"] = {"device": "phone"}
            answer = (await client.post("/v1/rank", json=ask)).json()
            replayed = {**ask, "as_of": "2023-01-01T00:00:00Z"}
            assert (await client.post("/v1/rank", json=replayed)).status_code == 200
            log = app._log
        from recsys.storage.eventlog import open_log

        with open_log(tmp_path / "log.sqlite") as log:
            records = [r for r in log.read(0) if r.kind == "impression"]
        assert len(records) == 1
        shown = records[0].payload
        assert shown["impression_id"] == answer["impression_id"]
        assert shown["item_ids"] == [i["item_id"] for i in answer["items"]]
        assert sorted(shown["propensities"])[:2] == [0.5, 0.5]
        assert shown["surface"] == "home"
        assert json.loads(shown["context"]) == {"device": "phone"}
        assert json.loads(shown["features"])["columns"] == 3

    run(scenario)


def test_a_list_of_nothing_is_no_impression(serve, tmp_path):
    async def scenario():
        async with serve() as (client, _):
            nobody_has = {"user_id": "u", "filters": {"price": {"gt": 1e9}}}
            for path, ask in (
                ("recommend", nobody_has),
                ("rank", {"user_id": "u", "items": ["nobody knows this"]}),
                ("rank", {"user_id": "u", "items": ["1"]}),
            ):
                assert (await client.post(f"/v1/{path}", json=ask)).status_code == 200
        from recsys.storage.eventlog import open_log

        with open_log(tmp_path / "log.sqlite") as log:
            shown = [r.payload["item_ids"] for r in log.read(0) if r.kind == "impression"]
        assert shown == [["1"]]

    run(scenario)


def test_degradation_is_said_and_counted(serve):
    async def scenario():
        async with serve() as (client, _):
            ask = {"user_id": "u", "items": ["1"], "context": {"no-encoder": True}}
            answer = (await client.post("/v1/rank", json=ask)).json()
            assert answer["degraded"] == ["text_encoder_missing"]
            counters = (await client.get("/metrics")).text
            assert 'recsys_degraded_total{reason="text_encoder_missing"}' in counters
            assert "recsys_state_lag_records" in counters

    run(scenario)


def test_histories_that_were_kept_are_counted(serve):
    async def scenario():
        async with serve() as (client, _):

            async def counted():
                shown = (await client.get("/metrics")).text
                lines = (x for x in shown.splitlines() if x.startswith("recsys_recalls_total{"))
                return {x.split('"')[1]: float(x.split()[-1]) for x in lines}

            before = await counted()
            for kept in ({"kept": True}, {"kept": True}, {"kept": False}, {}):
                ask = {"user_id": "u", "items": ["1"], "context": kept}
                assert (await client.post("/v1/rank", json=ask)).status_code == 200
            after = await counted()
            assert {n: after[n] - before[n] for n in after} == {"kept": 2, "read": 1}

    run(scenario)


def test_who_opted_out_is_answered_as_somebody_new(serve):
    async def scenario():
        async with serve(opted_out={"gone"}) as (client, app):
            items = ["1", "2", "3"]
            fresh = (await client.post("/v1/rank", json={"user_id": "new", "items": items})).json()
            last = fresh["items"][-1]["item_id"]
            for user in ("gone", "here"):
                event = {"user_id": user, "item_id": last, "event_type": "click"}
                await client.post("/v1/events", json=event)
            found = {}
            for user in ("gone", "here"):
                answer = await client.post("/v1/rank", json={"user_id": user, "items": items})
                found[user] = [item["item_id"] for item in answer.json()["items"]]
            assert found["gone"] == [item["item_id"] for item in fresh["items"]]
            assert found["here"][0] == last
            assert "gone" in app.versions.champion().events, (
                "their own data stays theirs to ask for"
            )

    run(scenario)


def test_a_wish_by_a_call_is_kept_and_known_to_every_worker(serve, eventually):
    async def scenario():
        path, items = "/v1/users/ann/opt-out", ["1", "2", "3"]
        ask = {"user_id": "ann", "items": items}

        async def first(client):
            answer = (await client.post("/v1/rank", json=ask)).json()
            return answer["items"][0]["item_id"]

        async with serve() as (client, _), serve() as (other, app):
            new = await first(client)
            last = next(item for item in items if item != new)
            event = {"user_id": "ann", "item_id": last, "event_type": "click"}
            await client.post("/v1/events", json=event)
            assert await first(client) == last
            for _ in range(2):
                told = await client.put(path)
                assert told.status_code == 200
                assert told.json()["opted_out"] is True
            assert await first(client) == new
            stored = (await client.get("/v1/users/ann")).json()
            assert (stored["opted_out"], len(stored["events"])) == (True, 1)
            position = told.json()["position"]
            await eventually(lambda: app.versions.champion().log_position >= position)
            assert await first(other) == new
            # Nothing but the wish is stored of somebody who never came.
            await client.put("/v1/users/nobody/opt-out")
            stored = (await client.get("/v1/users/nobody")).json()
            assert stored == {"user_id": "nobody", "opted_out": True}
            assert (await client.delete("/v1/users/nobody")).status_code == 200
            assert (await client.get("/v1/users/nobody")).status_code == 404
        async with serve() as (client, _):
            assert await first(client) == new, "after a restart"
            assert (await client.delete(path)).json()["opted_out"] is False
            assert await first(client) == last
            assert (await client.put("/v1/users/%20/opt-out")).status_code == 422

    run(scenario)


def test_an_escaped_slash_is_no_slash_between_parts(serve):
    async def scenario():
        async with serve() as (client, _):
            titles = {
                "a%2Fb": "one",
                "a%252Fb": "two",
                "%7Bitem_id%7D": "three",
                "1%2Fsimilar": "four",
            }
            for path, title in titles.items():
                put = await client.put(f"/v1/items/{path}", json={"title": title})
                assert put.status_code == 200
            for path, title in titles.items():
                assert (await client.get(f"/v1/items/{path}")).json()["title"] == title
            assert (await client.get("/v1/items/a%2Fb/similar")).json()["item_id"] == "a/b"
            for path in ("/v1/items/a/b", "/v1%2Fhealthz", "/healthz/", "/V1/models"):
                assert (await client.get(path)).status_code == 404, path
            for path in ("/v1/items/", "/v1/items/%0A", "/v1/items//similar", "/none/%FF"):
                assert (await client.get(path)).status_code == 422, path
            assert (await client.get("/h%65althz")).status_code == 200

    run(scenario)


def test_head_is_get_without_its_body(serve):
    async def scenario():
        async with serve() as (client, _):
            for path in ("/", "/docs", "/healthz", "/readyz", "/v1/items/1", "/v1/models"):
                told, got = await client.head(path), await client.get(path)
                assert (told.status_code, told.content) == (200, b"")
                assert told.headers["content-length"] == str(len(got.content))
                assert told.headers["content-type"] == got.headers["content-type"]
            assert (await client.head("/v1/items/none")).status_code == 404
            wrong = await client.head("/v1/rank")
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
            allowed = (await client.post("/v1/items/1")).headers["allow"]
            assert allowed == "PUT, GET, PATCH, DELETE, HEAD"

    run(scenario)
