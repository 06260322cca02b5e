"""What a value may be, at every door: the tables, the service and the importers keep one set of rules.

Texts are judged by two patterns that Python and DuckDB (RE2) read alike.
"""

import math
import re
from typing import Any, Final

from recsys.data_schemas import columns as c

ID_LENGTH: Final = 512
"""Characters of an id; addresses serve as ids. PostgreSQL indexes 2,704 bytes, four a character."""
TYPE_LENGTH: Final = 64
"""Characters of an event type or a surface."""
NAME_LENGTH: Final = 128
"""Characters of an attribute's name."""
TITLE_LENGTH: Final = 10_000
"""Characters of a title; longer ones in tables are cut and counted. Assumed: no title says more."""
DESCRIPTION_LENGTH: Final = 200_000
"""Characters of a description; longer ones in tables are cut and counted. 100 kB ones are met in
practice."""
TAG_COUNT: Final = 1_000
"""Tags of one item; further ones in tables are cut and counted."""
TEXT_LENGTH: Final = 1_000
"""Characters of a category, a tag or an attribute's text. In tables longer categories and tags are cut,
and a longer attribute is unknown."""
NUMBER: Final = 1e15
"""Largest size of a number, so that its square is a float32; a larger one is unknown."""
PROPENSITY: Final = 1e-12
"""Smallest propensity: the weight of a shown item is its inverse (assumed)."""
LIST_LENGTH: Final = 2_000
"""Items of a shown list that the ranker learns from; of longer ones (a category page exported whole)
it sees a sample. As many as the service ranks in one request; LightGBM takes 10,000 rows a query."""
ATTRIBUTES: Final = 200
"""Attributes of items, and of users."""
VECTOR_LENGTH: Final = 4_096
"""Numbers of an item's own vector; embeddings in use have 64 to 3,072."""
COLUMNS: Final = 1_000
"""Columns of a table. DuckDB's Parquet writer ends the process at 3,000 (measured, version 2.0)."""
EVENT_TYPES: Final = 200
"""Event types; items × types is a table of counters."""

CONTROL: Final = r"\x00-\x1f\x7f"
"""Inside of a character class: what no id, type or name holds."""
_BLANK: Final = " \u00a0\u1680\u2000-\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
"""Inside of a character class: printable, and nothing to see."""
SOUND: Final = rf"[^{CONTROL}]*[^{CONTROL}{_BLANK}][^{CONTROL}]*"
"""A whole text without control characters in which there is something to see."""
VISIBLE: Final = rf"[^{CONTROL}{_BLANK}]"
SOUND_HERE: Final = rf"^(?=[^{CONTROL}]*{VISIBLE})[^{CONTROL}]+\Z"
r"""The same for Python's `search`: linear in the text's length, and `\Z` unlike `$` admits no line
feed at the end."""

_sound = re.compile(SOUND_HERE)
_PANDAS: Final = re.compile(r"__index_level_\d+__|Unnamed: \d+(_level_\d+)?")
"""Names that pandas gives to a frame's index."""
RESERVED: Final = frozenset({*c.ITEM_STANDARD, c.POSITION, c.RECEIVED_AT, c.ITEM_INDEX})
"""Names that no attribute of an item can have."""

TEXT, FLAG, AMOUNT = "text", "boolean", "number"
"""Kinds of attributes."""


def is_sound(text: str, length: int) -> bool:
    """Whether a text can be an id, an event type or a name."""
    return len(text) <= length and _sound.search(text) is not None


def name_fault(name: str, reserved: frozenset[str] = RESERVED) -> str | None:
    """Why a column cannot be an attribute by its name; None where it can."""
    if not is_sound(name, len(name)):
        return "its name holds control characters" if name.strip() else "it has no name"
    if len(name) > NAME_LENGTH:
        return f"its name is longer than {NAME_LENGTH} characters"
    if name.lower() in reserved:
        return f"the name `{name.lower()}` is ours"
    if _PANDAS.fullmatch(name):
        return "pandas wrote the row's place in a frame under this name"
    return None


def kind_of(value: bool | float | str) -> str:
    """Kind of an attribute's value as it was sent: JSON tells 1 and true apart, which some tables do not.

    >>> kind_of(True), kind_of(1), kind_of("1")
    ('boolean', 'number', 'text')
    """
    if isinstance(value, bool):
        return FLAG
    return TEXT if isinstance(value, str) else AMOUNT


def attribute_value(kind: str, value: Any) -> float | bool | str | None:
    """A value as an attribute of a kind; None where it is none of that kind, which is unknown.

    >>> attribute_value("number", 3), attribute_value("number", "3"), attribute_value("number", 1e39)
    (3.0, None, None)
    >>> attribute_value("boolean", 1), attribute_value("number", True), attribute_value("text", 3)
    (True, None, None)
    """
    if kind == FLAG:
        # Some write 1 and 0 for true and false.
        return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
    if kind == TEXT:
        return value if isinstance(value, str) and len(value) <= TEXT_LENGTH else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) <= NUMBER else None
