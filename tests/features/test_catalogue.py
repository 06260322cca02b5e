"""The item side: what a table gave, what later changes made of it."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.limits import attribute_value
from recsys.features.catalogue import Catalogue
from recsys.features.random_world import START, item_table
from recsys.features.time_buckets import MISSING_TIME


def test_reads_every_column(catalogue):
    assert catalogue.n_items == 12
    assert catalogue.indices_of(["item-3", "nothing"]).tolist() == [3, -1]
    assert catalogue.title(4) == "Title 4"
    assert catalogue.category[:4] == ["category0", "category1", None, "category1"]
    assert catalogue.created_at[0] == START
    assert catalogue.created_at[3] == MISSING_TIME
    assert catalogue.available.tolist() == [i % 7 != 6 for i in range(12)]
    assert catalogue.numeric_names == ("price",)
    assert catalogue.categorical_names == ("colour",)
    assert np.isnan(catalogue.numeric("price")[4])
    assert catalogue.numeric("price")[2] == 3.0
    names = catalogue.values_of("colour")
    assert [names[c] if c >= 0 else None for c in catalogue.categorical("colour")[:3]] == [
        "red",
        "blue",
        None,
    ]


def test_fields_are_in_the_callers_words(catalogue):
    assert catalogue.fields(1) == {
        "item_id": "item-1",
        "title": "Title 1",
        "description": "About 1",
        "tags": ["tag1", "all"],
        "category": "category1",
        "created_at": datetime.fromtimestamp(START / 1e6 - 86_400, UTC),
        "available": True,
        "price": 1.5,
        "colour": "blue",
    }


def test_tags_are_distinct_and_ascending(catalogue):
    for item, words in enumerate(catalogue.tags):
        codes = catalogue.tags_of(item).tolist()
        assert codes == sorted({catalogue.tag_names.index(word) for word in words})
    offsets, codes = catalogue.tags_csr()
    assert codes[offsets[5] : offsets[6]].tolist() == catalogue.tags_of(5).tolist()


def test_only_the_identifier_is_needed():
    catalogue = Catalogue.from_table(pa.table({"item_id": ["a", "b"]}))
    assert catalogue.fields(1) == {
        "item_id": "b",
        "title": "",
        "description": "",
        "tags": [],
        "category": None,
        "created_at": None,
        "available": True,
    }


def test_an_appended_item_is_like_any_other(catalogue):
    item = {"item_id": "new", "title": "T", "tags": ["tag1", "fresh"], "category": "c", "price": 2}
    assert catalogue.append(item) == 12
    assert catalogue.index_of("new") == 12
    fields = catalogue.fields(12)
    assert (fields["title"], fields["tags"], fields["category"]) == ("T", ["tag1", "fresh"], "c")
    assert fields["price"] == 2.0
    assert fields["colour"] is None
    assert catalogue.tags[12] == ["tag1", "fresh"]
    assert catalogue.titles[12] == "T"


def test_an_update_leaves_the_rest(catalogue):
    catalogue.update(1, {"available": False, "tags": []})
    fields = catalogue.fields(1)
    assert fields["available"] is False
    assert fields["tags"] == []
    assert fields["description"] == "About 1"
    assert catalogue.blocked[1] == 1


def test_appending_a_known_item_updates_it(catalogue):
    assert catalogue.append({"item_id": "item-2", "title": "New title"}) == 2
    assert catalogue.title(2) == "New title"
    assert catalogue.n_items == 12


def test_lent_items_leave_no_trace(catalogue):
    before = [catalogue.fields(i) for i in range(12)]
    pool, extent = catalogue._pool_size, catalogue.extent()
    tags, categories = list(catalogue.tag_names), list(catalogue.category_names)
    colours = list(catalogue.values_of("colour"))
    for n in range(3):
        inline = {"item_id": "inline", "tags": ["all", f"odd {n}"], "category": f"c{n}"}
        catalogue.append({**inline, "colour": f"red {n}"})
        catalogue.append({"item_id": "inline too", "tags": ["all"]})
        assert catalogue.tag_names[-1] == f"odd {n}"
        catalogue.derived["table"] = np.zeros(1, np.float32)
        catalogue.cut(extent)
        assert not catalogue.derived
    assert (catalogue.tag_names, catalogue.category_names) == (tags, categories)
    assert catalogue.values_of("colour") == colours
    assert catalogue.n_items == 12
    assert catalogue.index_of("inline") == -1
    assert [catalogue.fields(i) for i in range(12)] == before
    assert catalogue._pool_size == pool
    catalogue.append({"item_id": "plain"})
    assert catalogue.fields(12)["colour"] is None
    assert catalogue.fields(12)["tags"] == []


def test_growth_copies_each_item_a_bounded_number_of_times(catalogue):
    capacities = set()
    for i in range(1000):
        catalogue.append({"item_id": f"more-{i}"})
        capacities.add(len(catalogue._created_at))
    assert len(capacities) <= np.log2(1000) + 1


def test_opens_what_it_saved(catalogue, tmp_path, folder_bytes):
    catalogue.append({"item_id": "new", "title": "T", "tags": ["fresh"], "colour": "green"})
    catalogue.update(0, {"category": "other"})
    catalogue.save(tmp_path / "a")
    opened = Catalogue.open(tmp_path / "a")
    assert [opened.fields(i) for i in range(13)] == [catalogue.fields(i) for i in range(13)]
    opened.save(tmp_path / "b")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    opened.update(3, {"available": False})
    assert Catalogue.open(tmp_path / "a").blocked[3] == 0


def test_saving_over_an_old_folder_leaves_nothing_beside_it(catalogue, tmp_path):
    catalogue.save(tmp_path / "a")
    catalogue.save(tmp_path / "a")
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_items_are_enough(rows, tmp_path):
    catalogue = Catalogue.from_table(item_table(2).slice(0, rows))
    catalogue.save(tmp_path / "a")
    assert Catalogue.open(tmp_path / "a").n_items == rows


def test_text_columns_of_many_values_are_no_attributes():
    table = pa.table(
        {
            "item_id": [str(i) for i in range(1500)],
            "note": [f"note {i}" for i in range(1500)],
            "flag": [i % 2 == 0 for i in range(1500)],
            "maker": pa.array(["a", "b", None] * 500).dictionary_encode(),
            "sizes": [[1]] * 1500,
        }
    )
    catalogue = Catalogue.from_table(table)
    assert catalogue.numeric_names == ("flag",)
    assert catalogue.categorical_names == ("maker",)


def test_numbers_beyond_float32_are_not_known():
    table = pa.table({"item_id": ["a", "b", "c"], "price": [1e300, -1e39, 2.5]})
    catalogue = Catalogue.from_table(table)
    np.testing.assert_array_equal(catalogue.numeric("price"), [np.nan, np.nan, 2.5])
    catalogue.update(2, {"price": 1e300})
    assert np.isnan(catalogue.numeric("price")[2])


@pytest.mark.parametrize(
    "value", ["dear", "", "12.5", True, 7, 1e300, float("nan"), None, [1], {"a": 1}, "x" * 2000]
)
def test_an_attribute_of_another_type_is_unknown_for_that_item_alone(value, tmp_path):
    table = pa.table(
        {"item_id": ["a", "b"], "price": [1.0, 2.0], "used": [True, False], "brand": ["x", "y"]}
    )
    catalogue = Catalogue.from_table(table)
    assert catalogue.attribute_kinds == {"price": "number", "used": "boolean", "brand": "text"}
    mixed = dict.fromkeys(("price", "used", "brand"), value)
    catalogue.append({"item_id": "a", "title": "still told", **mixed})
    catalogue.append({"item_id": "new", "title": "New", **mixed})
    for item in (0, 2):
        fields = catalogue.fields(item)
        for name, kind in catalogue.attribute_kinds.items():
            # A text of nothing is none.
            expected = attribute_value(kind, value)
            assert fields[name] == (None if expected == "" else expected), name
    assert catalogue.title(0) == "still told"
    assert catalogue.fields(1) | {"title": ""} == {
        **catalogue.fields(1), "title": "", "price": 2.0, "used": False, "brand": "y",
    }  # fmt: skip
    catalogue.save(tmp_path / "catalogue")
    assert Catalogue.open(tmp_path / "catalogue").attribute_kinds == catalogue.attribute_kinds
