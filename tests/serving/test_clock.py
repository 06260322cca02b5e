"""One wrong clock: what it stamps is refused, nobody follows it, and stamps that were given are repaired."""

import asyncio
import json
import time

import pytest

from recsys.data_schemas.log_record import CLOCK_SPAN
from recsys.operations.cli.main import main
from recsys.serving import clock as clocks
from recsys.serving.clock import Clock
from recsys.storage.eventlog import LogUnavailable, open_log

SECOND = 1_000_000
DAYS = 400 * 86_400 * SECOND
EVENT = {"user_id": "u", "item_id": "4", "event_type": "click"}


class Machine:
    """A wall clock and a steady one."""

    def __init__(self, wall=1_000 * 86_400 * SECOND):
        self.wall_now, self.steady_now = wall, 5 * SECOND

    def passes(self, microseconds):
        self.wall_now += microseconds
        self.steady_now += microseconds

    def clock(self, frozen=False):
        return Clock(frozen, lambda: self.wall_now, lambda: self.steady_now)


def test_a_clock_never_gives_a_moment_twice_and_follows_the_log():
    machine = Machine()
    clock = machine.clock()
    first = clock.now()
    assert clock.now() > first
    clock.observe(first + CLOCK_SPAN // 2)
    assert clock.now() > first + CLOCK_SPAN // 2
    assert clock.trouble is None


def test_a_clock_does_not_follow_a_stamp_that_cannot_be():
    machine = Machine()
    clock = machine.clock()
    clock.observe(machine.wall_now + DAYS)
    assert clock.now() < machine.wall_now + SECOND
    clock.observe_log(machine.wall_now + DAYS, None)
    assert "400 days" in clock.trouble
    assert "log restamp" in clock.trouble
    clock.observe_log(machine.wall_now, None)
    assert clock.trouble is None


def test_a_wall_clock_that_jumps_is_not_believed_until_it_is_back():
    machine = Machine()
    clock = machine.clock()
    start = clock.now()
    machine.wall_now += DAYS
    machine.passes(7 * SECOND)
    assert "jumped by 400 days" in clock.trouble
    assert start + 7 * SECOND <= clock.now() < start + 8 * SECOND
    machine.wall_now -= DAYS
    machine.passes(SECOND)
    assert clock.trouble is None
    assert start + 8 * SECOND <= clock.now() < start + 9 * SECOND


def test_small_corrections_and_sleep_are_nothing():
    machine = Machine()
    clock = machine.clock()
    for _ in range(20):
        machine.wall_now += CLOCK_SPAN // 2
        machine.passes(DAYS)
        assert clock.trouble is None


def test_the_store_s_clock_is_a_second_witness():
    machine = Machine()
    clock = machine.clock()
    clock.observe_log(0, machine.wall_now - DAYS)
    assert "disagree by 400 days" in clock.trouble
    clock.observe_log(0, machine.wall_now - SECOND)
    assert clock.trouble is None
    frozen = machine.clock(frozen=True)
    frozen.observe_log(17, machine.wall_now - DAYS)
    assert (frozen.trouble, frozen.now()) == (None, 18)


@pytest.mark.postgres
def test_a_store_refuses_stamps_ahead_of_its_own_clock(postgres):
    with open_log(postgres.empty()) as log:
        now = time.time_ns() // 1000
        log.append_events([EVENT | {"timestamp": 1, "received_at": now}])
        with pytest.raises(LogUnavailable, match="ahead of the log's store"):
            log.append_events([EVENT | {"timestamp": 1, "received_at": now + DAYS}])
        assert log.clocks()[0] == now
        assert abs(log.clocks()[1] - now) < CLOCK_SPAN


def test_one_wrong_clock_does_not_stamp_what_comes_after(serve, tmp_path, monkeypatch, eventually):
    """Today's clock is right; once it was 400 days ahead, in a service that believed it."""
    path, real = tmp_path / "log.sqlite", time.time_ns

    async def scenario():
        async with serve(clock="wall") as (client, _):
            assert (await client.post("/v1/events", json=EVENT)).status_code == 200
            monkeypatch.setattr(time, "time_ns", lambda: real() + DAYS * 1000)
            answer = await client.post("/v1/events", json=EVENT)
            assert (answer.status_code, "jumped" in answer.json()["detail"]) == (503, True)
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.post("/v1/rank", json={"user_id": "u", "items": ["1"]})).is_success
            monkeypatch.setattr(time, "time_ns", real)
            assert (await client.post("/v1/events", json=EVENT)).status_code == 200
        now = real() // 1000
        with open_log(path) as log:
            assert all(abs(r.received_at - now) < CLOCK_SPAN for r in log.read(0))
            # A service that started with the wrong clock had nothing to compare it with.
            ahead = {"timestamp": now + DAYS, "received_at": now + DAYS}
            log.append_events([EVENT | ahead, EVENT | ahead | {"timestamp": 77}])
            log.append_events([EVENT | {"timestamp": now, "received_at": now + 9}])
        async with serve(clock="wall") as (client, _):
            answer = await client.post("/v1/events", json=EVENT)
            assert (answer.status_code, "log restamp" in answer.json()["detail"]) == (503, True)
            assert (await client.put("/v1/items/x", json={"title": "t"})).status_code == 503
            assert (await client.delete("/v1/users/u")).status_code == 503
            assert "400 days" in (await client.get("/readyz")).json()["reason"]

    asyncio.run(scenario())


def test_stamps_that_a_wrong_clock_gave_are_repaired(tmp_path, capsys):
    now = clocks.wall_us()
    (tmp_path / "recsys.yaml").write_text(json.dumps({"data": {"items": "i", "events": "e"}}))
    path = tmp_path / "work" / "log" / "log.sqlite"
    with open_log(path) as log:
        stamps = [now - 90, now + DAYS, now + DAYS + 20, now - 10]
        for n, at in enumerate(stamps):
            own = at if n != 2 else 77
            log.append_events([EVENT | {"event_id": f"e{n}", "timestamp": own, "received_at": at}])
        log.put_item({"item_id": "x", "title": "t", "created_at": now + DAYS, "received_at": now})
        mark, revision = log.mark(), log.revision()
    command = ["log", "restamp", "-c", str(tmp_path / "recsys.yaml")]
    assert main(command) == 0
    assert "2 records from position 2 on" in capsys.readouterr().out
    with open_log(path) as log:
        log.expect(mark)
        records = log.read(0)
        assert [r.received_at for r in records] == [now - 90, now - 89, now - 69, now - 10, now]
        assert [r.payload.get("timestamp") for r in records][:4] == [
            now - 90,
            now - 89,
            77,
            now - 10,
        ]
        assert log.clocks()[0] <= now
        assert log.revision() == revision + 1
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
