"""Filters on a catalogue small enough to see: what they keep, what they refuse, both readings alike."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.filters import (
    COMPARISONS,
    ORDERED,
    allowed_by,
    columns_of,
    parse,
    schemas,
)

DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
CATALOGUE = Catalogue.from_table(
    pa.table(
        {
            "item_id": list("abcdef"),
            "title": ["t"] * 6,
            "tags": [["x"], ["x", "y"], [], ["y"], None, ["z"]],
            "category": ["film", "film", "film", "book", None, "book"],
            "created_at": pa.array([*DAYS, None, None], pa.timestamp("us", "UTC")),
            "price": [1.0, 2.0, 30.1, None, 5.0, 1.0],
            "maker": ["m", "n", "m", "m", "m", None],
            "signed": [True, False, None, True, False, False],
            "shelf": ["5", "5", "True", "True", None, "5.5"],
        }
    )
)
COLUMNS = columns_of(CATALOGUE.attribute_kinds)
ROWS = [CATALOGUE.fields(index) for index in range(6)]
JANUARY_2 = "2026-01-02T00:00:00Z"


def names(mask):
    return "".join("abcdef"[i] for i in np.flatnonzero(mask))


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        # equality and lists
        ({}, "abcdef"),
        ({"category": "film"}, "abc"),
        ({"category": ["book", "nothing"]}, "df"),
        ({"tags": ["y", "z"]}, "bdf"),
        ({"tags": "x"}, "ab"),
        ({"price": 2}, "b"),
        ({"price": "2"}, ""),
        ({"signed": True}, "ad"),
        ({"category": "film", "maker": "m"}, "ac"),
        # a value of another type than the column's equals nothing; a number is the text it is written as
        ({"price": True}, ""),
        ({"price": [True, 5]}, "e"),
        ({"price": {"not": True}}, "abcdef"),
        ({"signed": 1}, ""),
        ({"signed": [0, True]}, "ad"),
        ({"signed": {"not": 1.0}}, "abcdef"),
        ({"shelf": True}, ""),
        ({"tags": {"not": False}}, "abcdef"),
        ({"shelf": 5}, "ab"),
        ({"shelf": "5"}, "ab"),
        ({"category": []}, ""),
        # comparisons; what is unknown meets none, and is not equal to anything
        ({"price": {"lt": 2}}, "af"),
        ({"price": {"gte": 2, "lt": 30}}, "be"),
        ({"price": {"lte": 30.1}}, "abcef"),
        ({"price": {"not": 1}}, "bcde"),
        ({"price": {"not": [1, 5]}}, "bcd"),
        ({"category": {"not": "film"}}, "def"),
        ({"signed": {"not": True}}, "bcef"),
        ({"tags": {"any": ["x", "z"]}}, "abf"),
        ({"tags": {"all": ["x", "y"]}}, "b"),
        ({"tags": {"all": ["x", "nobody has this"]}}, ""),
        ({"tags": {"all": []}}, ""),
        ({"tags": {"any": ["x"], "not": ["y"]}}, "a"),
        ({"created_at": {"gte": JANUARY_2}}, "bcd"),
        ({"created_at": {"gt": JANUARY_2, "lt": "2026-01-04T01:00:00+01:00"}}, "c"),
        # filters of filters
        ({"or": [{"maker": "n"}, {"price": {"gt": 4}}]}, "bce"),
        ({"and": [{"maker": "m"}, {"category": "film"}], "price": 1}, "a"),
        ({"not": {"price": {"lt": 30}}}, "cd"),
        ({"not": {"or": [{"category": "film"}, {"tags": "z"}]}}, "de"),
    ],
)
def test_what_a_filter_keeps(filters, kept):
    assert names(allowed_by(CATALOGUE, filters)) == kept
    read = parse(filters, COLUMNS)
    assert "".join(row["item_id"] for row in ROWS if read.holds(row)) == kept


@pytest.mark.parametrize(
    ("filters", "where", "expected"),
    [
        ({"colour": "red"}, "filters.colour", "category, tags, created_at, price, signed, maker, shelf"),
        ({"price": {"below": 3}}, "filters.price", "not, lt, lte, gt, gte"),
        ({"category": {"lt": 3}}, "filters.category", "one of not"),
        ({"price": {"lt": "3"}}, "filters.price.lt", "a number"),
        ({"price": {"lt": True}}, "filters.price.lt", "a number"),
        ({"price": {}}, "filters.price", "lte"),
        ({"price": None}, "filters.price", "a number"),
        ({"price": float("nan")}, "filters.price", "a number"),
        ({"category": "a" * 1001}, "filters.category", "1000 characters"),
        ({"category": ["a"] * 101}, "filters.category", "at most 100"),
        ({"tags": {"any": "x"}}, "filters.tags.any", "a list"),
        ({"created_at": {"gte": "yesterday"}}, "filters.created_at.gte", "RFC 3339"),
        ({"created_at": {"gte": "2026-01-01T00:00:00"}}, "filters.created_at.gte", "RFC 3339"),
        ({"created_at": JANUARY_2}, "filters.created_at", "lt, lte, gt, gte"),
        ({"or": [{"colour": 1}]}, "filters.or[0].colour", "maker"),
        ({"or": []}, "filters.or", "1 to 20"),
        ({"not": ["a"]}, "filters.not", "an object"),
        ({"not": {"not": {"not": {"not": {}}}}}, "filters.not.not.not.not", "at most 3"),
        ({"or": [{"price": {"lt": n, "gt": 0}} for n in range(20)] * 1,
          "and": [{"price": n} for n in range(11)]}, "filters.and[10].price", "at most 50"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_there_is(filters, where, expected):
    with pytest.raises(UsageError) as refused:
        allowed_by(CATALOGUE, filters)
    assert refused.value.where == where
    assert expected in str(refused.value.expected)


VALUE = st.sampled_from(["film", "x", "y", "m", True, False, 1, 2.0, 30.1])
VALUES = VALUE | st.lists(VALUE, max_size=3)


def compared(kind):
    def of(name):
        if name in ORDERED:
            return st.just(JANUARY_2) if kind == "time" else st.sampled_from([1, 2.5, 30.1])
        return VALUES if name == "not" else st.lists(VALUE, max_size=3)

    known = st.fixed_dictionaries({}, optional={name: of(name) for name in COMPARISONS[kind]})
    return known.filter(bool) if kind == "time" else known.filter(bool) | VALUES


LEAF = st.one_of(st.fixed_dictionaries({name: compared(kind)}) for name, kind in COLUMNS.items())


def deeper(below):
    several = st.lists(below, min_size=1, max_size=2)
    return st.fixed_dictionaries({}, optional={"and": several, "or": several, "not": below})


NESTED = LEAF | deeper(LEAF) | deeper(deeper(LEAF))


@given(NESTED)
@settings(max_examples=80, deadline=None)
def test_the_catalogue_and_its_rows_are_read_alike_and_the_schema_admits_it(filters):
    from jsonschema import Draft202012Validator

    read = parse(filters, COLUMNS)
    assert read.mask(CATALOGUE).tolist() == [read.holds(row) for row in ROWS]
    assert Draft202012Validator(DOCUMENT).is_valid(filters), filters


DOCUMENT = {"$ref": "#/$defs/F", "$defs": schemas(COLUMNS, "F", "#/$defs/{name}")}


@pytest.mark.parametrize(
    "filters",
    [
        {"colour": 1},
        {"price": {"below": 1}},
        {"price": {}},
        {"price": {"lt": "3"}},
        {"tags": {"any": "x"}},
        {"created_at": JANUARY_2},
        {"category": None},
        {"category": [["a"]]},
        {"or": []},
        {"not": {"not": {"not": {"not": {}}}}},
    ],
)
def test_what_is_refused_the_schema_refuses_too(filters):
    from jsonschema import Draft202012Validator

    with pytest.raises(UsageError):
        parse(filters, COLUMNS)
    assert not Draft202012Validator(DOCUMENT).is_valid(filters)
