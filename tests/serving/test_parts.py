"""Parts of the service by themselves: gathering texts, differences of a shadow, encoding in turn."""

import asyncio
import json
import threading

import pytest

from recsys.data_schemas.log_record import LogRecord
from recsys.serving import texts
from recsys.serving.follower import AT_ONCE, Follower, Live, portions
from recsys.serving.served_opt_outs import OptOuts
from recsys.serving.shadow import Differences, displacement, overlap
from recsys.serving.texts import TextBatcher


class Encoding:
    """Takes down which texts came together; each pass waits until it is let go."""

    def __init__(self):
        self.passes, self.go = [], threading.Event()

    def prepare(self, items):
        self.passes.append([item["t"] for item in items])
        assert self.go.wait(30)


def items(*names):
    return [{"t": name} for name in names]


async def passes(engine, count):
    while len(engine.passes) < count:
        await asyncio.sleep(0.001)


def test_texts_that_wait_are_encoded_together():
    async def scenario():
        engine, batcher = Encoding(), TextBatcher()
        first = asyncio.create_task(batcher.prepare(engine, items("a"), 60))
        await passes(engine, 1)
        others = [
            asyncio.create_task(batcher.prepare(engine, items(name), 60)) for name in ("b", "c")
        ]
        await asyncio.sleep(0)
        engine.go.set()
        assert await asyncio.gather(first, *others) == [True, True, True]
        assert engine.passes == [["a"], ["b", "c"]]

    asyncio.run(scenario())


def test_who_gave_up_waiting_is_not_encoded_for_and_long_lists_come_in_parts(monkeypatch):
    monkeypatch.setattr(texts, "AT_ONCE", 2)

    async def scenario():
        engine, batcher = Encoding(), TextBatcher()
        first = asyncio.create_task(batcher.prepare(engine, items("a", "b", "c"), 60))
        await passes(engine, 1)
        assert not await batcher.prepare(engine, items("late"), 0.01)
        engine.go.set()
        assert await first
        assert engine.passes == [["a", "b"], ["c"]]

    asyncio.run(scenario())


def test_a_text_that_cannot_be_encoded_leaves_nobody_waiting(capsys):
    class Broken:
        def prepare(self, items):
            raise ValueError("no")

    assert asyncio.run(TextBatcher().prepare(Broken(), items("a"), 60))
    assert "texts_not_encoded" in capsys.readouterr().err


def test_differences_are_means_without_ids(capsys):
    assert overlap(["a", "b", "c"], ["c", "x", "a"]) == pytest.approx(2 / 3)
    # a: place 0 against 2; b: 1 against 3 (behind the end); c: 2 against 0.
    assert displacement(["a", "b", "c"], ["c", "x", "a"]) == pytest.approx((2 + 2 + 2) / 3)
    differences = Differences("7")
    differences.add(["a", "b"], ["a", "b"], 0.002)
    differences.add(["a", "b"], ["b", "a"], 0.004)
    differences.write()
    differences.write()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 1
    facts = {k: lines[0][k] for k in ("version", "lists", "overlap", "same_first", "places_moved")}
    assert facts == {
        "version": "7",
        "lists": 2,
        "overlap": 1.0,
        "same_first": 0.5,
        "places_moved": 0.5,
    }
    assert lines[0]["ms"] == 3.0


def test_every_engine_in_service_encodes_what_waits_for_it():
    class Waiting:
        def __init__(self, waiting):
            self.waiting = waiting

        def encode_new(self):
            self.waiting = max(0, self.waiting - 32)
            return self.waiting

    engines = [Live(Waiting(count), 0, []) for count in (70, 0, 70)]
    follower = Follower(None, None, lambda: engines, OptOuts())
    asyncio.run(follower.encode_new())
    assert [live.engine.waiting for live in engines] == [0, 0, 0]


def test_what_is_folded_comes_in_parts_that_leave_turns_to_others():
    shown = [{"item_ids": ["i"] * 300}, {"item_ids": None}, {}, {"item_ids": 7}]
    records = [LogRecord(n, "impression", shown[n % 4], 0) for n in range(100)]
    parts = list(portions(records))
    assert [record for part in parts for record in part] == records
    assert len(parts) > 1
    for part in parts:
        items = [r.payload["item_ids"] for r in part if r.payload == shown[0]]
        assert sum(map(len, items)) < AT_ONCE + 300
    assert list(portions([])) == []
