"""Tables of a real PostgreSQL server, read through Ibis."""

import pytest

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.ingestion.tables.event_partitions import event_files

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def shop(postgres):
    """URL of a database with items and events."""
    import psycopg

    empty = postgres.empty()
    url = empty.replace("postgresql://postgres@", "postgres://postgres:secret@", 1)
    with psycopg.connect(empty, autocommit=True) as db:
        db.execute("CREATE TABLE goods (item_id text, title text, tags text[], price float8)")
        db.execute("INSERT INTO goods VALUES ('i0', 'A', '{x,y}', 1.5), ('i1', 'B', NULL, NULL)")
        db.execute(
            "CREATE TABLE clicks (user_id bigint, item_id text, event_type text,"
            " timestamp timestamptz)"
        )
        db.execute(
            "INSERT INTO clicks SELECT n % 7, 'i' || n % 2, 'click',"
            " timestamptz '2024-01-01 01:00:00+01' + n * interval '1 second'"
            " FROM generate_series(1, 1000) n"
        )
        db.execute(
            "CREATE TABLE naive AS SELECT user_id, item_id, event_type,"
            " timestamp AT TIME ZONE 'UTC' AS timestamp FROM clicks"
        )
    return url


def test_tables_are_read_whole(desk, shop):
    summary = desk.ingest(connection=shop, items="goods", events="clicks")
    assert (summary["items"], summary["users"], summary["events"]) == (2, 7, 1000)
    assert summary["time"]["first"] == "2024-01-01T00:00:01+00:00"
    assert summary["tables"]["events"]["notes"] == ["`user_id` holds int64, taken as strings"]
    items = desk.rows("items.parquet")
    assert (items[0]["tags"], items[0]["price"]) == (["x", "y"], 1.5)
    assert "secret" not in str(summary)


def test_a_query_runs_in_the_database(desk, shop):
    late = {
        "sql": "SELECT user_id, item_id, event_type, timestamp FROM clicks"
        " WHERE timestamp > '2024-01-01 00:10:00+00' ORDER BY random();"
    }
    outputs = []
    for _ in range(2):
        summary = desk.ingest(connection=shop, items="goods", events=late)
        outputs.append([f.read_bytes() for f in event_files(desk.out)])
    assert (summary["items"], summary["users"], summary["events"]) == (2, 7, 400)
    assert outputs[0] == outputs[1]
    assert summary["tables"]["events"]["source"].startswith("`SELECT user_id, item_id, event_type")
    assert "secret" not in str(summary)
    with pytest.raises(UsageError, match="the query cannot be run") as caught:
        desk.ingest(connection=shop, items="goods", events={"sql": "SELECT * FROM nothing"})
    assert "nothing" in caught.value.render()
    assert "secret" not in caught.value.render()


def test_times_without_zone_are_refused(desk, shop):
    with pytest.raises(DataRefused, match="timestamps without a time zone") as caught:
        desk.ingest(connection=shop, items="goods", events="naive")
    assert "table `naive`" in caught.value.render()
    assert desk.left_behind() == []


def test_missing_table_and_wrong_password_are_said_without_it(desk, shop):
    with pytest.raises(UsageError, match="no such table") as caught:
        desk.ingest(connection=shop, items="goods", events="nothing")
    assert "clicks, goods, naive" in caught.value.render()
    assert "secret" not in caught.value.render()
    with pytest.raises(UsageError, match="cannot be opened") as caught:
        desk.ingest(connection=shop.rsplit("/", 1)[0] + "/nowhere", items="a", events="b")
    assert "secret" not in caught.value.render()
