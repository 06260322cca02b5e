"""Calls without a person: similar and popular items under filters, columns with lists, many items at once."""

import asyncio
import json

import pytest


def run(scenario):
    return asyncio.run(scenario())


def ids(answer):
    return [item["item_id"] for item in answer.json()["items"]]


def test_similar_items_by_any_way_and_of_several(serve):
    async def scenario():
        async with serve() as (client, _):
            blend = (await client.get("/v1/items/1/similar?k=5")).json()
            assert (blend["item_id"], len(blend["items"])) == ("1", 5)
            text = await client.get("/v1/items/1/similar", params={"k": 5, "by": "text"})
            assert ids(text) != [item["item_id"] for item in blend["items"]]
            one = await client.post("/v1/similar", json={"items": ["1"], "k": 5})
            assert ids(one) == [item["item_id"] for item in blend["items"]]
            body = {"items": ["1", "2", "1", "who"], "k": 100, "exclude": ["3"]}
            several = await client.post("/v1/similar", json=body)
            assert several.json()["unknown"] == ["who"]
            assert {"1", "2", "3"}.isdisjoint(ids(several))
            assert len(ids(several)) == 27
            assert (await client.get("/v1/items/nobody/similar")).status_code == 404
            assert (await client.get("/v1/items/1/similar?by=luck")).status_code == 422

    run(scenario)


def test_popular_items_need_no_person(serve):
    async def scenario():
        async with serve() as (client, _):
            events = [
                {"user_id": user, "item_id": item, "event_type": "click"}
                for user, item in (("a", "5"), ("b", "5"), ("c", "6"))
            ]
            await client.post("/v1/events", json=events)
            found = (await client.post("/v1/popular", json={"fields": ["title"]})).json()
            assert found["window"] == "all"
            assert found["items"] == [
                {"item_id": "5", "score": 2.0, "fields": {"title": "Film 5"}},
                {"item_id": "6", "score": 1.0, "fields": {"title": "Film 6"}},
            ]
            short = await client.post("/v1/popular", json={"window": "30m"})
            assert (short.status_code, short.json()["errors"][0]["pointer"]) == (422, "$.window")
            assert (await client.post("/v1/popular", json={"window": "soon"})).status_code == 422

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommend", {"user_id": "u", "k": 100}),
        ("/v1/similar", {"items": ["1"], "k": 100}),
        ("/v1/popular", {"k": 100}),
    ],
)
def test_one_filter_language_for_every_list(serve, path, body):
    async def scenario():
        async with serve() as (client, _):
            dear = {"title": "Dear", "attributes": {"price": 40.0}}
            await client.put("/v1/items/dear", json=dear)
            event = {"user_id": "x", "item_id": "dear", "event_type": "click"}
            await client.post("/v1/events", json=event)
            kept = await client.post(path, json={**body, "filters": {"price": {"gt": 30}}})
            assert ids(kept) == ["dear"]
            kept = await client.post(path, json={**body, "filters": {"not": {"price": {"gt": 30}}}})
            assert "dear" not in ids(kept)
            wrong = await client.post(path, json={**body, "filters": {"price": {"below": 3}}})
            assert wrong.status_code == 422
            assert wrong.json()["errors"][0]["pointer"] == "$.filters.price"
            assert "lt, lte, gt, gte" in wrong.json()["detail"]

    run(scenario)


def test_an_answer_that_fell_back_keeps_the_filters(serve):
    async def scenario():
        async with serve() as (client, app):
            await client.put("/v1/items/7", json={"attributes": {"price": 40.0}})
            app.versions.champion().fail_on = "u"
            body = {"user_id": "u", "k": 5, "filters": {"price": {"gt": 30}}}
            answer = await client.post("/v1/recommend", json=body)
            assert answer.json()["degraded"] == ["ranking_failed"]
            assert ids(answer) == ["7"]

    run(scenario)


def test_columns_come_with_a_list(serve):
    async def scenario():
        async with serve() as (client, _):
            await client.put("/v1/items/1", json={"attributes": {"price": 3.5}})
            body = {
                "user_id": "u",
                "items": ["1", {"item_id": "new", "title": "Inline"}],
                "fields": ["title", "price"],
            }
            ranked = (await client.post("/v1/rank", json=body)).json()
            by_id = {item["item_id"]: item["fields"] for item in ranked["items"]}
            assert by_id["1"] == {"title": "Film 1", "price": 3.5}
            assert by_id["new"] == {"title": "Inline", "price": None}
            wrong = await client.post("/v1/recommend", json={"fields": ["colour"]})
            assert wrong.status_code == 422
            assert "maker, price" in wrong.json()["detail"]

    run(scenario)


def test_items_are_posted_changed_and_taken_away(serve):
    async def scenario():
        async with serve() as (client, _):
            several = [
                {"item_id": "n1", "title": "First"},
                {"item_id": "n2", "title": "Second"},
                {"item_id": "n1", "category": "late"},
            ]
            posted = (await client.post("/v1/items", json=several)).json()["items"]
            assert [item["item_id"] for item in posted] == ["n1", "n2"]
            assert posted[0]["position"] < posted[1]["position"]
            seen = (await client.get("/v1/items/n1")).json()
            assert (seen["title"], seen["category"]) == ("First", "late")
            await client.patch("/v1/items/n1", json={"attributes": {"price": 2.0}})
            assert (await client.get("/v1/items/n1")).json()["attributes"] == {"price": 2.0}
            await client.delete("/v1/items/n1")
            assert (await client.get("/v1/items/n1")).json()["available"] is False
            assert (await client.delete("/v1/items/none")).status_code == 404
            assert (await client.patch("/v1/items/none", json={})).status_code == 404
            untitled = await client.post("/v1/items", json=[*several[:1], {"item_id": "n3"}])
            assert (untitled.status_code, untitled.json()["errors"][0]["pointer"]) == (
                409,
                "$[1].title",
            )
            assert (await client.get("/v1/items/n3")).status_code == 404

    run(scenario)


def test_a_body_may_name_its_item_and_no_other(serve):
    async def scenario():
        async with serve() as (client, _):
            body = {"item_id": "p", "title": "Named"}
            assert (await client.put("/v1/items/p", json=body)).status_code == 200
            other = await client.put("/v1/items/q", json=body)
            assert (other.status_code, other.json()["errors"][0]["pointer"]) == (409, "$.item_id")
            assert (await client.get("/v1/items/q")).status_code == 404

    run(scenario)


def test_every_field_of_a_request_is_described_and_none_is_wrongly_required(serve):
    async def scenario():
        async with serve() as (client, _):
            return json.loads((await client.get("/openapi.json")).content)

    document = run(scenario)
    schemas = document["components"]["schemas"]
    todo = [
        content["schema"]
        for path in document["paths"].values()
        for operation in path.values()
        if "requestBody" in operation
        for content in operation["requestBody"]["content"].values()
    ]
    seen, bare = set(), []
    while todo:
        schema = todo.pop()
        todo += [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]
        name = schema.get("$ref", "").rsplit("/", 1)[-1]
        if name and name not in seen:
            seen.add(name)
            for field, of in schemas[name]["properties"].items():
                bare += [f"{name}.{field}"] if "description" not in of else []
                # Tools take a field with a default for one that is always there.
                bare += [f"{name}.{field} has a default"] if "default" in of else []
                todo.append(of)
    assert seen >= {"RankRequest", "NewItem", "PastEvent", "EventIn", "ItemChange", "Filters3"}
    assert bare == []
    assert schemas["RecommendRequest"].get("required", []) == []
    assert schemas["RankRequest"]["required"] == ["items"]
    operations = [of for path in document["paths"].values() for of in path.values()]
    assert all(of["tags"] for of in operations)
    assert all("example" in c for of in operations if "requestBody" in of
               for c in of["requestBody"]["content"].values())  # fmt: skip
    assert "\\Z" not in json.dumps(document)


def test_a_vector_is_kept_and_one_of_another_length_refused(serve):
    async def scenario():
        async with serve() as (client, _):
            schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
            for name in ("NewItem", "ItemBody", "ItemChange"):
                said = schemas[name]["properties"]["vector"]["anyOf"][0]
                assert (said["minItems"], said["maxItems"]) == (2, 2)
            good = {"title": "Seen", "vector": [0.5, -1]}
            assert (await client.put("/v1/items/seen", json=good)).status_code == 200
            for vector, says in (
                ([1.0], "expected 2 numbers"),
                ([], "length"),
                (["a", "b"], "float"),
            ):
                bad = await client.put("/v1/items/bad", json={"title": "B", "vector": vector})
                assert bad.status_code == 422
                assert says in bad.text
                assert "vector" in bad.json()["errors"][0]["pointer"]
            assert (await client.get("/v1/items/bad")).status_code == 404
            inline = {"item_id": "x", "title": "X", "vector": [1, 2, 3]}
            ranked = await client.post("/v1/rank", json={"user_id": "u", "items": [inline]})
            assert (ranked.status_code, "has 3 numbers" in ranked.text) == (422, True)
            inline["vector"] = [1, 2]
            ranked = await client.post("/v1/rank", json={"user_id": "u", "items": [inline]})
            assert ids(ranked) == ["x"]

    run(scenario)
