"""Tables in object storage are read as those on a disk are, and what is wrong there is one message."""

import pyarrow as pa
import pyarrow.fs as fs
import pytest

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.storage.file_systems import file_system_of
from recsys.training.night.read_data import fingerprints

UTC_TIME = pa.timestamp("us", tz="UTC")
NOON = 1_700_000_000_000_000


def upload(desk, s3, name):
    """A file or folder of the desk under the same name in the bucket."""
    system, root = file_system_of(s3, "test")
    fs.copy_files(str(desk.root / name), f"{root}/{name}", fs.LocalFileSystem(), system)


def outputs(desk):
    files = sorted(desk.out.rglob("*.parquet"))
    return {p.relative_to(desk.out).as_posix(): p.read_bytes() for p in files}


def test_days_of_a_bucket_give_the_bytes_of_the_same_days_on_a_disk(desk, s3):
    desk.items()
    for place, name in enumerate(("01/a", "01/b", "02/a", "02/b")):
        seconds = [NOON + k * 1_000_000 + place for k in range(8)]
        desk.events(
            name=f"events/day=2023-11-{name}.parquet", timestamp=pa.array(seconds, UTC_TIME)
        )
    desk.write("events/_temporary/0.parquet", {"nothing": [1]})
    desk.write("events/day=2023-11-02/.part.parquet", {"nothing": [1]})
    for name in ("items.parquet", "events"):
        upload(desk, s3, name)
    desk.ingest(events="events")
    kept = outputs(desk)
    summary = desk.ingest(items=f"{s3}/items.parquet", events=f"{s3}/events/")
    assert outputs(desk) == kept
    assert summary["events"] == 32
    assert summary["tables"]["events"]["source"] == (
        f"{s3}/events/day=2023-11-01/a.parquet and 3 more"
    )
    assert desk.left_behind() == sorted(
        ["tables", *(f"tables/{name}" for name in ("events", *kept, "summary.json"))]
    )


def test_rows_that_are_set_aside_name_their_address(desk, s3):
    desk.items()
    desk.events(item_id=["gone"] + ["i1"] * 7)
    upload(desk, s3, "events.parquet")
    desk.ingest(events=f"{s3}/events.parquet", quarantine_limit=0.5)
    [row] = desk.rows("quarantine/events.parquet")
    assert (row["rule"], row["source_file"]) == ("unknown_item", f"{s3}/events.parquet")


def test_what_is_new_is_known_without_reading(desk, s3):
    desk.items()
    desk.events(name="events/day=1/a.parquet")
    for name in ("items.parquet", "events"):
        upload(desk, s3, name)
    config = desk.config(items=f"{s3}/items.parquet", events=f"{s3}/events")
    first = fingerprints(config)
    assert sorted(first) == ["events: day=1/a.parquet", "items: items.parquet"]
    assert fingerprints(config) == first
    desk.events(9, name="events/day=1/a.parquet")
    desk.events(name="events/day=2/a.parquet")
    upload(desk, s3, "events")
    second = fingerprints(config)
    assert second["items: items.parquet"] == first["items: items.parquet"]
    assert second["events: day=1/a.parquet"] != first["events: day=1/a.parquet"]
    assert "events: day=2/a.parquet" in second


def test_what_is_not_there_is_one_message(desk, s3):
    desk.items()
    with pytest.raises(UsageError, match="no such bucket") as caught:
        desk.ingest(events="s3://nobody-has-this/events")
    assert "s3://nobody-has-this/events (data.events)" in caught.value.render()
    with pytest.raises(UsageError, match="no such file or folder"):
        desk.ingest(events=f"{s3}/events")
    with pytest.raises(UsageError, match="this address cannot be read") as caught:
        desk.ingest(events="nowhere://x/events")
    assert "data.events" in caught.value.render()
    desk.write("events/readme.txt", {"x": [1]})
    upload(desk, s3, "events")
    with pytest.raises(DataRefused, match="holds no Parquet file") as caught:
        desk.ingest(events=f"{s3}/events")
    assert "readme.txt" in caught.value.render()
    assert desk.left_behind() == []


def test_a_column_that_is_missing_is_refused_by_its_address(desk, s3):
    desk.items()
    desk.events(user_id=None)
    upload(desk, s3, "events.parquet")
    with pytest.raises(DataRefused, match="`user_id` is not found") as caught:
        desk.ingest(events=f"{s3}/events.parquet")
    assert f"{s3}/events.parquet" in caught.value.render()
    assert desk.left_behind() == []


def test_a_versioned_table_is_not_read_as_files(desk, s3):
    desk.items()
    desk.events(name="lake/part-0.parquet")
    desk.write("lake/_delta_log/0.parquet", {"x": [1]})
    upload(desk, s3, "lake")
    with pytest.raises(DataRefused, match="a Delta table") as caught:
        desk.ingest(events=f"{s3}/lake")
    assert "engine.kind: spark" in caught.value.render()


def test_wrong_credentials_are_one_message(desk, s3, monkeypatch):
    desk.items()
    desk.events()
    upload(desk, s3, "events.parquet")
    # From now on the service asks who is calling.
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    with pytest.raises(UsageError, match="refuses to show this") as caught:
        desk.ingest(events=f"{s3}/events.parquet")
    assert "AWS_ACCESS_KEY_ID" in caught.value.render()
