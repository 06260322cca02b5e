"""Vectors that items bring: one length, finite numbers; a refusal names the item."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.errors import DataRefused
from recsys.ingestion.tables.load import load_tables

VECTORS = [[1.0, 2.0], None, [3.0, 4.0], []]


def lists(values, kind=None):
    return pa.array(values, pa.list_(kind or pa.float64()))


@pytest.mark.parametrize(
    "column",
    [
        lists(VECTORS),
        lists(VECTORS, pa.float32()),
        pa.array(VECTORS, pa.large_list(pa.int64())),
        pa.array([[1.0, 2.0], None, [3.0, 4.0], None], pa.list_(pa.float32(), 2)),
    ],
)
def test_lists_of_numbers_are_taken(desk, column):
    desk.items(vector=column)
    desk.events()
    desk.ingest()
    loaded = load_tables(desk.out, desk.config()).catalogue
    assert loaded.vectors.tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]
    assert loaded.vectors.dtype == np.float32
    assert "vector" not in loaded.attribute_kinds


def test_without_vectors_there_is_no_column(desk):
    desk.items(vector=lists([None, [], None, None]))
    desk.events()
    desk.ingest()
    assert "vector" not in desk.rows("items.parquet")[0]


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        (
            [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], None],
            ("the vector of item 'i2' has 3 numbers", "2 numbers, as the vectors of 2 items have"),
        ),
        (
            [[1.0, 2.0], [1.0, float("nan")], None, None],
            ("item 'i1' holds nan at place 1", "finite numbers"),
        ),
        ([[float("inf")], [1.0], None, None], ("item 'i0' holds inf at place 0",)),
        ([[1.0, None], [1.0, 2.0], None, None], ("item 'i0' holds null", "at place 1")),
        ([[1e300], [1.0], None, None], ("item 'i0' holds null, or a number too large",)),
        ([[0.0] * 4097, None, None, None], ("4,097", "at most 4,096")),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(desk, vectors, says):
    desk.items(vector=lists(vectors))
    desk.events()
    with pytest.raises(DataRefused) as caught:
        desk.ingest()
    for text in ("items.parquet, column `vector`", *says):
        assert text in caught.value.render()
    assert desk.left_behind() == []


def test_a_text_is_no_vector(desk):
    desk.items(vector=["1 2", "3 4", "", ""])
    desk.events()
    with pytest.raises(DataRefused, match="wrong type"):
        desk.ingest()


def test_what_an_earlier_run_knew_of_another_length_is_dropped(desk):
    desk.items(vector=lists([[1.0, 2.0]] * 4))
    desk.events()
    desk.ingest()
    before = desk.root / "before.parquet"
    (desk.out / "items.parquet").rename(before)
    desk.items(n=3, vector=lists([[1.0, 2.0, 3.0]] * 3))
    desk.events(item_id=["i0"] * 8)
    summary = desk.ingest(previous=before)
    assert [row["vector"] for row in desk.rows("items.parquet")] == [[1.0, 2.0, 3.0]] * 3 + [None]
    assert summary["tables"]["items"]["warnings"]["vector_of_another_length"] == 1


def test_the_log_has_the_latest_word_where_its_length_fits(desk):
    desk.items(vector=lists([[1.0, 2.0]] * 4))
    desk.events()
    time = pa.array([1_700_000_000_000_000] * 3, pa.timestamp("us", "UTC"))
    drained = desk.root / "log"
    desk.write(
        "log/items.parquet",
        {
            "item_id": ["i0", "i1", "new"],
            "title": ["A", "B", "C"],
            "vector": lists([[9.0, 9.0], [9.0], [7.0, 7.0]], pa.float32()),
            "received_at": time,
            "position": [0, 1, 2],
        },
    )
    summary = desk.ingest(drained=drained)
    found = {row["item_id"]: row["vector"] for row in desk.rows("items.parquet")}
    assert (found["i0"], found["i1"], found["new"]) == ([9.0, 9.0], [1.0, 2.0], [7.0, 7.0])
    assert summary["tables"]["items"]["warnings"]["vector_of_another_length"] == 1
