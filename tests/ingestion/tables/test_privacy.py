"""What tables leave out for the sake of persons."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.storage.eventlog.retention import Retention

SECOND = 1_000_000
NOON = 1_700_000_000_000_000
TIME = pa.timestamp("us", tz="UTC")


def drained(desk):
    """An export of the log: one event of u0, one of u9."""
    table = {
        "user_id": ["u0", "u9"],
        "item_id": ["i0", "i1"],
        "event_type": ["click", "click"],
        "timestamp": pa.array([NOON + 20 * SECOND, NOON + 21 * SECOND], TIME),
        "event_id": ["a", "b"],
        "received_at": pa.array([NOON + 20 * SECOND, NOON + 21 * SECOND], TIME),
        "position": [1, 2],
    }
    return desk.write("drained/events.parquet", table).parent


def forgets(desk, user):
    """The tombstone of somebody who came back afterwards."""
    table = {"user_id": [user], "received_at": pa.array([NOON], TIME), "position": [0]}
    desk.write("drained/forgets.parquet", table)


@pytest.mark.parametrize("least", [1, 3, 4])
def test_a_text_that_few_people_share_is_never_written(desk, least):
    desk.items()
    desk.events()
    towns = ["rome"] * 3 + ["ghent", "ghent", "Pl4nted"]
    desk.write(
        "users.parquet", {"user_id": [f"u{k}" for k in range(6)], "town": towns, "age": range(6)}
    )
    summary = desk.ingest(users="users.parquet", privacy={"least_people": least})
    kept = [row["town"] for row in desk.rows("users.parquet")]
    assert kept == [town if towns.count(town) >= least else None for town in towns]
    assert [row["age"] for row in desk.rows("users.parquet")] == list(range(6)), "numbers stay"
    assert ("Pl4nted" in str(summary)) is False
    written = b"".join(f.read_bytes() for f in desk.out.rglob("*") if f.is_file())
    assert (b"Pl4nted" in written) == (least == 1)


def test_who_opted_out_is_in_no_table(desk):
    desk.items()
    desk.events()
    desk.write("users.parquet", {"user_id": ["u0", "u1"], "age": [1, 2]})
    folder = drained(desk)
    forgets(desk, "u0")
    summary = desk.ingest(drained=folder, users="users.parquet", opted_out={"u0"})
    for file in desk.out.rglob("*.parquet"):
        table = pq.read_table(file)
        assert "user_id" not in table.column_names or "u0" not in table["user_id"].to_pylist(), file
    assert summary["users"] == 3
    desk.ingest(drained=folder, users="users.parquet")
    assert "u0" in {row["user_id"] for row in desk.rows("events.parquet")}, (
        "the wish was taken back"
    )


def test_rows_that_are_too_old_are_in_no_table(desk):
    desk.items()
    desk.events()
    shown = {
        "impression_id": list("abc"),
        "user_id": ["u0"] * 3,
        "timestamp": pa.array([NOON + k * SECOND for k in (1, 5, 9)], TIME),
        "item_ids": [["i0", "i1"]] * 3,
        "surface": ["home"] * 3,
        "context": ['{"page": 1}'] * 3,
    }
    desk.write("impressions.parquet", shown)
    limits = Retention(NOON + 3 * SECOND, NOON + 2 * SECOND, NOON + 9 * SECOND)
    desk.ingest(impressions="impressions.parquet", limits=limits)
    assert [row["timestamp"].second % 10 for row in desk.rows("events.parquet")] == [3, 4, 5, 6, 7]
    lists = desk.rows("impressions.parquet")
    assert [row["impression_id"] for row in lists] == ["b", "c"]
    assert [(row["surface"], row["context"]) for row in lists] == [
        (None, None),
        ("home", '{"page": 1}'),
    ]
