"""Every column name of every table, written once and imported everywhere.

The names are the contract of the input tables (items, events, impressions, users) and of the
tables we write (recommendations, quarantine). No other module holds a column name as a literal.
"""

from typing import Final

# items
ITEM_ID: Final = "item_id"
TITLE: Final = "title"
DESCRIPTION: Final = "description"
TAGS: Final = "tags"
CATEGORY: Final = "category"
CREATED_AT: Final = "created_at"
AVAILABLE: Final = "available"
VECTOR: Final = "vector"
"""An item's own vector, an embedding of its image say: as many numbers for every item."""

# events
USER_ID: Final = "user_id"
EVENT_TYPE: Final = "event_type"
TIMESTAMP: Final = "timestamp"
VALUE: Final = "value"
IMPRESSION_ID: Final = "impression_id"
EVENT_ID: Final = "event_id"
RECEIVED_AT: Final = "received_at"
OPTED_OUT: Final = "opted_out"

# impressions
ITEM_IDS: Final = "item_ids"
PROPENSITIES: Final = "propensities"
MODEL_VERSION: Final = "model_version"
SURFACE: Final = "surface"
CONTEXT: Final = "context"
"""What the request said of its own situation, a JSON object."""

RULES: Final = "rules"
"""Which items of a list a rule of the shop moved: a JSON object of item id and the rule's name."""

TEAMS: Final = "teams"
"""Of an interleaved list: the version that contributed each item, in shown order."""
DEGRADED: Final = "degraded"
"""Which parts were missing or late when a list was made."""
EXPERIMENT: Final = "experiment"
"""Name of the experiment in which a list took part."""
ARM: Final = "arm"
"""Arm of the experiment to which the list's unit belongs."""
UNIT: Final = "unit"
"""Pseudonym of the visit that an experiment dealt to an arm; absent where it deals persons."""

ATTRIBUTES: Final = "attributes"
"""Of a person's record in the log: column → value."""

# what we write
SCORES: Final = "scores"
SCORE: Final = "score"
RANK: Final = "rank"
"""Place in a list, from 1."""
POSITION: Final = "position"
"""Place of a row in the order in which it became known (log position), unit: rows, from 0."""
ITEM_INDEX: Final = "item_index"
"""Place of an item in the workspace's append-only vocabulary, from 0; never reassigned."""
RULE: Final = "rule"
SOURCE_FILE: Final = "source_file"
SOURCE_ROW: Final = "source_row"

ITEM_STANDARD: Final = (ITEM_ID, TITLE, DESCRIPTION, TAGS, CATEGORY, CREATED_AT, AVAILABLE, VECTOR)
