"""Attributes told since a snapshot: the latest word, gone with the person."""

from recsys.data_schemas.log_record import LogRecord
from recsys.told_attributes import ToldAttributes


def told(position, user, **attributes):
    return LogRecord(position, "user", {"user_id": user, "attributes": attributes}, 0)


def test_the_latest_word_counts_once_and_ends_with_the_person():
    fold = ToldAttributes(3)
    fold.take([told(3, "u", plan="of the snapshot"), told(4, "u", plan="a", age=3)])
    fold.take([told(4, "u", plan="again"), told(5, "u", plan="b", vip=True), told(6, "v", age=1)])
    assert fold.of("u") == {"plan": "b", "age": 3.0, "vip": 1.0}
    fold.take([LogRecord(7, "forget", {"user_id": "u"}, 0)])
    assert (fold.of("u"), fold.of("v"), fold.of("w")) == ({}, {"age": 1.0}, {})
