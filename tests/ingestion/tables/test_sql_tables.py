"""Tables by SQL: the same rows, rules and refusals whatever engine reads them."""

import os

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.ingestion.tables.event_partitions import event_files
from recsys.ingestion.tables.ingest import ingest
from recsys.operations.cli.main import main
from recsys.storage.scratch import ScratchFolder

UTC_TIME = pa.timestamp("us", tz="UTC")
NOON = 1_700_000_000_000_000
NOW = NOON + 365 * 86_400_000_000
SPARK = {"kind": "spark", "spark": {"master": "local[2]"}}


def run(desk, engine, limit=0.9, **data):
    """Summary of an ingestion on an engine."""
    raw = {"data": data | {"quarantine_limit": limit}, "engine": engine}
    return ingest(parse_config(raw, desk.root), desk.out, now=NOW)


def outputs(desk):
    return {p.name: p.read_bytes() for p in sorted(desk.out.rglob("*.parquet"))}


def tables(desk):
    found = {p.stem: pq.read_table(p) for p in desk.out.glob("*.parquet")}
    events = [pq.read_table(f) for f in event_files(desk.out)]
    return found | {"events": pa.concat_tables(events).drop_columns([c.SOURCE_FILE, c.SOURCE_ROW])}


def said_of(summary, *columns):
    """What does not name a source."""
    columns = columns or ("rows", "accepted", "quarantined", "rules", "warnings")
    return {name: [table[c] for c in columns] for name, table in summary["tables"].items()}


@pytest.fixture
def dirty(desk):
    """Tables in which every rule is broken that a table's files can break."""
    desk.items(
        8,
        item_id=["i0", "i1", "i2", "i2", None, "i\x01", "", "i7"],
        title=["A", " ", "B", "B", "C", "D", "E", "<b>F</b> &amp; G"],
        tags=[["x"], None, [], ["y", None], ["z"], [], ["a"], ["b", "b"]],
        price=[1.5, None, float("nan"), float("inf"), 2.0, 3.0, 4.0, 5.0],
        stock=[1, 2, 3, None, 5, 6, 7, 8],
    )
    users = [None, " ", *["u"] * 12, "u\n", "u" * 3000]
    kinds = ["a", "a", "a", "", *["a"] * 12]
    moments = [*[NOON] * 4, -5, 10**16, NOON, None, *[NOON + k for k in range(4)], *[NOON] * 4]
    desk.events(
        16,
        user_id=users,
        item_id=["i0", "i0", None, *["i1"] * 3, "gone", *["i2"] * 5, "i0", "i0", "i1", "i1"],
        event_type=kinds,
        timestamp=pa.array(moments, UTC_TIME),
        value=[None, 1.0, 2.0, float("nan"), *[3.0] * 12],
        event_id=[*[None] * 8, "e", "e", *[None] * 6],
    )
    return desk


def query(desk, name, engine):
    """All rows of a file of the desk in an engine's words."""
    if engine == "spark":
        return {"sql": f"SELECT * FROM parquet.`{desk.root / name}`;"}
    return {"sql": f"SELECT * FROM '{name}'"}


def asked(desk, kind):
    return {
        "items": query(desk, "items.parquet", kind),
        "events": query(desk, "events.parquet", kind),
    }


def test_a_query_counts_what_the_file_counts(dirty):
    by_file = run(dirty, {}, items="items.parquet", events="events.parquet")
    by_query = run(dirty, {}, **asked(dirty, "local"))
    assert said_of(by_query) == said_of(by_file)
    assert len(by_file["tables"]["events"]["rules"]) >= 9
    assert by_query["tables"]["events"]["source"] == "`SELECT * FROM 'events.parquet'` on local"


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.filterwarnings("ignore")
def test_spark_and_duckdb_set_the_same_dirty_rows_aside(dirty, capsys):
    here = run(dirty, {}, **asked(dirty, "local"))
    kept = tables(dirty)
    there = run(dirty, SPARK, **asked(dirty, "spark"))
    assert said_of(there) == said_of(here)
    assert {n: t["rules"] for n, t in there["tables"].items()}["events"]["unknown_item"] == 1
    # Not the same counts alone: the same rows, in the same order.
    assert sorted(kept) == ["events", "items", "user_vocabulary"]
    assert [name for name, table in tables(dirty).items() if not table.equals(kept[name])] == []
    refusals = []
    for engine, kind in (({}, "local"), (SPARK, "spark")):
        with pytest.raises(DataRefused) as caught:
            run(dirty, engine, 0.1, **asked(dirty, kind))
        refusals.append((caught.value.what, caught.value.expected, caught.value.fix))
    assert refusals[0] == refusals[1]
    # What Spark cannot run, and a table without a column, before any row is read.
    with pytest.raises(UsageError, match="the query cannot be run") as wrong:
        run(dirty, SPARK, **asked(dirty, "spark") | {"events": {"sql": "select * from lake.no"}})
    assert "TABLE_OR_VIEW_NOT_FOUND" in wrong.value.render()
    assert "data.events" in wrong.value.render()
    events = query(dirty, "events.parquet", "spark")["sql"].rstrip(";")
    short = {"sql": f"SELECT item_id, event_type, timestamp FROM ({events})"}
    with pytest.raises(DataRefused, match="`user_id` is not found"):
        run(dirty, SPARK, **asked(dirty, "spark") | {"events": short})
    # A query without rows is an empty table.
    none = {"sql": f"SELECT * FROM ({events}) WHERE false"}
    with pytest.raises(DataRefused, match="the events table is empty"):
        run(dirty, SPARK, **asked(dirty, "spark") | {"events": none})


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.filterwarnings("ignore")
def test_workers_that_share_no_disk_leave_rows_in_object_storage(dirty, s3, monkeypatch):
    from recsys.storage.engines.spark import SparkEngine

    # a JVM that an earlier test began has that test's environment
    there = {f"spark.executorEnv.{k}": v for k, v in os.environ.items() if k.startswith("AWS_")}
    spark = SPARK | {"spark": SPARK.get("spark", {}) | {"conf": there}}
    run(dirty, spark, **asked(dirty, "spark"))
    kept = tables(dirty)
    opened = SparkEngine.open

    def elsewhere(settings):
        engine = opened(settings)
        engine.shares_disk = False
        return engine

    monkeypatch.setattr(SparkEngine, "open", elsewhere)
    run(dirty, spark | {"scratch": f"{s3}/recsys"}, **asked(dirty, "spark"))
    assert [name for name, table in tables(dirty).items() if not table.equals(kept[name])] == []
    assert ScratchFolder(f"{s3}/recsys").names() == set()


def test_a_query_s_rows_have_one_order(desk):
    desk.items()
    desk.events(
        500, timestamp=pa.array([NOON] * 500, UTC_TIME), value=[float(k) for k in range(500)]
    )
    digests = []
    for order in ("value", "value DESC", "hash(value)"):
        sql = f"SELECT * FROM 'events.parquet' ORDER BY {order}"
        run(desk, {}, items="items.parquet", events={"sql": sql})
        digests.append(tables(desk)["events"])
    assert digests[0] == digests[1] == digests[2]


def test_a_connection_runs_the_query(desk):
    desk.items()
    desk.events()
    with duckdb.connect(str(desk.root / "shop.db")) as database:
        for name in ("items", "events"):
            database.execute(f"CREATE TABLE {name} AS FROM '{desk.root / name}.parquet'")
    connection = f"duckdb://{desk.root}/shop.db"
    summary = run(
        desk,
        {},
        connection=connection,
        items="items",
        events={"sql": "SELECT * FROM events WHERE user_id <> 'u1'"},
    )
    assert (summary["items"], summary["users"], summary["events"]) == (4, 2, 5)
    with pytest.raises(UsageError, match="the query cannot be run") as caught:
        run(desk, {}, connection=connection, items="items", events={"sql": "SELECT * FROM no"})
    assert "data.events" in caught.value.render()


def test_wrong_queries_are_one_message_each(desk):
    desk.items()
    desk.events()
    for sql, told in (
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM 'none.parquet'", "none.parquet"),
        ("SELECT * FROM nothing", "nothing"),
    ):
        with pytest.raises(UsageError, match="the query cannot be run") as caught:
            run(desk, {}, items="items.parquet", events={"sql": sql})
        assert told in caught.value.render()
        assert caught.value.where == "data.events"
    short = {"sql": "SELECT item_id, event_type, timestamp FROM 'events.parquet'"}
    with pytest.raises(DataRefused, match="`user_id` is not found"):
        run(desk, {}, items="items.parquet", events=short)
    assert desk.left_behind() == []


def test_a_night_without_its_engine_is_refused_before_any_work(desk, monkeypatch, capsys):
    pytest.importorskip("pyspark", reason="the [spark] extra is not installed")
    desk.items()
    desk.events()
    config = desk.root / "recsys.yaml"
    config.write_text(
        "data: {items: items.parquet, events: {sql: SELECT * FROM lake.events}}\n"
        "engine: {kind: spark, spark: {master: 'local[2]'}}\n"
    )
    monkeypatch.setenv("PATH", str(desk.root))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert main(["nightly", "-c", str(config)]) == 2
    assert "there is no JDK on this machine" in capsys.readouterr().err
    assert not list((desk.root / "work").glob("stages/*/*"))


def test_what_the_config_may_say_of_a_table(desk):
    for wrong, told in (
        ({"query": "select 1"}, "one of sql"),
        ({"sql": ""}, "data.events.sql"),
        (5, "recsys.yaml: data.events"),
    ):
        with pytest.raises(UsageError) as caught:
            parse_config({"data": {"items": "x", "events": wrong}}, desk.root, name="recsys.yaml")
        assert told in caught.value.render()
