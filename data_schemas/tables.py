"""The input tables: which columns they have, of which kind, and the rules their rows obey.

A rule is known by name everywhere: in the quarantine, in the summary and in messages. Column names
come from `recsys.data_schemas.columns`; the columns only our own tables have are named here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from recsys.data_schemas import columns as c
from recsys.data_schemas import limits

SCHEMA_VERSION: Final = 1
"""Version of the tables that ingestion writes; stands in `summary.json`."""
OLDEST_READABLE: Final = 1
"""Oldest version that this code reads; older folders are ingested again."""

USER_INDEX: Final = "user_index"
"""Place of a user in `user_vocabulary.parquet` of one ingestion, from 0; ids in byte order."""
FIRST_EVENT: Final = "first_event"
"""When a user's first event was; null for one who was only shown lists."""
LOG_POSITION: Final = "log_position"
"""Position of an event in the service's log; null where it comes from a file."""
EXACT_VALUE: Final = "exact_value"
"""`value` of an event where a float does not hold it; null elsewhere."""
ITEM_INDICES: Final = "item_indices"
RULED: Final = "ruled"
"""Whether a rule of the shop moved items of a list."""
"""`item_ids` of an impression as places in the item vocabulary."""

CATEGORY_LIMIT: Final = 1_000
"""Distinct values up to which an extra string column is taken as an attribute."""


class Kind(Enum):
    """What a column holds; the value is how messages say it."""

    ID = "string (integers are taken as strings)"
    TEXT = "string"
    TAGS = "list<string>, or a string divided by | or , or written as a JSON list"
    TIME = "timestamp with a time zone (dates are taken as midnight UTC)"
    NUMBER = "float or integer"
    BOOL = "boolean"
    IDS = "list<string>"
    NUMBERS = "list<float>"
    VECTOR = "list<float>, as many numbers for every item"


@dataclass(frozen=True)
class Column:
    """One column of an input table."""

    name: str
    kind: Kind
    required: bool = False


@dataclass(frozen=True)
class Table:
    """One input table. `extras` says whether further columns are taken as attributes."""

    name: str
    columns: tuple[Column, ...]
    extras: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


ITEMS: Final = Table(
    "items",
    (
        Column(c.ITEM_ID, Kind.ID, required=True),
        Column(c.TITLE, Kind.TEXT, required=True),
        Column(c.DESCRIPTION, Kind.TEXT),
        Column(c.TAGS, Kind.TAGS),
        Column(c.CATEGORY, Kind.TEXT),
        Column(c.CREATED_AT, Kind.TIME),
        Column(c.AVAILABLE, Kind.BOOL),
        Column(c.VECTOR, Kind.VECTOR),
    ),
    extras=True,
)
EVENTS: Final = Table(
    "events",
    (
        Column(c.USER_ID, Kind.ID, required=True),
        Column(c.ITEM_ID, Kind.ID, required=True),
        Column(c.EVENT_TYPE, Kind.TEXT, required=True),
        Column(c.TIMESTAMP, Kind.TIME, required=True),
        Column(c.VALUE, Kind.NUMBER),
        Column(c.IMPRESSION_ID, Kind.ID),
        Column(c.EVENT_ID, Kind.ID),
        Column(c.RECEIVED_AT, Kind.TIME),
    ),
)
IMPRESSIONS: Final = Table(
    "impressions",
    (
        Column(c.IMPRESSION_ID, Kind.ID, required=True),
        Column(c.USER_ID, Kind.ID, required=True),
        Column(c.TIMESTAMP, Kind.TIME, required=True),
        Column(c.ITEM_IDS, Kind.IDS, required=True),
        Column(c.PROPENSITIES, Kind.NUMBERS),
        Column(c.MODEL_VERSION, Kind.TEXT),
        Column(c.SURFACE, Kind.TEXT),
        Column(c.CONTEXT, Kind.TEXT),
        Column(c.RULES, Kind.TEXT),
    ),
)
USERS: Final = Table("users", (Column(c.USER_ID, Kind.ID, required=True),), extras=True)

TABLES: Final[Mapping[str, Table]] = {t.name: t for t in (ITEMS, EVENTS, IMPRESSIONS, USERS)}


@dataclass(frozen=True)
class Rule:
    """A rule that a row can break, and what its owner can do."""

    name: str
    says: str
    do: str
    do_in_log: str = ""
    """What can be done about a row that the service wrote to its log, where that is something else."""


RULES: Final[Mapping[str, Rule]] = {
    rule.name: rule
    for rule in (
        Rule("missing_item_id", "item_id is null or blank", "fill it where the table is exported"),
        Rule("missing_user_id", "user_id is null or blank", "fill it, or leave such rows out"),
        Rule(
            "missing_impression_id",
            "impression_id is null or blank",
            "give every shown list an id of its own",
        ),
        Rule("missing_event_type", "event_type is null or blank", "say what the user did"),
        Rule(
            "unfit_id",
            f"an id is longer than {limits.ID_LENGTH} characters or holds control characters",
            "shorten or clean it where the table is exported, in every table alike",
        ),
        Rule(
            "id_not_utf8",
            "an id is not UTF-8 text; it is shown as hexadecimal and never repaired, for two ids"
            " could become one",
            "export ids as UTF-8, or bytes as hexadecimal (`hex(user_id)` in DuckDB)",
        ),
        Rule(
            "unfit_event_type",
            f"event_type is longer than {limits.TYPE_LENGTH} characters, holds control characters"
            " or is not UTF-8",
            "give the type a short name",
        ),
        Rule(
            "too_many_event_types",
            f"the event_type came after {limits.EVENT_TYPES} others",
            "send a handful of types, such as view, click and purchase",
        ),
        Rule("missing_timestamp", "timestamp is null", "fill it where the table is exported"),
        Rule("beyond_time", "timestamp lies beyond any calendar", "correct the unit of the number"),
        Rule("before_1970", "timestamp lies before 1970", "correct the clock or the unit"),
        Rule(
            "in_the_future",
            "timestamp lies after the moment of this run",
            "correct the clock, the zone or the unit (seconds taken as milliseconds?)",
        ),
        Rule(
            "unknown_item",
            "item_id is not in the items table",
            "export the items table after the events, and keep withdrawn items in it",
            "post such items to the service (`PUT /v1/items/{id}`) or add them to the items table; of"
            " items that only a request brought along nothing is to be done, they are never learned from",
        ),
        Rule(
            "duplicate_item_id",
            "the item_id was seen in an earlier row, which was kept",
            "keep one row per item",
        ),
        Rule(
            "duplicate_user_id",
            "the user_id was seen in an earlier row, which was kept",
            "keep one row per user",
        ),
        Rule(
            "duplicate_impression_id",
            "the impression_id was seen before; the first was kept",
            "give every shown list an id of its own",
        ),
        Rule(
            "duplicate_event",
            "the event_id was seen before, or a row without one is identical in every column;"
            " the first was kept",
            "give events an event_id if identical rows are separate events",
        ),
        Rule(
            "empty_list",
            "item_ids is null or empty",
            "leave such lists out",
            "nothing; the service writes no such lists any more",
        ),
        Rule(
            "unequal_lists",
            "propensities and item_ids differ in length",
            "write one propensity per shown item, or none",
        ),
        Rule(
            "propensity_range",
            f"a propensity is null or outside {limits.PROPENSITY:g} to 1",
            "write the probability with which the item was shown at its place",
        ),
    )
}

WARNINGS: Final[Mapping[str, str]] = {
    "title_cut": f"titles longer than {limits.TITLE_LENGTH:,} characters, cut there",
    "description_cut": f"descriptions longer than {limits.DESCRIPTION_LENGTH:,} characters, cut there",
    "category_cut": f"categories longer than {limits.TEXT_LENGTH:,} characters, cut there",
    "tags_cut": f"items with more than {limits.TAG_COUNT:,} tags, the first kept",
    "control_characters": "items whose text held control characters, now blanks",
    "invalid_utf8": "texts that were not valid UTF-8; the wrong bytes are now U+FFFD",
    "no_title": "items without a title",
    "no_text": "items without any text (no title, description, tags or category)",
    "value_not_finite": "events whose value was NaN, infinite or beyond"
    f" ±{limits.NUMBER:.0e}, now null",
    "created_at_beyond": "items whose created_at lies beyond any calendar, now null",
    "attribute_beyond": f"attributes that were infinite or beyond ±{limits.NUMBER:.0e}, now null",
    "attribute_long": f"attributes of more than {limits.TEXT_LENGTH:,} characters, now null",
    "attribute_of_another_type": "attributes in the service's log of another type than the files'"
    " column, now null",
    "vector_of_another_length": "items whose vector in the service's log or of an earlier run has not as"
    " many numbers as the files' vectors, or none that can be used; they have none now",
    "long_lists": f"lists of more than {limits.LIST_LENGTH:,} items; the ranker learns from a sample"
    " of what was left in them",
    "in_log_already": "events that the service's log holds too; the log's row is kept",
    "withdrawn": "items of earlier runs that are gone from the files; kept, unavailable",
}
"""Name of a warning → what its count counts. A warning keeps the row."""
