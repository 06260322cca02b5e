"""What only a server can do: go away and come back."""

import threading

import pytest

from recsys.storage.eventlog import ImpressionBuffer, LogUnavailable, open_log

psycopg = pytest.importorskip("psycopg")
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


def test_a_server_that_turned_read_only_is_refused_and_left(postgres, wait_until):
    """As the old primary is after a failover: its connections stay, and take nothing any more."""
    uri = postgres.empty()
    name = uri.rpartition("/")[2]

    def say(statement):
        with psycopg.connect(uri, autocommit=True) as base:
            base.execute("SET default_transaction_read_only = off")
            base.execute(statement)

    with open_log(uri) as log:
        log.append_events([event(1)])
        assert len(log.read(0)) == 1
        say(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        say(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            f" AND datname = '{name}'"
        )
        with pytest.raises(LogUnavailable, match="does not answer"):
            log.append_events([event(2)])
        held, reading = log._write, log._read
        assert held is None
        say(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        # A connection to the old server would still say so; a new one is made.
        log.append_events([event(3)])
        assert reading is None
        assert [r.payload["event_id"] for r in log.read(0)] == ["e1", "e3"]


def test_a_right_that_was_taken_away_is_no_fault_of_the_record(postgres):
    uri = postgres.empty()
    with open_log(uri) as log:
        with psycopg.connect(uri, autocommit=True) as base:
            base.execute("ALTER TABLE recsys_log RENAME TO elsewhere")
        with pytest.raises(LogUnavailable):
            log.append_events([event(1)])
        with psycopg.connect(uri, autocommit=True) as base:
            base.execute("ALTER TABLE elsewhere RENAME TO recsys_log")
        log.append_events([event(2)])
        assert [r.payload["event_id"] for r in log.read(0)] == ["e2"]
