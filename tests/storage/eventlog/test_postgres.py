"""What only a server can do: go away and come back."""

import threading

import pytest

from recsys.storage.eventlog import ImpressionBuffer, LogUnavailable, open_log

pytestmark = pytest.mark.postgres


def event(n):
    return {"user_id": "u", "item_id": "i", "event_type": "x", "timestamp": 1, "event_id": f"e{n}"}


def test_no_accepted_event_is_lost_while_the_server_is_away(postgres, wait_until):
    log = open_log(postgres.empty())
    buffer = ImpressionBuffer(log, interval=0.05)
    accepted, refused, stop = [], [], threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            try:
                log.append_events([event(n)])
                accepted.append(f"e{n}")
            except LogUnavailable:
                refused.append(n)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(accepted) > 20)
    postgres.stop()
    shown = {"impression_id": "m", "user_id": "u", "timestamp": 1, "item_ids": ["i"]}
    buffer.add(shown)
    with pytest.raises(LogUnavailable):
        log.read(0)
    wait_until(lambda: refused)
    postgres.start()
    before = len(accepted)
    wait_until(lambda: len(accepted) > before + 20)
    stop.set()
    writer.join()
    buffer.close()
    records = log.read(0, limit=1_000_000)
    log.close()
    kept = {r.payload["event_id"] for r in records if r.kind == "event"}
    assert set(accepted) <= kept
    assert [r.kind for r in records].count("impression") == 1
    assert [r.position for r in records] == sorted({r.position for r in records})


def test_a_server_that_is_not_there_is_explained():
    with pytest.raises(LogUnavailable, match="PostgreSQL"):
        open_log("postgresql://postgres@127.0.0.1:1/postgres")
