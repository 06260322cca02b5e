"""Workers that keep some histories: what they answer about others, and what reaches the right one."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest

from recsys.data_schemas.shards import Shards, shard_of
from recsys.serving.app import App
from recsys.serving.settings import ServiceSettings
from recsys.storage.eventlog import open_log

EVEN, ODD = Shards.parse("0/2"), Shards.parse("1/2")


def user_of(shard, prefix="user"):
    return next(u for n in range(100) if shard_of(u := f"{prefix}-{n}", 2) == shard)


def click(user, item="3", **more):
    return {"user_id": user, "item_id": item, "event_type": "click", **more}


@pytest.fixture
def workers(tmp_path, fakes, eventually):
    """Two workers over one log: `async with workers() as (even, odd)`."""
    provider, _ = fakes

    class Two(AsyncExitStack):
        async def __aenter__(self):
            await super().__aenter__()
            clients = []
            for shards in (EVEN, ODD):
                settings = ServiceSettings(
                    champion_poll=0.02,
                    log_poll=0.02,
                    clock="end_of_data",
                    timeout_ms=60_000,
                    shards=shards,
                )
                app = App(provider(), lambda: open_log(tmp_path / "log.sqlite"), settings)
                await app.start()
                self.push_async_callback(app.stop)
                await eventually(lambda app=app: app.versions.ready)
                transport = httpx.ASGITransport(app=app)
                client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
                clients.append(await self.enter_async_context(client))
            return clients

    return Two


async def ranked(client, user, **more):
    body = {"user_id": user, "items": ["1", "2", "3"], **more}
    return (await client.post("/v1/rank", json=body)).json()


def test_a_read_at_the_wrong_shard_is_answered_as_new_marked_and_counted(workers):
    async def scenario():
        async with workers() as (even, odd):
            user, nobody = user_of(0), user_of(0, "nobody")
            assert (await even.post("/v1/events", json=click(user))).status_code == 200
            right = await ranked(even, user)
            assert right.get("degraded", []) == []
            fresh = await ranked(even, nobody)
            assert right["items"] != fresh["items"]
            wrong = await ranked(odd, user)
            assert wrong["degraded"] == ["wrong_shard"]
            assert wrong["items"] == fresh["items"]
            listed = await odd.post("/v1/recommend", json={"user_id": user, "k": 30})
            assert "3" in {item["item_id"] for item in listed.json()["items"]}
            assert listed.json()["degraded"] == ["wrong_shard"]
            view = (await odd.get(f"/v1/users/{user}")).json()
            assert view == {"user_id": user, "degraded": ["wrong_shard"]}
            assert len((await even.get(f"/v1/users/{user}")).json()["events"]) == 1
            counted = (await odd.get("/metrics")).text
            line = next(row for row in counted.splitlines() if 'reason="wrong_shard"' in row)
            assert float(line.rpartition(" ")[2]) >= 3

    asyncio.run(scenario())


def test_a_visit_that_another_worker_keeps_is_left_out_and_named(workers):
    async def scenario():
        async with workers() as (even, _):
            user = user_of(0)
            session = next(f"{n}" for n in range(100) if shard_of(f"session:{n}", 2) == 1)
            near = next(f"{n}" for n in range(100) if shard_of(f"session:{n}", 2) == 0)
            assert (await ranked(even, user, session_id=session))["degraded"] == [
                "session_elsewhere"
            ]
            assert (await ranked(even, user, session_id=near)).get("degraded", []) == []
            anonymous = {"session_id": session, "items": ["1", "2"]}
            answer = (await even.post("/v1/rank", json=anonymous)).json()
            assert answer["degraded"] == ["wrong_shard"]

    asyncio.run(scenario())


def test_a_replay_at_the_wrong_shard_is_refused(workers):
    async def scenario():
        async with workers() as (_, odd):
            body = {"user_id": user_of(0), "items": ["1"], "as_of": "2023-01-01T00:00:00Z"}
            answer = await odd.post("/v1/rank", json=body)
            assert (answer.status_code, "exact or fails" in answer.json()["detail"]) == (503, True)

    asyncio.run(scenario())


def test_writes_at_any_worker_take_effect_at_the_right_one(workers, eventually):
    async def scenario():
        async with workers() as (even, odd):
            user = user_of(0)

            async def seen(status, **holds):
                """Until the right worker says so."""
                for _ in range(2000):
                    answer = await even.get(f"/v1/users/{user}")
                    told = answer.json()
                    if answer.status_code == status and all(
                        told.get(name) == value for name, value in holds.items()
                    ):
                        return
                    await asyncio.sleep(0.02)
                raise AssertionError((answer.status_code, told))

            assert (await odd.post("/v1/events", json=click(user))).json()["accepted"] == 1
            await seen(200, attributes=None)
            assert len((await even.get(f"/v1/users/{user}")).json()["events"]) == 1
            body = {"attributes": {"plan": "paid"}}
            assert (await odd.put(f"/v1/users/{user}", json=body)).status_code == 200
            await seen(200, attributes={"plan": "paid"})
            assert (await odd.put(f"/v1/users/{user}/opt-out")).status_code == 200
            await seen(200, opted_out=True)
            assert (await odd.get(f"/v1/users/{user}")).json()["opted_out"] is True
            assert (await odd.delete(f"/v1/users/{user}/opt-out")).status_code == 200
            await seen(200, opted_out=None)
            assert (await odd.delete(f"/v1/users/{user}")).status_code == 200
            await seen(404)

    asyncio.run(scenario())


def test_a_newer_snapshot_of_the_same_version_is_swapped_in(serve, fakes, eventually):
    async def scenario():
        made, _ = fakes
        provider = made()
        provider.newest = "a"
        async with serve(provider) as (client, app):
            first = app.versions.champion()
            pinned = await client.post(
                "/v1/rank", json={"user_id": "u", "items": ["1"], "model_version": "2"}
            )
            assert pinned.status_code == 200
            await client.post("/v1/events", json=click("u"))
            provider.newest = "b"
            await eventually(lambda: app.versions.champion() is not first)
            second = app.versions.champion()
            assert (second.version, second.snapshot) == (first.version, "b")
            # It has folded what the former one had.
            assert second.events["u"] == first.events["u"]
            await eventually(lambda: app.versions.open_version("2") is None)
            loads = len(provider.loads)
            polls = provider.polls
            await eventually(lambda: provider.polls > polls + 3)
            assert len(provider.loads) == loads

    asyncio.run(scenario())


def test_a_snapshot_that_cannot_be_opened_leaves_the_former_one(serve, fakes, eventually, capsys):
    async def scenario():
        made, _ = fakes
        provider = made()
        provider.newest = "a"
        async with serve(provider) as (client, app):
            load = provider.load

            def broken(version):
                raise OSError("the store is away")

            provider.load, provider.newest = broken, "b"
            polls = provider.polls
            await eventually(lambda: provider.polls > polls + 3)
            assert app.versions.champion().snapshot == "a"
            assert (await ranked(client, "u")).get("degraded", []) == []
            provider.load = load
            assert capsys.readouterr().err.count("champion_not_loaded") == 1

    asyncio.run(scenario())
