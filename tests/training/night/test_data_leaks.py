"""A night leaves out the column that knows what comes, and everything after reads the tables without it."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.evaluation.report_context import DROP
from recsys.features.feature_set import FeatureSet
from recsys.features.time_buckets import MISSING_TIME
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data
from recsys.training.night.data_leaks import ids_of, leave_out_leaks, without
from recsys.training.night.inputs import user_table
from recsys.training.night.night_context import Night

USERS, ITEMS, EVENTS = 120, 150, 6000


def write_log(folder, *, leak):
    """Events by a popularity that each item has and two tastes, and an attribute that is how often it is going to be
    chosen, or has nothing to do with that."""
    draw = np.random.default_rng(5)
    share = draw.lognormal(0, 0.7, ITEMS)
    user, item = draw.integers(0, USERS, EVENTS), draw.choice(ITEMS, EVENTS, p=share / share.sum())
    # Even users like even items.
    item = np.where(draw.random(EVENTS) < 0.7, item // 2 * 2 + user % 2, item)
    events = pd.DataFrame(
        {
            c.USER_ID: [f"u{n}" for n in user],
            c.ITEM_ID: [f"i{n}" for n in item],
            c.EVENT_TYPE: "click",
            c.TIMESTAMP: pd.date_range("2026-01-01", periods=EVENTS, freq="7min", tz="UTC"),
        }
    )
    later = np.bincount(item[EVENTS * 5 // 6 :], minlength=ITEMS)
    first = events.groupby(c.ITEM_ID)[c.TIMESTAMP].min()
    ids = pd.Series([f"i{n}" for n in range(ITEMS)])
    items = pd.DataFrame({c.ITEM_ID: ids, c.TITLE: ids, "weight": draw.normal(size=ITEMS)})
    if leak:
        items["stock"] = later
        items[c.CREATED_AT] = ids.map(first)
    events.to_parquet(folder / "events.parquet")
    items.to_parquet(folder / "items.parquet")
    (folder / "recsys.yaml").write_text("data: {items: items.parquet, events: events.parquet}\n")
    return load_config(folder / "recsys.yaml")


def night_of(config):
    workspace, reporter = Workspace(config.workspace_path), Reporter(quiet=True)
    return Night(config, workspace, StageRunner(workspace, reporter), reporter)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    config = write_log(tmp_path_factory.mktemp("leaking"), leak=True)
    night = night_of(config)
    night.tables = tables = read_data.validate(night)
    night.tables = leave_out_leaks(night)
    return night, tables, night.tables


def test_the_column_is_left_out_of_tables_and_features(leaking):
    night, tables, cleaned = leaking
    assert cleaned.key != tables.key
    found = {check.name: check.outcome for check in night.data_checks if not check.passed}
    assert set(found.values()) == {DROP}
    data = read_data.split(night, read_data.load(night.tables.product, night.config))
    assert data.stage.key == cleaned.key
    catalogue = data.tables.catalogue
    assert catalogue.numeric_names == ("weight",)
    assert (catalogue.created_at == MISSING_TIME).all()
    features = FeatureSet.default(
        catalogue, data.interactions.kinds, (), night.config.features, users=user_table(data.tables)
    )
    assert "item.weight" in features.columns
    assert not [name for name in features.columns if "stock" in name or "age" in name]
    assert len(data.interactions) == EVENTS


def test_a_second_night_finds_it_done(leaking):
    night, _, cleaned = leaking
    again = night_of(night.config)
    again.tables = read_data.validate(again)
    assert leave_out_leaks(again).key == cleaned.key
    assert again.data_checks == night.data_checks
    assert all(result.skipped for result in again.runner.results)


def test_sound_tables_stay_the_stage_they_are(tmp_path):
    night = night_of(write_log(tmp_path, leak=False))
    night.tables = read_data.validate(night)
    assert leave_out_leaks(night) is night.tables
    assert [check for check in night.data_checks if not check.passed] == []
    assert len(night.data_checks) > 5


def test_until_a_date_later_events_accuse_nobody(tmp_path):
    config = write_log(tmp_path, leak=True)
    night = night_of(config)
    night.tables = read_data.validate(night)
    night.until = int(pd.Timestamp("2026-01-20", tz="UTC").value // 1000)
    leave_out_leaks(night)
    failed = [check.name for check in night.data_checks if not check.passed]
    assert not [name for name in failed if "stock" in name]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_standard_columns_stay_and_are_empty(kind):
    table = pa.table(
        {
            c.ITEM_ID: ["a", "b"],
            c.DESCRIPTION: ["told", "told"],
            c.TAGS: pa.array([["x"], ["y"]], kind),
            c.CREATED_AT: pa.array([1, 2], pa.timestamp("us", "UTC")),
            "stock": [1, 2],
        }
    )
    kept = without(table, [c.TAGS, c.CREATED_AT, c.DESCRIPTION, "stock"])
    assert kept.schema.names == [c.ITEM_ID, c.DESCRIPTION, c.TAGS, c.CREATED_AT]
    assert kept[c.TAGS].to_pylist() == [[], []]
    assert kept[c.CREATED_AT].null_count == 2
    assert kept[c.DESCRIPTION].to_pylist() == ["", ""]
    assert kept.schema.field(c.TAGS).type == kind


def test_what_is_left_out_is_written_as_tables_are(leaking):
    _, tables, cleaned = leaking
    whole = pq.read_schema(tables.path / "tables" / "items.parquet")
    rest = pq.read_schema(cleaned.path / "tables" / "items.parquet")
    assert set(whole.names) - set(rest.names) == {"stock"}
    assert not (cleaned.path / "tables" / "items.parquet").samefile(
        tables.path / "tables" / "items.parquet"
    )


def test_ids_of_some_events_are_read_from_the_files_that_hold_them(tmp_path):
    (tmp_path / "events").mkdir()
    for name, ids in (("2025", ["a", "b"]), ("2026-01", []), ("2026-02", ["c", None, "e"])):
        table = pa.table({c.EVENT_ID: pa.array(ids, pa.string())})
        pq.write_table(table, tmp_path / "events" / f"{name}.parquet")
    assert ids_of(tmp_path, np.array([1, 2, 3])) == ["b", "c", "None"]
    assert ids_of(tmp_path, np.array([4])) == ["e"]
    assert ids_of(tmp_path, np.array([], np.int64)) == []
