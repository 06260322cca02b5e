"""No command writes over, or among, what it or a later night reads."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.operations.own_inputs import ALL, refuse_own_inputs

CONFIG = """data:
  items: data/items.parquet
  events: data/events
  impressions: data/shown/*.parquet
  users: {sql: "select * from read_parquet('data/people/*.parquet')"}
serving: {keys_file: keys.yaml}
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of a file, a folder, a glob and a query."""
    for place in ("items.parquet", "events/a.parquet", "shown/a.parquet", "people/a.parquet"):
        file = tmp_path / "data" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"user_id": ["u"]}), file)
    (tmp_path / "recsys.yaml").write_text(CONFIG)
    (tmp_path / "users.csv").write_text("u1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    return {f: f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("recommend", "--out", "data/items.parquet"), "is data.items"),
        (("recommend", "--out", "data/../recsys.yaml"), "is the config"),
        (("recommend", "--users", "users.csv", "--out", "users.csv"), "is --users"),
        (("recommend", "--out", "data/events/lists.parquet"), "lies in data.events"),
        (("recommend", "--out", "data/shown/lists.parquet"), "is matched by data.impressions"),
        (("recommend", "--out", "data/people/lists.parquet"), "is matched by data.users"),
        (("export-user", "u1", "--out", "data/items.parquet"), "is data.items"),
        (("export-user", "u1", "--out", "keys.yaml"), "is serving.keys_file"),
        (("evaluate", "--out", "data/events"), "is data.events"),
        (("evaluate", "--out", "data/events/page"), "lies in data.events"),
        (("evaluate", "--out", "data/shown"), "is matched by data.impressions"),
        (("evaluate", "--events", "later", "--out", "later/page"), "lies in --events"),
        (("models", "compare", "1", "2", "--out", "data/events/page"), "lies in data.events"),
        (("models", "export-encoder", "1", "--to", "data/events/x"), "lies in data.events"),
        (("experiments", "report", "x", "--out", "data/events/page"), "lies in data.events"),
        (("validate", "--quarantine", "data"), "holds data.items"),
        (("validate", "--quarantine", "."), "holds the config"),
        (("train", "encoder", "--inputs-only", "data/events/fit"), "lies in data.events"),
        (("init", "data/events/new"), "lies in data.events"),
        (("import", "mind", ".", "--to", "data/events/new"), "lies in data.events"),
        (
            (*("generate", "--users", "9", "--items", "9", "--days", "2"), "--to", "data/events/x"),
            "lies in data.events",
        ),
    ],
)
def test_an_output_that_is_an_input_is_refused_and_nothing_is_written(shop, recsys, words, says):
    (shop / "later").mkdir()
    before = everything(shop)
    code, out, err = recsys(*words)
    assert (code, out) == (ExitCode.USAGE, "")
    assert says in " ".join(err.split())
    assert everything(shop) == before


def refuse(shop, out, **more):
    file = shop / "recsys.yaml"
    refuse_own_inputs(shop / out, "--out", load_config(file), file, **more)


def test_what_lies_beside_and_the_workspace_may_be_written(shop):
    refuse(shop, "data/lists.parquet")
    refuse(shop, "data/shown/deeper/lists.parquet")
    refuse(shop, "data/shown/lists.json")
    refuse(shop, "work/lists.parquet")
    refuse(shop, "data", writes=("report.*",))
    refuse(shop, ".", writes=("report.*",))
    (shop / "recsys.yaml").write_text("data: {items: i.parquet, events: .}\n")
    refuse(shop, "work/lists.parquet")
    with pytest.raises(UsageError, match=r"lies in data\.events"):
        refuse(shop, "lists.parquet")


def test_a_report_that_bears_a_table_s_name_is_refused(shop):
    (shop / "recsys.yaml").write_text("data: {items: data/report.parquet, events: data/events}\n")
    with pytest.raises(UsageError, match=r"holds data\.items"):
        refuse(shop, "data", writes=("report.*",))


def test_links_lead_to_what_they_name(shop):
    (shop / "link.parquet").symlink_to(shop / "data" / "items.parquet")
    (shop / "tables").symlink_to(shop / "data")
    for out in ("link.parquet", "tables/items.parquet", "tables/events/lists.parquet"):
        with pytest.raises(UsageError, match=r"data\.(items|events)"):
            refuse(shop, out)


def test_a_database_that_is_read_and_any_depth_of_a_pattern(shop):
    file = shop / "recsys.yaml"
    file.write_text("data: {items: i, events: e, connection: 'duckdb://shop.duckdb'}\n")
    with pytest.raises(UsageError, match=r"is data\.connection"):
        refuse(shop, "shop.duckdb")
    refuse(shop, "i")
    file.write_text("data: {items: 'x/**/*.parquet', events: 's3://shop/events'}\n")
    for out in ("x/a.parquet", "x/b/c/a.parquet"):
        with pytest.raises(UsageError, match=r"is matched by data\.items"):
            refuse(shop, out)
    with pytest.raises(UsageError, match=r"is matched by data\.items"):
        refuse(shop, "x/page", writes=ALL)
    refuse(shop, "x/a.csv")
