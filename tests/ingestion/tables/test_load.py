"""Ingested tables come back as the arrays that later stages work on."""

import json

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.ingestion.tables.load import CHUNK, load_tables

UTC_TIME = pa.timestamp("us", tz="UTC")
NOON = 1_700_000_000_000_000


def times(*seconds):
    return pa.array([NOON + s * 1_000_000 for s in seconds], UTC_TIME)


def load(desk, **data):
    desk.ingest(**data)
    return load_tables(desk.out, desk.config(**data))


def test_arrays(desk):
    desk.items(price=[1.0, 2.0, None, 4.0])
    desk.events(
        4,
        user_id=["b", "a", "b", "a"],
        item_id=["i3", "i0", "i1", "i3"],
        event_type=["view", "purchase", "rating", "rating"],
        value=[None, None, 1.5, 5.0],
        timestamp=times(3, 1, 2, 4),
    )
    tables = load(desk)
    events = tables.interactions
    assert events.user_ids.tolist() == ["a", "b"]
    assert events.kinds == ("purchase", "rating", "view")
    assert events.user.tolist() == [0, 1, 1, 0]
    assert events.item.tolist() == [0, 1, 3, 3]
    assert events.kind.tolist() == [0, 1, 2, 1]
    assert events.time.tolist() == [NOON + s * 1_000_000 for s in (1, 2, 3, 4)]
    assert events.weight.tolist() == [5, -1, 1, 5]
    assert events.grade.tolist() == [3, -1, 0, 3]
    np.testing.assert_array_equal(events.value, np.float32([np.nan, 1.5, np.nan, 5]))
    assert events.position.tolist() == [0, 1, 2, 3]
    assert (events.n_items, events.n_users) == (4, 2)
    dtypes = {n: str(getattr(events, n).dtype) for n in ("user", "item", "kind", "time", "value")}
    assert dtypes == {
        "user": "int32",
        "item": "int32",
        "kind": "int16",
        "time": "int64",
        "value": "float32",
    }
    assert tables.catalogue.n_items == 4
    assert tables.catalogue.index_of("i2") == 2
    assert tables.catalogue.numeric_names == ("price",)
    assert tables.impressions is None
    assert tables.users is None
    assert tables.resolution.kind == "seconds"


def test_meaning_comes_from_the_config(desk):
    desk.items()
    desk.events(2, event_type=["like", "like"])
    desk.ingest()
    raw = {
        "data": {"items": "items.parquet", "events": "events.parquet"},
        "events": {"types": {"like": {"weight": 9, "grade": 2}}},
    }
    events = load_tables(desk.out, parse_config(raw, desk.root)).interactions
    assert events.weight.tolist() == [9, 9]
    assert events.grade.tolist() == [2, 2]


def test_meaning_does_not_depend_on_chunks(desk, monkeypatch):
    assert CHUNK > 1000
    desk.items()
    desk.events(50, event_type=["view", "purchase"] * 25, value=[None, 1.0, 4.5, None, 3.0] * 10)
    whole = load(desk).interactions
    monkeypatch.setattr("recsys.ingestion.tables.load.CHUNK", 7)
    pieces = load_tables(desk.out, desk.config()).interactions
    np.testing.assert_array_equal(whole.weight, pieces.weight)
    np.testing.assert_array_equal(whole.grade, pieces.grade)


def test_several_row_groups(desk, monkeypatch):
    monkeypatch.setattr("recsys.ingestion.tables.duck.ROW_GROUP", 2048)
    desk.items()
    kinds = [f"k{n // 3000}" for n in range(9000)]
    desk.events(9000, event_type=kinds)
    events = load(desk).interactions
    assert events.kinds == ("k0", "k1", "k2")
    assert events.kind.tolist() == [n // 3000 for n in range(9000)]
    assert events.item.tolist() == [n % 4 for n in range(9000)]


def test_impressions(desk):
    desk.items()
    desk.events()
    desk.write(
        "impressions.parquet",
        {
            "impression_id": ["x", "y", "z"],
            "user_id": ["new", "u0", "u1"],
            "timestamp": times(2, 1, 3),
            "item_ids": [["i1", "i0"], ["i3"], ["i2", "i2", "i1"]],
            "propensities": pa.array([[0.5, 0.25], None, [1.0, 0.5, 0.1]], pa.list_(pa.float64())),
            "context": ['{"device": "phone"}', None, ""],
        },
    )
    tables = load(desk, impressions="impressions.parquet")
    shown = tables.impressions
    assert shown.ids is None, "nothing of a night reads them"
    assert [tables.interactions.user_ids[u] for u in shown.user] == ["u0", "new", "u1"]
    assert shown.offsets.tolist() == [0, 1, 3, 6]
    assert shown.items.tolist() == [3, 1, 0, 2, 2, 1]
    np.testing.assert_allclose(shown.propensity, [np.nan, 0.5, 0.25, 1.0, 0.5, 0.1], rtol=1e-6)
    assert shown.position.tolist() == [0, 1, 2]
    assert shown.context.tolist() == [None, '{"device": "phone"}', ""]
    assert len(shown) == 3


def test_users(desk):
    desk.items()
    desk.events()
    desk.write("users.parquet", {"user_id": ["u1"], "age": [3]})
    tables = load(desk, users="users.parquet")
    assert tables.users.to_pylist() == [{"user_id": "u1", "age": 3.0}]


def test_nothing_there(desk):
    with pytest.raises(UsageError, match="no ingested tables"):
        load_tables(desk.root, desk.config())


def test_other_version(desk):
    desk.items()
    desk.events()
    desk.ingest()
    file = desk.out / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    with pytest.raises(UsageError, match="version this release does not read"):
        load_tables(desk.out, desk.config())
