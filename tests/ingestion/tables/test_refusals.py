"""Bad input: one message with file, column, count and what to do, and nothing half-written."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.errors import (
    DataRefused,
    ExitCode,
    RecsysError,
    UsageError,
)

NOON = 1_700_000_000_000_000


def refused(desk, *says, error=DataRefused, **data):
    """The message of a refused ingestion; it holds every text of `says`."""
    with pytest.raises(error) as caught:
        desk.ingest(**data)
    message = caught.value.render()
    for text in says:
        assert text in message, message
    assert desk.left_behind() == []
    assert caught.value.code == (ExitCode.DATA_REFUSED if error is DataRefused else ExitCode.USAGE)
    return message


def test_missing_column_lists_those_that_exist(desk):
    desk.items(title=None, name_of_item=["a"] * 4)
    desk.events()
    refused(
        desk,
        "column `title` is not found in the items table",
        "items.parquet",
        "existing columns: item_id, name_of_item",
        "expected: `title` (string)",
    )


def test_wrong_type_says_found_and_expected(desk):
    desk.items()
    desk.events(user_id=pa.array([float(k) for k in range(8)]))
    refused(
        desk, "events.parquet, column `user_id`", "found:    double", "expected: string", "cast"
    )


def test_empty_table(desk):
    desk.items()
    desk.write("events.parquet", pq.read_table(desk.events()).slice(0, 0))
    refused(desk, "the events table is empty", "events.parquet", "found:    0 rows")


def test_empty_file(desk):
    desk.items()
    (desk.root / "events.parquet").touch()
    refused(desk, "not a Parquet file", "events.parquet", "an empty file")


def test_not_parquet(desk):
    desk.events()
    (desk.root / "items.parquet").write_text("item_id,title\n1,x\n")
    refused(desk, "not a Parquet file", "items.parquet", "18 bytes", "COPY (FROM")


def test_truncated_parquet(desk):
    desk.items()
    whole = desk.events().read_bytes()
    (desk.root / "events.parquet").write_bytes(whole[: len(whole) // 2])
    refused(desk, "not a Parquet file", "events.parquet")


def test_damaged_inside(desk):
    desk.items()
    file = desk.events(5000)
    whole = bytearray(file.read_bytes())
    whole[200:2000] = b"\x99" * 1800
    file.write_bytes(bytes(whole))
    with pytest.raises(RecsysError) as caught:
        desk.ingest()
    assert "events.parquet" in caught.value.render()
    assert desk.left_behind() == []


def test_missing_file_lists_the_folder(desk):
    desk.items()
    refused(desk, "there is no such file", "data.events", "items.parquet", error=UsageError)


def test_empty_folder(desk):
    desk.items()
    (desk.root / "events").mkdir()
    refused(desk, "holds no Parquet file", "an empty folder", events="events")


@pytest.mark.parametrize(
    ("beside", "kind"),
    [("_delta_log/0.json", "a Delta table"), ("metadata/v1.metadata.json", "an Iceberg table")],
)
def test_folders_whose_files_are_not_all_in_use(desk, beside, kind):
    desk.items()
    desk.events(name="events/a.parquet")
    (desk.root / "events" / beside).parent.mkdir()
    (desk.root / "events" / beside).touch()
    refused(desk, kind, "data.events", "_scan(", events="events")


def test_glob_without_match(desk):
    desk.items()
    refused(desk, "no file matches", "day-*", error=UsageError, events="day-*.parquet")


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (pa.timestamp("us"), "AT TIME ZONE 'UTC'"),
        (pa.string(), "TIMESTAMPTZ"),
    ],
)
def test_timestamps_without_zone(desk, kind, hint):
    desk.items()
    column = pa.array([19000] * 8, pa.int64()).cast(kind)
    desk.events(timestamp=column)
    refused(desk, "events.parquet, column `timestamp`", f"found:    {column.type}", hint)


@pytest.mark.parametrize(
    ("per_second", "unit", "sql", "pandas"),
    [
        (1, "seconds", "to_timestamp(timestamp)", "unit='s'"),
        (10**3, "milliseconds", "to_timestamp(timestamp / 1e3)", "unit='ms'"),
        (10**6, "microseconds", "to_timestamp(timestamp / 1e6)", "unit='us'"),
        (10**9, "nanoseconds", "to_timestamp(timestamp / 1e9)", "unit='ns'"),
        (1.0, "seconds", "to_timestamp(timestamp)", "unit='s'"),
    ],
)
def test_numbers_for_timestamps_are_refused_with_their_likely_unit(
    desk, per_second, unit, sql, pandas
):
    desk.items()
    desk.events(timestamp=[(1_700_000_000 + k) * per_second for k in range(8)])
    largest = 1_700_000_007 * per_second
    refused(desk, f"such as {largest} ({unit} since 1970?)", sql, pandas)


def test_timestamps_as_spark_writes_them_by_default(desk):
    desk.items()
    pq.write_table(
        pq.read_table(desk.events()),
        desk.root / "events.parquet",
        use_deprecated_int96_timestamps=True,
    )
    refused(desk, "without a time zone", "INT96", "outputTimestampType")


def test_ids_that_went_through_a_float(desk):
    desk.items(item_id=[1.0, 2.0, 3.0, None])
    desk.events()
    refused(desk, "`item_id`", "found:    double", ".astype('Int64')")


def test_a_column_of_another_spelling_is_named(desk):
    desk.items(item_id=None, ItemID=["a"] * 4)
    desk.events()
    refused(desk, "column `item_id` is not found", "rename `ItemID` to `item_id`")


def test_two_columns_of_one_name(desk):
    items = pq.read_table(desk.items())
    desk.write("items.parquet", items.append_column("title", items["title"]))
    desk.events()
    refused(desk, "column `title` is there 2 times", "items.parquet")


def test_too_many_rows_break_rules(desk):
    desk.items()
    desk.events(item_id=["i0", "i1", "x", "y", "z", "i2", "i3", "i0"])
    message = refused(
        desk,
        "3 of 8 rows of the events table break a rule",
        "unknown_item: 3",
        "item_id = 'x'",
        "at most 5.0%",
        "37.5%",
        "quarantine_limit",
    )
    assert "row 2" in message


def test_unknown_items_are_shown_beside_known_ones(desk):
    desk.items(item_id=[1, 2, 3, 4])
    desk.events(item_id=["001"] * 8)
    refused(desk, "unknown_item: 8", "item_id = '001'", "look like '1', '2', '3'")


def test_lists_that_are_all_null(desk):
    desk.items()
    desk.events()
    rows = {
        "impression_id": ["p"],
        "user_id": ["u"],
        "timestamp": pa.array([NOON], pa.timestamp("us", "UTC")),
        "item_ids": pa.nulls(1),
    }
    desk.write("shown.parquet", rows)
    refused(desk, "empty throughout", "`item_ids`", impressions="shown.parquet")
    desk.write("shown.parquet", pa.table(rows).slice(0, 0))
    assert desk.ingest(impressions="shown.parquet")["events"] == 8


def test_all_events_set_aside(desk):
    desk.items()
    desk.events(item_id=["x"] * 8)
    refused(desk, "no event is left", "unknown_item: 8", quarantine_limit=1.0)


def test_two_files_of_one_table_disagree(desk):
    desk.items()
    desk.events(name="events/a.parquet")
    desk.events(name="events/b.parquet", item_id=[1] * 8)
    refused(desk, "disagree on a column's type", "b.parquet", "`item_id`", "int64", events="events")


def test_required_column_of_nulls(desk):
    desk.items()
    desk.events(user_id=pa.nulls(8))
    refused(desk, "empty throughout", "`user_id`", "only nulls")


def test_refusal_keeps_the_former_tables(desk):
    desk.items()
    desk.events()
    desk.ingest()
    before = sorted(p.name for p in desk.out.iterdir())
    desk.events(item_id=["x"] * 8)
    with pytest.raises(DataRefused):
        desk.ingest()
    assert sorted(p.name for p in desk.out.iterdir()) == before
    assert len(desk.rows("events.parquet")) == 8


def test_missing_previous_vocabulary(desk):
    desk.items()
    desk.events()
    with pytest.raises(UsageError, match="no earlier vocabulary"):
        desk.ingest(previous=desk.root / "nowhere.parquet")


def test_unknown_table_of_a_connection_lists_those_that_exist(desk):
    with duckdb.connect(str(desk.root / "shop.db")) as shop:
        shop.execute("CREATE TABLE goods AS SELECT 'i0' AS item_id, 'x' AS title")
    refused(
        desk,
        "no such table",
        "existing tables: goods",
        error=UsageError,
        connection=f"duckdb://{desk.root}/shop.db",
        items="articles",
        events="clicks",
    )


def test_connection_that_cannot_be_opened(desk):
    refused(desk, "cannot be opened", "data.connection", error=UsageError, connection="nosuch://x")
