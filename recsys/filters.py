"""Which items a request allows: one expression for the API, the command line and Python.

```json
{"category": ["Puzzle", "Board"], "price": {"lt": 30}, "tags": {"any": ["co-op"], "not": ["horror"]},
 "or": [{"maker": "Acme"}, {"created_at": {"gte": "2026-01-01T00:00:00Z"}}]}
```

Every key of a filter must hold. A column takes a value, a list of which one must hold, or comparisons
(`Kind` → `COMPARISONS`); `and` and `or` hold lists of filters, `not` holds one. What is not known of an
item meets no comparison and equals nothing, so that `not` of it holds: the truth is of two values.

Shapes: N items of the catalogue.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from recsys.data_schemas import api
from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.limits import AMOUNT, FLAG, NAME_LENGTH, NUMBER, TEXT, TEXT_LENGTH
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Bools
from recsys.features.time_buckets import MISSING_TIME, microseconds

Row = Mapping[str, Any]

WORDS, MOMENT = "tags", "time"
"""Kinds of columns beside those of attributes: a list of words, and a moment."""
AND, OR, NOT, ANY, ALL = "and", "or", "not", "any", "all"
_EQUAL: Final = "equal"
ORDERED: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "lt": np.less,
    "lte": np.less_equal,
    "gt": np.greater,
    "gte": np.greater_equal,
}
"""Name of a comparison of sizes → how it is held."""
COMPARISONS: Final[Mapping[str, tuple[str, ...]]] = {
    TEXT: (NOT,),
    FLAG: (NOT,),
    AMOUNT: (NOT, *ORDERED),
    WORDS: (ANY, ALL, NOT),
    MOMENT: tuple(ORDERED),
}
"""Kind of a column → the comparisons that it takes; equality and lists come beside them, but for a
moment."""
MOST_VALUES: Final = 100
"""Values of one list."""
MOST_KEYS: Final = 20
"""Keys of one filter, and filters of one `and` or `or`."""
MOST_CONDITIONS: Final = 50
"""Conditions of a whole expression (assumed: each costs a pass over the catalogue, 1 ms at a million
items)."""
DEEPEST: Final = 3
"""How deep filters stand within filters."""
STANDARD: Final[Mapping[str, str]] = {c.CATEGORY: TEXT, c.TAGS: WORDS, c.CREATED_AT: MOMENT}
"""Kind of the columns that every item has."""


def columns_of(attributes: Mapping[str, str]) -> dict[str, str]:
    """Column → its kind, of a catalogue with these attributes (name → kind of `limits`)."""
    return {**STANDARD, **attributes}


@dataclass(frozen=True)
class Condition:
    """One comparison of one column."""

    column: str
    kind: str
    comparison: str
    """A key of `ORDERED`, `any`, or `all`; `not` is the negation of `any`."""
    values: tuple[Any, ...]
    """Texts, float32 numbers, or µs."""

    def mask(self, catalogue: Catalogue) -> Bools:
        """bool[N]: items of which it holds."""
        if self.kind == WORDS:
            return _tagged(catalogue, self.values, every=self.comparison == ALL)
        if self.kind == TEXT:
            names = catalogue.values_of(self.column)
            place = {name: code for code, name in enumerate(names)}
            codes = [place[value] for value in self.values if value in place]
            return np.isin(catalogue.categorical(self.column), codes)
        if self.kind == MOMENT:
            times = catalogue.created_at
            known = times != MISSING_TIME
            later: Bools = known & ORDERED[self.comparison](times, self.values[0])
            return later
        numbers = catalogue.numeric(self.column)
        if self.comparison in ORDERED:
            held: Bools = ORDERED[self.comparison](numbers, self.values[0])
            return held
        return np.isin(numbers, np.array(self.values, np.float32))

    def holds(self, row: Row) -> bool:
        """Whether it holds of an item as `Catalogue.fields` gives it."""
        has = row.get(self.column)
        if self.kind == WORDS:
            tags = set(has or ())
            within = (value in tags for value in self.values)
            return bool(self.values) and all(within) if self.comparison == ALL else any(within)
        if has is None:
            return False
        if self.kind == MOMENT:
            return bool(ORDERED[self.comparison](microseconds(has), self.values[0]))
        if self.kind == TEXT:
            return has in self.values
        number = np.float32(has)
        if self.comparison in ORDERED:
            return bool(ORDERED[self.comparison](number, self.values[0]))
        return number in self.values


@dataclass(frozen=True)
class Every:
    """All parts hold; of no part, always."""

    parts: "tuple[Filter, ...]"

    def mask(self, catalogue: Catalogue) -> Bools:
        """bool[N]: items of which it holds."""
        held = np.ones(catalogue.n_items, bool)
        for part in self.parts:
            held &= part.mask(catalogue)
        return held

    def holds(self, row: Row) -> bool:
        """Whether it holds of an item as `Catalogue.fields` gives it."""
        return all(part.holds(row) for part in self.parts)


@dataclass(frozen=True)
class Either:
    """One part holds at least."""

    parts: "tuple[Filter, ...]"

    def mask(self, catalogue: Catalogue) -> Bools:
        """bool[N]: items of which it holds."""
        held = np.zeros(catalogue.n_items, bool)
        for part in self.parts:
            held |= part.mask(catalogue)
        return held

    def holds(self, row: Row) -> bool:
        """Whether it holds of an item as `Catalogue.fields` gives it."""
        return any(part.holds(row) for part in self.parts)


@dataclass(frozen=True)
class Neither:
    """The part does not hold."""

    part: "Filter"

    def mask(self, catalogue: Catalogue) -> Bools:
        """bool[N]: items of which it holds."""
        return ~self.part.mask(catalogue)

    def holds(self, row: Row) -> bool:
        """Whether it holds of an item as `Catalogue.fields` gives it."""
        return not self.part.holds(row)


Filter = Condition | Every | Either | Neither


def allowed_by(
    catalogue: Catalogue, filters: Mapping[str, object], where: str = "filters"
) -> Bools:
    """bool[N]: items that meet every filter; `where` is how the caller calls the field.

    Raises:
        UsageError: see `parse`.
    """
    return parse(filters, columns_of(catalogue.attribute_kinds), where).mask(catalogue)


def parse(
    filters: Mapping[str, object], columns: Mapping[str, str], where: str = "filters"
) -> Filter:
    """A filter as it is written, read.

    Args:
        filters: decoded JSON.
        columns: column → its kind, from `columns_of`.
        where: how the caller calls the field; errors begin with it.

    Raises:
        UsageError: a column that items do not have, a comparison that the column does not take, or a
            value of another type; it says where, and lists what there is.
    """
    return _Reader(columns).filter(filters, where, DEEPEST)


class _Reader:
    """Reads one expression, and counts its conditions."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self._left = MOST_CONDITIONS

    def filter(self, given: object, where: str, depth: int) -> Filter:
        """An object of columns, `and`, `or` and `not`."""
        if not isinstance(given, Mapping):
            raise _wrong("a filter is an object", where, given, 'an object, {"category": "a"}')
        if len(given) > MOST_KEYS:
            raise _wrong("the filter has too many keys", where, len(given), f"at most {MOST_KEYS}")
        parts = [self._part(str(key), value, where, depth) for key, value in given.items()]
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _part(self, key: str, value: object, where: str, depth: int) -> Filter:
        here = f"{where}.{key[:NAME_LENGTH]}"
        if key not in (AND, OR, NOT):
            return self._column(key, value, here)
        if not depth:
            expected = f"at most {DEEPEST} filters within one another"
            raise _wrong("the filters stand too deep in one another", here, key, expected)
        if key == NOT:
            return Neither(self.filter(value, here, depth - 1))
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST_KEYS:
            raise _wrong(f"`{key}` takes filters", here, value, f"a list of 1 to {MOST_KEYS}")
        parts = [self.filter(one, f"{here}[{n}]", depth - 1) for n, one in enumerate(value)]
        return Every(tuple(parts)) if key == AND else Either(tuple(parts))

    def _column(self, column: str, value: object, where: str) -> Filter:
        kind = self._columns.get(column)
        if kind is None:
            raise UsageError(
                "the filter names a column that items do not have",
                where=where,
                found=column[:NAME_LENGTH],
                expected="one of " + ", ".join([*self._columns, AND, OR, NOT]),
            )
        if not isinstance(value, Mapping):
            return self._compared(column, kind, _EQUAL, value, where)
        known = COMPARISONS[kind]
        if not value:
            raise _wrong(f"`{column}` is compared with nothing", where, "{}", _one_of(known))
        for name in value:
            if name not in known:
                what = f"`{column}` is {_SAID[kind]}: it has no such comparison"
                raise _wrong(what, where, name, _one_of(known))
        parts = [
            self._compared(column, kind, str(name), one, f"{where}.{name}")
            for name, one in value.items()
        ]
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _compared(self, column: str, kind: str, name: str, value: object, where: str) -> Filter:
        self._left -= 1
        if self._left < 0:
            expected = f"at most {MOST_CONDITIONS} in a whole expression"
            raise _wrong("the filters hold too many conditions", where, "more", expected)
        if kind == MOMENT:
            if name not in ORDERED:
                what = f"`{column}` is a moment: it is compared, not equalled"
                raise _wrong(what, where, value, _one_of(COMPARISONS[kind]))
            return Condition(column, kind, name, (_moment(value, where),))
        if name in ORDERED:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _wrong(f"`{column}` is compared with a number", where, value, "a number")
            return Condition(column, kind, name, (np.float32(_plain(value, where)),))
        if isinstance(value, list | tuple | set | frozenset):
            values: Sequence[object] = list(value)
        elif name in (ANY, ALL):
            raise _wrong(f"`{name}` takes a list", where, value, "a list of words")
        else:
            values = [value]
        if len(values) > MOST_VALUES:
            raise _wrong("the list is too long", where, len(values), f"at most {MOST_VALUES}")
        of_kind = _of_kind(kind, [_plain(one, where) for one in values])
        found = Condition(column, kind, ALL if name == ALL else ANY, of_kind)
        return Neither(found) if name == NOT else found


_SAID: Final[Mapping[str, str]] = {
    TEXT: "a text",
    FLAG: "true or false",
    AMOUNT: "a number",
    WORDS: "a list of words",
    MOMENT: "a moment",
}


def _plain(value: object, where: str) -> bool | float | str:
    """A value that a column may equal."""
    if isinstance(value, str) and len(value) <= TEXT_LENGTH:
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | np.integer | np.floating) and -NUMBER <= value <= NUMBER:
        return float(value)
    expected = (
        f"a text of up to {TEXT_LENGTH} characters, a number of up to {NUMBER:g}, true or false"
    )
    raise _wrong("this is no value that items have", where, value, expected)


def _of_kind(kind: str, values: Sequence[bool | float | str]) -> tuple[Any, ...]:
    """The values as a column of a kind holds them; those of another type equal nothing.

    A number beside texts is the text that is written so: whole numbers in a table's `tags` are held as
    text.
    """
    if kind == FLAG:
        return tuple(np.float32(value) for value in values if isinstance(value, bool))
    if kind == AMOUNT:
        numbers = (value for value in values if not isinstance(value, bool | str))
        return tuple(np.float32(number) for number in numbers)
    return tuple(_written(value) for value in values if not isinstance(value, bool))


def _written(value: float | str) -> str:
    """A value as the text that a column of texts would hold for it."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _moment(value: object, where: str) -> int:
    """µs of an RFC 3339 time with a zone, or of an aware datetime."""
    try:
        return api.to_microseconds(msgspec.convert(value, api.Time))
    except msgspec.ValidationError:
        raise _wrong("this is no time", where, value, 'RFC 3339, "2026-01-31T12:00:00Z"') from None


def _wrong(what: str, where: str, found: object, expected: str) -> UsageError:
    return UsageError(what, where=where, found=str(found)[:200], expected=expected)


def _one_of(names: Sequence[str]) -> str:
    return "one of " + ", ".join(names)


def _tagged(catalogue: Catalogue, values: Sequence[str], every: bool) -> Bools:
    """bool[N]: items that have one of the tags, or every one; nothing has none of them."""
    start, stop, pool = catalogue.tag_ranges
    place = {name: code for code, name in enumerate(catalogue.tag_names)}
    wanted = [place[value] for value in dict.fromkeys(values) if value in place]
    needed = len(dict.fromkeys(values)) if every else 1
    if not wanted or len(wanted) < needed:
        return np.zeros(catalogue.n_items, bool)
    # Ranges lie anywhere in the pool, and hold each tag once: hits are counted by a running sum.
    hits = np.concatenate([[0], np.cumsum(np.isin(pool, wanted))])
    held: Bools = hits[stop] - hits[start] >= needed
    return held


# -- as JSON Schema -------------------------------------------------------------------------------

_SCALAR: Final = {
    "anyOf": [
        {"type": "boolean"},
        {"type": "number", "minimum": -NUMBER, "maximum": NUMBER},
        {"type": "string", "maxLength": TEXT_LENGTH},
    ]
}
_LIST: Final = {"type": "array", "items": _SCALAR, "maxItems": MOST_VALUES}
_VALUES: Final = {"anyOf": [*_SCALAR["anyOf"], _LIST]}
_BOUND: Final[Mapping[str, dict[str, Any]]] = {
    AMOUNT: {"type": "number", "minimum": -NUMBER, "maximum": NUMBER},
    MOMENT: {"type": "string", "format": "date-time"},
}


def schemas(columns: Mapping[str, str], name: str, ref: str) -> dict[str, dict[str, Any]]:
    """JSON Schemas by name: `name` for a whole filter, and one for each depth below it.

    Args:
        columns: column → its kind, from `columns_of`.
        name: of the first.
        ref: how schemas refer to each other, with `{name}` in it.
    """
    names = [name, *(f"{name}{depth}" for depth in range(1, DEEPEST + 1))]
    by_column = {column: _column_schema(column, kind) for column, kind in columns.items()}
    made: dict[str, dict[str, Any]] = {}
    for place, own in enumerate(names):
        properties = dict(by_column)
        if place < DEEPEST:
            below = {"$ref": ref.format(name=names[place + 1])}
            listed = {"type": "array", "items": below, "minItems": 1, "maxItems": MOST_KEYS}
            properties |= {
                AND: {**listed, "description": "Filters that must all hold."},
                OR: {**listed, "description": "Filters of which one must hold."},
                NOT: {**below, "description": "A filter that must not hold."},
            }
        made[own] = {
            "type": "object",
            "description": "Every key must hold; what is not known of an item equals nothing.",
            "properties": properties,
            "maxProperties": MOST_KEYS,
            "additionalProperties": False,
        }
    return made


def _column_schema(column: str, kind: str) -> dict[str, Any]:
    compared: dict[str, Any] = {}
    for name in COMPARISONS[kind]:
        if name in ORDERED:
            compared[name] = _BOUND[kind]
        else:
            compared[name] = _VALUES if name == NOT else _LIST
    comparisons = {
        "type": "object",
        "properties": compared,
        "minProperties": 1,
        "additionalProperties": False,
    }
    equal = [] if kind == MOMENT else _VALUES["anyOf"]
    said = f"`{column}` is {_SAID[kind]}"
    return {
        "description": f"{said}: a value, one of a list, or comparisons.",
        "anyOf": [*equal, comparisons],
    }
