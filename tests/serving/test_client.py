"""The typed clients against a running service, and against one that fails."""

import asyncio

import httpx
import pytest

from recsys.data_schemas.api import EventIn, ImpressionIn, ItemChange, NewItem
from recsys.serving.client import (
    ApiError,
    AsyncClient,
    Client,
    RetryBudget,
)
from recsys.serving.client.policy import pause


def test_both_clients_do_everything(live):
    async def awaited(url):
        async with AsyncClient(url, timeout=60) as client:
            ranked = await client.recommend("v", k=3)
            await client.event("v", ranked.items[0].item_id, "click")
            await client.events([EventIn(user_id="v", item_id="2", event_type="view")])
            await client.put_item("n2", title="Another")
            assert (await client.get_item("n2")).title == "Another"
            assert len((await client.get_user("v")).events) == 2
            assert (await client.models()).champion == "1"
            assert len(await client.similar("1", k=2)) == 2
            assert await client.find_items("Another")
            assert (await client.rank("v", ["1"])).items[0].item_id == "1"
            await client.put_items([ItemChange(item_id="n3", title="Third")])
            await client.patch_item("n3", category="late")
            await client.delete_item("n3")
            assert not (await client.get_item("n3")).available
            assert (await client.similar_to(["1", "none"], k=2, by="text")).unknown == ["none"]
            assert (await client.popular(k=1, fields=["title"]))[0].fields
            await client.impressions([ImpressionIn(session_id="s", item_ids=["1"])])
            await client.event(None, "3", "click", session_id="s")
            assert (await client.recommend(k=1, session_id="s")).items
            assert (await client.merge("v", "s")).events == 1
            assert (await client.opt_out("v")).opted_out
            assert (await client.get_user("v")).opted_out
            assert not (await client.opt_in("v")).opted_out
            assert (await client.put_user("w", plan="free")).user_id == "w"
            assert (await client.get_user("w")).attributes == {"plan": "free"}
            await client.forget_user("v")
            assert await client.ready()

    with live() as server, Client(server.url, timeout=60) as client:
        ranked = client.rank("u", ["1", NewItem(item_id="x y/z", title="T")], explain=1)
        assert {item.item_id for item in ranked.items} == {"1", "x y/z"}
        assert ranked.items[0].reasons is not None
        answer = client.event("u", "1", "click", impression_id=ranked.impression_id)
        assert answer.accepted == 1
        client.events([EventIn(user_id="u", item_id="2", event_type="view")])
        assert client.recommend("u", k=3).model_version == "1"
        client.put_item("a/b", title="New", available=True)
        assert client.get_item("a/b").title == "New"
        assert [item.item_id for item in client.find_items("New")] == ["a/b"]
        assert len(client.similar("1", k=2)) == 2
        assert len(client.get_user("u").events) == 2
        client.put_items([ItemChange(item_id="c", title="Third")])
        client.patch_item("c", category="late")
        client.delete_item("c")
        assert client.get_item("c").category == "late"
        assert len(client.similar_to(["1", "2"], k=3, filters={"tags": "a"}).items) == 3
        assert client.popular(k=1)[0].score >= 1.0
        client.impressions([ImpressionIn(user_id="u", item_ids=["1", "2"])])
        client.event(None, "3", "click", session_id="s")
        assert client.rank(None, ["3", "4"], session_id="s").items[0].item_id == "3"
        assert client.merge("u", "s").events == 1
        assert client.put_user("w/1", plan="free").user_id == "w/1"
        assert client.get_user("w/1").attributes == {"plan": "free"}
        assert len(client.get_user("u").events) == 3
        assert client.opt_out("u").opted_out
        assert client.get_user("u").opted_out
        assert not client.opt_in("u").opted_out
        client.forget_user("u")
        assert {m.version for m in client.models().models} == {"1", "2", "3"}
        assert client.ready()
        with pytest.raises(ApiError) as refused:
            client.rank("u", ["1", "1"])
        assert refused.value.status == 422
        assert refused.value.problem is not None
        asyncio.run(awaited(server.url))


def flaky(failures, calls):
    """A transport that answers 503 a number of times."""

    def answer(request):
        calls.append(request)
        if len(calls) <= failures:
            return httpx.Response(503, headers={"retry-after": "0"})
        return httpx.Response(200, json={"accepted": 1, "duplicates": 0, "events": []})

    return httpx.MockTransport(answer)


def test_a_call_is_repeated_with_the_same_event_id():
    calls = []
    with Client("http://x", transport=flaky(2, calls)) as client:
        assert client.event("u", "1", "click").accepted == 1
    assert len({request.content for request in calls}) == 1
    assert len(calls) == 3


def test_repetitions_end_with_the_budget():
    calls, budget = [], RetryBudget(share=0.5, reserve=2.0)
    with Client("http://x", retries=5, budget=budget, transport=flaky(99, calls)) as client:
        for _ in range(3):
            with pytest.raises(ApiError, match="503"):
                client.event("u", "1", "click")
    # 3 first attempts, and 2 (reserve) + 2 × 0.5 (earned after the reserve was spent) repetitions.
    assert len(calls) == 3 + 3


def test_a_long_retry_after_is_not_waited_for():
    assert pause(0, {"retry-after": "60"}) is None
    assert pause(0, {"retry-after": "2"}) == 2.0
    assert 0.025 <= pause(0, {}) <= 0.05


def test_a_service_that_is_away_is_explained():
    with (
        Client("http://127.0.0.1:9", retries=0) as client,
        pytest.raises(ApiError, match="could not be reached"),
    ):
        client.recommend("u")


def test_a_router_is_told_the_shard():
    from recsys.data_schemas.shards import shard_of

    told = []

    def answer(request):
        told.append(request.headers.get("x-recsys-shard"))
        if request.url.path.startswith("/v1/users"):
            return httpx.Response(200, json={"user_id": "u"})
        return httpx.Response(200, json={"model_version": "1", "impression_id": "i", "items": []})

    with Client("http://localhost", shards=16, transport=httpx.MockTransport(answer)) as client:
        client.rank("ann", ["1"])
        client.recommend(None, session_id="v")
        client.recommend("ann", session_id="v")
        client.get_user("bob")
        client.recommend(None)
    shards = [shard_of(user, 16) for user in ("ann", "session:v", "ann", "bob")]
    assert told == [*map(str, shards), None]
    told.clear()
    with Client("http://localhost", transport=httpx.MockTransport(answer)) as client:
        client.rank("ann", ["1"])
    assert told == [None]
