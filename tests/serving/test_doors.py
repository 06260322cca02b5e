"""What the tables set aside, the service refuses, and names the field."""

import asyncio

import pytest

from recsys.data_schemas.limits import EVENT_TYPES, ID_LENGTH, NAME_LENGTH, TEXT_LENGTH, TYPE_LENGTH
from recsys.storage.eventlog import LogUnavailable

RUN = asyncio.run
EVENT = {"user_id": "u", "item_id": "1", "event_type": "view"}
UNSOUND = ["", " ", "\u3000", "\u200b", "\t", "a\n", "a\x00", "\x7f", "x" * (ID_LENGTH + 1)]
KINDS = {"price": "number", "used": "boolean", "brand": "text"}


def pointers(answer):
    return [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("field", ["user_id", "item_id", "event_id", "impression_id", "event_type"])
def test_an_id_that_tables_set_aside_is_refused(serve, field):
    async def scenario():
        async with serve() as (client, _):
            for text in [*UNSOUND, *(["x" * (TYPE_LENGTH + 1)] if field == "event_type" else [])]:
                answer = await client.post("/v1/events", json=EVENT | {field: text})
                assert answer.status_code == 422, (field, text)
                assert pointers(answer) == [f"$.{field}"]
            for text in ["x" * TYPE_LENGTH, " a b ", "é", "商品", "a/b?c#d%20", "it's"]:
                event = EVENT | {field: text}
                assert (await client.post("/v1/events", json=event)).status_code == 200, text

    RUN(scenario())


def test_ranking_asks_for_sound_ids_too(serve):
    async def scenario():
        async with serve() as (client, _):
            for text in UNSOUND:
                for body, place in (
                    ({"user_id": text, "items": ["1"]}, "$.user_id"),
                    ({"user_id": "u", "items": ["1", text]}, "$.items[1]"),
                    (
                        {"user_id": "u", "items": [{"item_id": text, "title": "T"}]},
                        "$.items[0].item_id",
                    ),
                ):
                    answer = await client.post("/v1/rank", json=body)
                    assert answer.status_code == 422, (place, text)
                    assert pointers(answer)[0].startswith("$.items" if "items" in place else place)

    RUN(scenario())


@pytest.mark.parametrize("time", ["1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_times_before_1970_are_refused_where_they_stand(serve, time):
    async def scenario():
        async with serve() as (client, app):
            old = EVENT | {"timestamp": time}
            assert pointers(await client.post("/v1/events", json=old)) == ["$.timestamp"]
            answer = await client.post("/v1/events", json=[EVENT, old])
            assert (answer.status_code, pointers(answer)) == (422, ["$[1].timestamp"])
            history = [{"item_id": "1"}, {"item_id": "2", "timestamp": time}]
            for path, body in (("rank", {"items": ["1"]}), ("recommend", {})):
                body = body | {"user_id": "u", "history": history}
                answer = await client.post(f"/v1/{path}", json=body)
                assert (answer.status_code, pointers(answer)) == (422, ["$.history[1].timestamp"])
            asked = {"user_id": "u", "items": ["1"], "as_of": time}
            assert pointers(await client.post("/v1/rank", json=asked)) == ["$.as_of"]
            assert app._log.last_position() == 0, "nothing of a refused call is kept"
            # A book may be older than the clock of computers.
            book = {"title": "T", "created_at": time}
            assert (await client.put("/v1/items/book", json=book)).status_code == 200

    RUN(scenario())


def test_an_attribute_of_another_type_is_refused_by_name(serve):
    async def scenario():
        async with serve() as (client, app):
            app.versions.champion().attribute_kinds = KINDS
            for name, values in {
                "price": ["cheap", "", "12.5", True],
                "used": ["yes", 2, 0.5, 1, 0],
                "brand": [3, True],
            }.items():
                for value in values:
                    for item in ("1", "fresh"):
                        body = {"title": "T", "attributes": {name: value}}
                        answer = await client.put(f"/v1/items/{item}", json=body)
                        assert answer.status_code == 422, (name, value)
                        assert pointers(answer) == [f"$.attributes.{name}"]
            assert app._log.last_position() == 0
            good = {"price": 3, "used": True, "brand": "Acme", "heard of by nobody": 1}
            body = {"title": "T", "attributes": good}
            assert (await client.put("/v1/items/fresh", json=body)).status_code == 200

    RUN(scenario())


def test_the_first_value_of_a_new_attribute_says_its_type(serve, eventually):
    """Whichever call brings another: a night would make texts of numbers."""

    async def scenario():
        async with serve() as (client, app):
            put = {"title": "T", "attributes": {"colour": "red"}}
            assert (await client.put("/v1/items/a", json=put)).status_code == 200
            five = {"colour": 5}
            for method, path, body, place in (
                ("PUT", "/v1/items/b", {"title": "T", "attributes": five}, "$"),
                ("PATCH", "/v1/items/1", {"attributes": five}, "$"),
                ("POST", "/v1/items", [{"item_id": "1", "attributes": five}], "$[0]"),
            ):
                answer = await client.request(method, path, json=body)
                assert answer.status_code == 422, path
                assert pointers(answer) == [f"{place}.attributes.colour"]
                assert "a text in the other items" in answer.json()["detail"]
            both = [{"item_id": str(n), "attributes": {"size": n}} for n in (1, 2)]
            both.append({"item_id": "3", "attributes": {"size": "L"}})
            answer = await client.post("/v1/items", json=both)
            assert (answer.status_code, pointers(answer)) == (422, ["$[2].attributes.size"])
            assert app._log.last_position() == 1, "nothing of a refused call is kept"
            # Nothing is learned from what was refused.
            assert (await client.post("/v1/items", json=both[2:])).status_code == 200

            put = {"attributes": {"likes": "tea"}}
            assert (await client.put("/v1/users/u", json=put)).status_code == 200
            answer = await client.put("/v1/users/v", json={"attributes": {"likes": 5}})
            assert (answer.status_code, pointers(answer)) == (422, ["$.attributes.likes"])
            assert "in the other users" in answer.json()["detail"]
        # A service that is started again reads it from the log.
        async with serve() as (client, app):
            await eventually(lambda: app.versions.champion().log_position == 3)
            body = {"title": "T", "attributes": five}
            assert (await client.put("/v1/items/b", json=body)).status_code == 422

    RUN(scenario())


SENT = [
    ("PUT", "/v1/items/n", {"title": "T"}, "attributes", ""),
    ("PATCH", "/v1/items/1", {}, "attributes", ""),
    ("POST", "/v1/items", [{"item_id": "1"}, {"item_id": "2"}], "attributes", "[1]"),
    ("PUT", "/v1/users/u", {}, "attributes", ""),
    ("POST", "/v1/rank", {"user_id": "u", "items": ["1"]}, "context", ""),
    ("POST", "/v1/impressions", [{"user_id": "u", "item_ids": ["1"]}], "context", "[0]"),
    ("POST", "/v1/recommend", {"user_id": "u"}, "context", ""),
    ("POST", "/v1/recommend", {"user_id": "u"}, "caps", ""),
]


@pytest.mark.parametrize(("method", "path", "body", "field", "at"), SENT)
def test_a_value_that_no_attribute_has_is_refused_by_name(serve, method, path, body, field, at):
    async def scenario():
        async with serve() as (client, app):
            bad = [None, [1], {"a": 1}, 1e300, "x" * (TEXT_LENGTH + 1)]
            for value in bad:
                given = {field: {"maker": 1, "stock, in all": value, "price": value}}
                whole = [*body[:-1], body[-1] | given] if at else body | given
                answer = await client.request(method, path, json=whole)
                # In the order in which they are written.
                wrong = f"${at}.{field}.stock, in all"
                assert (answer.status_code, pointers(answer)) == (422, [wrong]), value
                assert f"`{wrong}`" in answer.json()["detail"]
                given = {field: {"": 1}}
                whole = [*body[:-1], body[-1] | given] if at else body | given
                answer = await client.request(method, path, json=whole)
                assert (answer.status_code, pointers(answer)) == (422, [f"${at}.{field}"])
            assert app._log.last_position() == 0

    RUN(scenario())


def test_in_a_bulk_change_an_attribute_of_another_type_is_found_by_item_and_name(serve):
    async def scenario():
        async with serve() as (client, app):
            app.versions.champion().attribute_kinds = KINDS
            body = [{"item_id": "1"}, {"item_id": "2", "attributes": {"price": "cheap"}}]
            answer = await client.post("/v1/items", json=body)
            assert (answer.status_code, pointers(answer)) == (422, ["$[1].attributes.price"])

    RUN(scenario())


def test_of_a_key_that_is_given_twice_the_object_is_named(serve):
    async def scenario():
        async with serve() as (client, _):
            raw = b'{"title": "T", "attributes": {"a": null, "a": 1}}'
            headers = {"content-type": "application/json"}
            answer = await client.put("/v1/items/n", content=raw, headers=headers)
            assert (answer.status_code, pointers(answer)) == (422, ["$.attributes"])
            # What follows the fault may be anything: it was not read.
            raw = b'{"title": "T", "attributes": {"a": null, ' + b"[" * 5000
            answer = await client.put("/v1/items/n", content=raw, headers=headers)
            assert (answer.status_code, pointers(answer)) == (422, ["$.attributes"])

    RUN(scenario())


@pytest.mark.parametrize(
    "name", ["position", "Position", "received_at", "__index_level_0__", "Unnamed: 0", "Title"]
)
def test_a_name_that_no_table_takes_for_an_attribute_is_refused(serve, name):
    async def scenario():
        async with serve() as (client, _):
            body = {"title": "T", "attributes": {name: 1.0}}
            answer = await client.put("/v1/items/n", json=body)
            assert (answer.status_code, pointers(answer)) == (422, [f"$.attributes.{name}"])

    RUN(scenario())


def test_names_of_people_are_taken(serve):
    async def scenario():
        async with serve() as (client, _):
            names = [
                "size, cm",
                '["x"]',
                "цена, руб",
                "rowid",
                "file_row_number",
                "x" * NAME_LENGTH,
            ]
            body = {"title": "T", "attributes": dict.fromkeys(names, 1.0)}
            assert (await client.put("/v1/items/n", json=body)).status_code == 200
            for name in ("x" * (NAME_LENGTH + 1), "a\n", " "):
                body = {"title": "T", "attributes": {name: 1.0}}
                assert (await client.put("/v1/items/n", json=body)).status_code == 422

    RUN(scenario())


def test_in_a_ranking_such_an_attribute_is_unknown_for_that_item_alone(serve):
    async def scenario():
        async with serve() as (client, app):
            engine = app.versions.champion()
            engine.attribute_kinds = KINDS
            asked = []
            answer_with = engine.answer

            def answer(ask):
                asked.append(ask)
                return answer_with(ask)

            engine.answer = answer
            lent = {"item_id": "n", "title": "T"}
            mixed = {"price": "", "used": None, "brand": "Acme", "other": 3}
            items = [
                "1",
                lent | {"attributes": mixed},
                {**lent, "item_id": "m", "attributes": {"price": 2, "used": 1}},
            ]
            given = await client.post("/v1/rank", json={"user_id": "u", "items": items})
            assert given.status_code == 200
            assert None not in [item["score"] for item in given.json()["items"]]
            new = asked[0].new_items
            assert {k: new["n"][k] for k in ("brand", "other")} == {"brand": "Acme", "other": 3}
            assert not {"price", "used"} & new["n"].keys()
            assert new["m"]["price"] == 2
            assert "used" not in new["m"]

    RUN(scenario())


def test_more_event_types_than_the_tables_take_are_refused(serve, monkeypatch):
    """The last of the places is given back where the log accepted nothing."""

    def events(*numbers):
        return [EVENT | {"event_type": f"t{n}"} for n in numbers]

    async def scenario():
        async with serve() as (client, app):
            app.versions.champion().event_types = ["view", "t0"]
            first = events(*range(EVENT_TYPES - 2))
            assert (await client.post("/v1/events", json=first)).status_code == 200
            submit = app._log.submit

            def refused(writes):
                raise LogUnavailable("the log's store does not answer")

            monkeypatch.setattr(app._log, "submit", refused)
            assert (await client.post("/v1/events", json=events("lost"))).status_code == 503
            monkeypatch.setattr(app._log, "submit", submit)
            answer = await client.post("/v1/events", json=events(0, "kept", "over"))
            assert (answer.status_code, pointers(answer)) == (422, ["$[2].event_type"])
            assert (await client.post("/v1/events", json=events("kept"))).status_code == 200
            assert (await client.post("/v1/events", json=events("over"))).status_code == 422
            assert (await client.post("/v1/events", json=events(3, "kept"))).status_code == 200
            shown = (await client.get("/metrics")).text
            assert 'recsys_events_total{outcome="too_many_types"}' in shown
            assert len({r.payload["event_type"] for r in app._log.read(0)}) == EVENT_TYPES - 1

    RUN(scenario())
