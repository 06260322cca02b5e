"""Columns of items that go out with a list, so that a page need not ask for each item."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from recsys.data_schemas import columns as c
from recsys.data_schemas.api import to_microseconds, to_time
from recsys.serving.problems import Problem
from recsys.serving.released_model import ReleasedModel

STANDARD = tuple(name for name in c.ITEM_STANDARD if name != c.ITEM_ID)
"""Columns that every item has; its attributes come beside them."""
Row = Mapping[str, Any]


def known_fields(model: ReleasedModel) -> list[str]:
    """Names of the columns that can be asked for."""
    return [*STANDARD, *model.attribute_kinds]


def require_fields(asked: Sequence[str], model: ReleasedModel) -> None:
    """Refuse columns that items do not have.

    Raises:
        Problem: one is unknown (422); it lists those that are there.
    """
    known = known_fields(model) if asked else []
    for place, name in enumerate(asked):
        if name not in known:
            detail = f"Items have no column {name!r}; they have: {', '.join(known)}."
            raise Problem(422, detail[:2000], [(f"$.fields[{place}]", "unknown")])


def fields_of(
    model: ReleasedModel, item_id: str, asked: Sequence[str], given: Mapping[str, Row] | None = None
) -> dict[str, Any]:
    """The columns asked for of one item, null where nothing is known; of an item that nobody knows, as
    it was `given` with the request."""
    row = model.item(item_id) or (given or {}).get(item_id, {})
    return {name: plain(row.get(name)) for name in asked}


def plain(value: Any) -> Any:
    """A value as JSON has it; moments as RFC 3339."""
    return iso(value) if isinstance(value, datetime) else value


def iso(moment: int | datetime) -> str:
    """RFC 3339; times beyond the calendar's years are given at its edge."""
    microseconds = to_microseconds(moment) if isinstance(moment, datetime) else int(moment)
    try:
        return to_time(microseconds).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return "9999-12-31T23:59:59Z" if microseconds > 0 else "0001-01-01T00:00:00Z"
