"""The input tables agree with the column names, and every rule says what to do."""

from recsys.data_schemas import columns as c
from recsys.data_schemas.tables import (
    EVENTS,
    IMPRESSIONS,
    ITEMS,
    OLDEST_READABLE,
    RULES,
    SCHEMA_VERSION,
    TABLES,
    USERS,
    WARNINGS,
)


def required(table):
    return {column.name for column in table.columns if column.required}


def test_columns_are_those_of_the_contract():
    assert ITEMS.names == c.ITEM_STANDARD
    events = "user_id item_id event_type timestamp value impression_id event_id received_at"
    assert EVENTS.names == tuple(events.split())
    shown = (
        "impression_id user_id timestamp item_ids propensities model_version surface context rules"
    )
    assert IMPRESSIONS.names == tuple(shown.split())
    assert list(TABLES) == ["items", "events", "impressions", "users"]


def test_required_columns():
    assert required(ITEMS) == {c.ITEM_ID, c.TITLE}
    assert required(EVENTS) == {c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TIMESTAMP}
    assert required(IMPRESSIONS) == {c.IMPRESSION_ID, c.USER_ID, c.TIMESTAMP, c.ITEM_IDS}
    assert required(USERS) == {c.USER_ID}


def test_only_items_and_users_take_attributes():
    assert [t.name for t in TABLES.values() if t.extras] == ["items", "users"]


def test_every_rule_says_what_to_do():
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.says
        assert rule.do
    assert all(WARNINGS.values())
    assert not set(RULES) & set(WARNINGS)


def test_versions():
    assert 1 <= OLDEST_READABLE <= SCHEMA_VERSION
