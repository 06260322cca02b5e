"""Attributes told since a snapshot: the latest word, gone with the person."""

from recsys.data_schemas.limits import COLUMNS
from recsys.data_schemas.log_record import LogRecord
from recsys.told_attributes import ToldAttributes, ToldKinds


def told(position, user, **attributes):
    return LogRecord(position, "user", {"user_id": user, "attributes": attributes}, 0)


def test_the_latest_word_counts_once_and_ends_with_the_person():
    fold = ToldAttributes(3)
    fold.take([told(3, "u", plan="of the snapshot"), told(4, "u", plan="a", age=3)])
    fold.take([told(4, "u", plan="again"), told(5, "u", plan="b", vip=True), told(6, "v", age=1)])
    assert fold.of("u") == {"plan": "b", "age": 3.0, "vip": 1.0}
    fold.take([LogRecord(7, "forget", {"user_id": "u"}, 0)])
    assert (fold.of("u"), fold.of("v"), fold.of("w")) == ({}, {"age": 1.0}, {})


def item(position, **columns):
    return LogRecord(position, "item", {"item_id": "i", "title": "t", "tags": ["a"], **columns}, 0)


def test_the_first_value_says_of_which_kind_an_attribute_is():
    fold = ToldKinds(3)
    fold.take([item(3, colour=True), item(4, colour="red", stock=1, vector=[1.0], price=None)])
    fold.take([item(4, size=1), item(5, colour=5.0, price=2.0, new=False), told(6, "u", colour=1)])
    assert fold.of_items == {
        "colour": "text", "stock": "number", "price": "number", "new": "boolean",
    }  # fmt: skip
    assert fold.of_users == {"colour": "number"}


def test_kinds_are_kept_of_as_many_names_as_a_table_has_columns():
    fold = ToldKinds(0)
    fold.take([item(n + 1, **{f"name {n}": n}) for n in range(COLUMNS + 5)])
    assert len(fold.of_items) == COLUMNS
    assert f"name {COLUMNS}" not in fold.of_items
