"""A log that was replaced, deleted or damaged: nothing is answered 200 and then lost."""

import asyncio

import pytest

from recsys.data_schemas.log_record import LogMark
from recsys.storage.eventlog import open_log

EVENT = {"user_id": "u", "item_id": "4", "event_type": "click"}
ASK = {"user_id": "u", "items": ["1", "2"]}


def run(scenario):
    return asyncio.run(scenario())


def knows(fakes, mark):
    """A provider whose engines were made from a snapshot of a log."""

    class Provider(fakes[0]):
        def load(self, version):
            engine = super().load(version)
            engine.log_mark, engine.log_position = mark, mark.position
            return engine

    return Provider()


async def writes(client):
    return [
        (await client.post("/v1/events", json=EVENT)).status_code,
        (await client.put("/v1/items/new", json={"title": "t"})).status_code,
        (await client.delete("/v1/users/u")).status_code,
    ]


async def unready(client):
    found = await client.get("/readyz")
    return found.status_code, found.json().get("reason", "")


@pytest.mark.parametrize("mark", [("another", 3), (None, 99)])
def test_a_replaced_log_takes_nothing_and_the_service_is_not_ready(
    serve, fakes, tmp_path, eventually, mark
):
    with open_log(tmp_path / "log.sqlite") as log:
        log.append_events([EVENT | {"timestamp": 1}])
        held = LogMark(mark[0] or log.identity, mark[1])

    async def scenario():
        async with serve(knows(fakes, held)) as (client, _):
            assert await writes(client) == [503] * 3
            status, reason = await unready(client)
            assert (status, "replaced" in reason) == (503, True)
            # What can be answered is answered.
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200
            refused = (await client.post("/v1/events", json=EVENT)).json()["detail"]
            assert "nothing of this call was accepted" in refused
            shown = (await client.get("/metrics")).text
            assert "recsys_log_refused 1.0" in shown
        with open_log(tmp_path / "log.sqlite") as log:
            assert [r.kind for r in log.read(0)] == ["event"]

    run(scenario)


def test_the_log_of_the_snapshot_is_followed(serve, fakes, tmp_path):
    with open_log(tmp_path / "log.sqlite") as log:
        log.append_events([EVENT | {"timestamp": 1}])
        mark = log.mark()

    async def scenario():
        async with serve(knows(fakes, mark)) as (client, _):
            assert await writes(client) == [200] * 3
            assert (await client.get("/readyz")).status_code == 200

    run(scenario)


def test_a_log_that_is_deleted_in_use_is_missed_and_taken_up_again(serve, tmp_path, eventually):
    kept = tmp_path / "kept"
    kept.mkdir()

    async def scenario():
        async with serve() as (client, app):
            assert await writes(client) == [200] * 3
            for file in tmp_path.glob("log.sqlite*"):
                file.rename(kept / file.name)
            assert await writes(client) == [503] * 3
            assert (await unready(client))[0] == 503
            for file in kept.iterdir():
                file.rename(tmp_path / file.name)
            await eventually(lambda: app._log.trouble is None)
            assert await writes(client) == [200] * 3
            assert (await client.get("/readyz")).status_code == 200

    run(scenario)


def test_a_damaged_log_is_found_at_the_start(serve, tmp_path):
    path = tmp_path / "log.sqlite"
    with open_log(path) as log:
        log.append_events([EVENT | {"timestamp": n, "user_id": f"u{n}" * 20} for n in range(900)])
    data = bytearray(path.read_bytes())
    data[9 * 4096 : 9 * 4096 + 300] = b"\xff" * 300
    path.write_bytes(data)

    async def scenario():
        async with serve() as (client, _):
            status, reason = await unready(client)
            assert (status, "damaged" in reason) == (503, True)
            assert await writes(client) == [503] * 3
            assert (await client.post("/v1/rank", json=ASK)).status_code == 200

    run(scenario)
