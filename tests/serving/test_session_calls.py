"""Visits of people who are not logged in: asked for, acted in, merged into a user."""

import asyncio

import pytest

from recsys.storage.eventlog import open_log

CLICK = {"item_id": "5", "event_type": "click"}


def run(scenario):
    return asyncio.run(scenario())


def first(answer):
    return answer.json()["items"][0]["item_id"]


def test_a_visit_is_kept_like_a_user(serve):
    async def scenario():
        async with serve() as (client, app):
            posted = await client.post("/v1/events", json={"session_id": "s", **CLICK})
            assert posted.status_code == 200
            ask = {"items": ["5", "6", "7", "8"]}
            assert first(await client.post("/v1/rank", json={"session_id": "s", **ask})) == "5"
            both = {"user_id": "u", "session_id": "s", **ask}
            assert first(await client.post("/v1/rank", json=both)) == "5"
            plain = (await client.post("/v1/rank", json=ask)).json()["items"]
            last = plain[-1]["item_id"]
            sent = {"history": [{"item_id": last}], **ask}  # without a time: just before now
            assert first(await client.post("/v1/rank", json=sent)) == last
            assert (await client.post("/v1/recommend", json={"k": 3})).status_code == 200
            # One space of names: the visit can be looked at, and forgotten, by its user.
            assert (await client.get("/v1/users/session:s")).status_code == 200
            assert list(app.versions.champion().events) == ["session:s"]

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/impressions"])
def test_what_nobody_did_is_refused(serve, path):
    async def scenario():
        async with serve() as (client, _):
            body = CLICK if path == "/v1/events" else {"item_ids": ["1"]}
            answer = await client.post(path, json=body)
            assert (answer.status_code, "session_id" in answer.json()["detail"]) == (422, True)

    run(scenario)


def test_at_the_log_in_the_visit_becomes_the_users(serve):
    async def scenario():
        async with serve() as (client, app):
            events = [{"session_id": "s", **CLICK, "event_id": f"e{n}"} for n in range(3)]
            await client.post("/v1/events", json=events)
            merged = (await client.post("/v1/users/u/merge", json={"session_id": "s"})).json()
            assert merged == {"user_id": "u", "session_id": "s", "events": 3}
            kept = app.versions.champion().events
            assert {user: len(events) for user, events in kept.items()} == {"u": 3}
            assert {e["timestamp"] for e in kept["u"]} != {0}
            again = (await client.post("/v1/users/u/merge", json={"session_id": "s"})).json()
            assert again["events"] == 0
            # What the browser sends again is known; what it sends late can be merged too.
            repeated = (await client.post("/v1/events", json=events[:1])).json()
            assert repeated["duplicates"] == 1
            await client.post("/v1/events", json={"session_id": "s", **CLICK, "event_id": "late"})
            merged = (await client.post("/v1/users/u/merge", json={"session_id": "s"})).json()
            assert (merged["events"], len(kept["u"])) == (1, 4)

    run(scenario)


def test_lists_of_the_visit_become_the_users_and_are_counted_once(serve, tmp_path):
    async def scenario():
        async with serve(parity_share=1.0) as (client, app):
            asked = {"session_id": "s", "items": ["5", "6"]}
            shown = (await client.post("/v1/rank", json=asked)).json()["impression_id"]
            # Known to nothing but the buffer yet, or to the log: either way it is the user's.
            merged = await client.post("/v1/users/u/merge", json={"session_id": "s"})
            assert merged.json()["events"] == 0
            event = {"user_id": "u", **CLICK, "impression_id": shown}
            assert (await client.post("/v1/events", json=event)).status_code == 200
            assert app._impressions.lost == 0
            return shown

    shown = asyncio.run(scenario())
    with open_log(tmp_path / "log.sqlite") as log:
        (kept,) = [r.payload for r in log.read(0) if r.kind == "impression"]
    assert (kept["impression_id"], kept["user_id"]) == (shown, "u")
    assert "features" not in kept


def test_lists_shown_elsewhere_are_kept(serve, tmp_path):
    async def scenario():
        async with serve() as (client, _):
            body = {"user_id": "u", "item_ids": ["3", "1"], "impression_id": "m", "surface": "mail"}
            first = (await client.post("/v1/impressions", json=body)).json()
            assert first == {"impression_ids": ["m"]}
            again = await client.post("/v1/impressions", json=[body, {**body, "user_id": "v"}])
            assert again.json()["duplicates"] == 2
            future = {**body, "timestamp": "2100-01-01T00:00:00Z"}
            assert (await client.post("/v1/impressions", json=future)).status_code == 409

    run(scenario)
    from recsys.storage.eventlog import open_log

    with open_log(tmp_path / "log.sqlite") as log:
        shown = [r.payload for r in log.read(0) if r.kind == "impression"]
    assert [(s["user_id"], s["item_ids"], s["surface"]) for s in shown] == [
        ("u", ["3", "1"], "mail")
    ]


def test_what_a_user_is_is_kept_and_forgotten(serve, tmp_path):
    async def scenario():
        async with serve() as (client, _):

            async def put(attributes, user="u"):
                return await client.put(f"/v1/users/{user}", json={"attributes": attributes})

            first = await put({"plan": "premium", "age": 34})
            assert (first.status_code, first.json()) == (200, {"user_id": "u", "position": 1})
            await put({"age": 35, "new": True})
            kept = (await client.get("/v1/users/u")).json()["attributes"]
            assert kept == {"plan": "premium", "age": 35, "new": True}
            for wrong, status in (
                ({"age": "old"}, 422), ({"plan": 3}, 422), ({"user_id": "v"}, 409),
                ({"a\u0000": 1}, 422), ({"x": None}, 422), ({"x": [1]}, 422),
            ):  # fmt: skip
                answer = await put(wrong)
                assert answer.status_code == status, (wrong, answer.text)
            assert (await client.put("/v1/users/u", json={})).status_code == 422
            assert (await client.delete("/v1/users/u")).status_code == 200
            assert (await client.get("/v1/users/u")).status_code == 404

    run(scenario)
    with open_log(tmp_path / "log.sqlite") as log:
        assert [r.kind for r in log.read(0)] == ["forget"]
