"""validate, init, import and generate as commands; the bundled data."""

import argparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.columns import ITEM_STANDARD, RECEIVED_AT
from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import DataRefused, ExitCode, UsageError
from recsys.data_schemas.tables import EVENTS
from recsys.ingestion.bundled import lay_out_movies, template
from recsys.ingestion.tables.ingest import ingest
from recsys.ingestion.tables.load import load_tables
from recsys.ingestion.tables.validation_report import findings, render
from recsys.operations.cli import data_commands

NOON = 1_700_000_000_000_000
UTC_TIME = pa.timestamp("us", tz="UTC")


def moments(*seconds):
    return pa.array([NOON + second * 1_000_000 for second in seconds], UTC_TIME)


def command(*words, config="recsys.yaml"):
    """Run a command of the data room; its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", default=str(config))
    data_commands.add_parsers(parser.add_subparsers())
    args = parser.parse_args([str(word) for word in words])
    return args.run(args)


@pytest.fixture
def config(desk):
    """A config file beside the desk's tables."""
    path = desk.root / "recsys.yaml"
    path.write_text("data: {items: items.parquet, events: events.parquet}\n")
    return path


def test_validate_notes_a_setting_that_has_no_effect(desk, config, capsys):
    desk.items()
    desk.events(8)
    assert command("validate", config=config) == 0
    assert "has no effect" not in capsys.readouterr().out
    with config.open("a") as file:
        file.write("features: {history_length: 30}\n")
    assert command("validate", config=config) == 0
    assert "note: " in (said := capsys.readouterr().out)
    assert "`features.history_length` has no effect" in said


def test_validate_says_what_is_there(desk, config, capsys):
    desk.items()
    kinds = ["rating", *["click"] * 6, "poke"]
    desk.events(8, event_type=kinds, value=[4.5, 3.0, *[None] * 6])
    assert command("validate", config=config) == 0
    said = capsys.readouterr().out
    assert "items                   4            4            0" in said
    assert "2023-11-14T22:13:20+00:00 to 2023-11-14T22:13:27+00:00" in said
    assert "resolution   seconds" in said
    assert "rating in `value`: 1 positive, 0 neutral, 0 negative\n" in said
    assert "weight 2, grade 1; WARNING: `value` of 1 event is taken for a quantity" in said
    assert "WARNING: not a known type; give it weight and grade under `events.types`" in said
    assert "no row breaks a rule" in said
    assert desk.left_behind() == []


def test_validate_says_what_to_do(desk, capsys, config):
    desk.items(title=["x" * 20_000, None, "c", "d"], item_id=[1, 2, 3, 4])
    desk.events(40, item_id=[1] * 39 + [9])
    rows = desk.root / "broken"
    assert command("validate", "--quarantine", rows, config=config) == 0
    said = capsys.readouterr().out
    assert "1 row set aside by `unknown_item`: item_id is not in the items table" in said
    assert "events.parquet, row 39: user_id = 'u0', item_id = '9'" in said
    assert "do: export the items table after the events" in said
    assert "1 titles longer than 10,000 characters, cut there" in said
    assert "1 items without any text" in said
    assert "note: `item_id` holds int64, taken as strings" in said
    assert "1 row is left out" in said
    assert pq.read_table(rows / "events.parquet").num_rows == 1
    assert command("validate", "--quarantine", rows, config=config) == 0
    assert sorted(p.name for p in desk.root.iterdir()) == [
        "broken",
        "events.parquet",
        "items.parquet",
        "recsys.yaml",
    ]


def test_findings_are_one_line_each(desk):
    desk.items(title=["x" * 100_000, "b", "c", "d"])
    desk.events(40, item_id=["i0"] * 39 + ["gone"])
    lines = findings(desk.ingest())
    assert len(lines) == 2
    assert "items.parquet): 1 titles longer than 10,000 characters, cut there" in lines[0]
    assert "events.parquet): 1 row set aside by `unknown_item`" in lines[1]
    assert "do: export the items table after the events" in lines[1]


def test_what_the_service_wrote_is_not_blamed_on_the_files(desk):
    """Rows and warnings of the log stand under its name, with advice that can be followed there."""
    desk.items(title=["a\x01", "b", "c", "d"])
    desk.events(40)
    shown = {"user_id": ["u0", "u1"], "timestamp": moments(1, 2), "item_ids": [["i1"], []]}
    desk.write("impressions.parquet", {"impression_id": ["a", "b"], **shown})
    logged = {"received_at": moments(3, 4, 5), "position": [1, 2, 3]}
    shown = {"user_id": ["u0"] * 3, "timestamp": moments(1, 2, 3), "item_ids": [[], [], ["inline"]]}
    desk.write("log/impressions.parquet", {"impression_id": list("cde"), **shown, **logged})
    told = {"item_id": list("xyz"), "title": ["t\x00", "t\x01", "t"]}
    desk.write("log/items.parquet", told | logged)
    limits = {"impressions": "impressions.parquet", "quarantine_limit": 0.9}
    summary = desk.ingest(drained=desk.root / "log", **limits)
    lines = findings(summary)
    items, impressions = (
        f"{name} ({desk.root / name}.parquet): " for name in ("items", "impressions")
    )
    text = "items whose text held control characters, now blanks"
    empty = "set aside by `empty_list`: item_ids is null or empty; do: "
    assert f"{items}1 {text}" in lines
    assert f"items (the service's log): 2 {text}" in lines
    assert f"{impressions}1 row {empty}leave such lists out" in lines
    ours = [line for line in lines if line.startswith("impressions (the service's log): ")]
    assert ours[0].endswith(f"2 rows {empty}nothing; the service writes no such lists any more")
    assert "1 row set aside by `unknown_item`" in ours[1]
    assert "do: post such items to the service" in ours[1]
    assert "export the items table" not in " ".join(lines)

    whole = render(summary)
    of_files, of_log = whole.split("impressions (the service's log):")
    assert "impressions.parquet, row 1: impression_id = 'b'" in of_files
    assert "the log's impressions.parquet, row 0: impression_id = 'c'" in of_log
    assert "impression_id = 'b'" not in of_log
    assert "1 row is left out. Of the service's log 3 rows are left out." in whole


def test_init_lays_out_tables_that_validate_calls_empty(tmp_path, capsys):
    folder = tmp_path / "shop"
    assert command("init", folder) == 0
    assert "recsys validate -c" in capsys.readouterr().out
    assert sorted(p.name for p in (folder / "data").iterdir()) == [
        "events.parquet",
        "impressions.parquet",
        "items.parquet",
        "users.parquet",
    ]
    items = pq.read_schema(folder / "data" / "items.parquet")
    assert tuple(items.names) == ITEM_STANDARD
    events = pq.read_schema(folder / "data" / "events.parquet")
    assert tuple(events.names) == tuple(n for n in EVENTS.names if n != RECEIVED_AT)
    assert events.field("timestamp").type == pa.timestamp("us", tz="UTC")
    with pytest.raises(DataRefused, match="the items table is empty") as caught:
        command("validate", config=folder / "recsys.yaml")
    assert caught.value.code == ExitCode.DATA_REFUSED


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_init_never_overwrites(tmp_path, kind):
    place = tmp_path / "mine"
    if kind == "folder":
        place.mkdir()
        (place / "notes.txt").write_text("x")
    else:
        place.write_text("x")
    with pytest.raises(UsageError, match="not empty") as caught:
        command("init", place)
    assert ("notes.txt" if kind == "folder" else "a file") in caught.value.render()


def test_settings_shown_by_init_are_the_defaults(tmp_path):
    command("init", tmp_path / "new")
    written = load_config(tmp_path / "new" / "recsys.yaml").model_dump()
    (tmp_path / "bare.yaml").write_text(
        "data: {items: data/items.parquet, events: data/events.parquet}"
    )
    bare = load_config(tmp_path / "bare.yaml").model_dump()
    assert written["events"].pop("types").keys() == {
        "view",
        "click",
        "comment",
        "share",
        "purchase",
    }
    assert bare["events"].pop("types") == {}
    assert written == bare


def test_generate_and_import(tmp_path, capsys):
    target = tmp_path / "generated"
    words = ("generate", "--users", 50, "--items", 20, "--days", 2, "--seed", 1, "--to", target)
    assert command(*words) == 0
    assert "next: recsys validate" in capsys.readouterr().out
    assert command("validate", config=target / "recsys.yaml") == 0
    source = tmp_path / "ml"
    source.mkdir()
    (source / "movies.csv").write_text("movieId,title,genres\n1,A,Drama\n2,B,Drama\n")
    ratings = "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,2,4.0,965082703\n"
    (source / "ratings.csv").write_text(ratings)
    assert command("import", "movielens", source, "--to", tmp_path / "imported") == 0
    assert "ratings" not in capsys.readouterr().err
    assert command("validate", config=tmp_path / "imported" / "recsys.yaml") == 0


def test_bundled_movies(tmp_path):
    path = lay_out_movies(tmp_path / "demo")
    config = load_config(path)
    assert config.clock == "end_of_data"
    summary = ingest(config, tmp_path / "tables")
    assert (summary["items"], summary["users"]) == (9125, 613)
    assert summary["resolution"]["kind"] == "seconds"
    assert summary["tables"]["events"]["rules"] == {"duplicate_event": 46}
    tables = load_tables(tmp_path / "tables", config)
    stars = tables.interactions.value
    assert set(tables.interactions.grade[stars >= 4].tolist()) == {3}
    assert set(tables.interactions.grade[stars <= 2.5].tolist()) == {-1}
    licences = (tmp_path / "demo" / "data" / "LICENSES.md").read_text()
    assert "not endorsed or certified by TMDB" in licences
    assert "Harper" in licences


def test_laying_out_again_keeps_the_config_and_the_files(tmp_path):
    path = lay_out_movies(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    path.write_text(template("demo").replace("budget_minutes", "# budget_minutes"))
    (tmp_path / "data" / "items.parquet").write_bytes(b"")
    lay_out_movies(tmp_path)
    assert "# budget_minutes" in path.read_text()
    assert (tmp_path / "data" / "items.parquet").stat().st_size > 1000
    events = tmp_path / "data" / "events.parquet"
    assert events.stat().st_mtime_ns == before[events]


def test_laying_out_over_a_file(tmp_path):
    (tmp_path / "demo").write_text("x")
    with pytest.raises(UsageError, match="needs a folder"):
        lay_out_movies(tmp_path / "demo")
