"""Rules of a body that its types do not tell: those of the tables, so that no night sets aside what was
answered as accepted.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from recsys.data_schemas import api
from recsys.data_schemas.limits import (
    AMOUNT,
    EVENT_TYPES,
    FLAG,
    TEXT,
    attribute_value,
    name_fault,
)
from recsys.serving import telemetry as metrics
from recsys.serving.problems import Problem
from recsys.serving.released_model import ReleasedModel

_SAID: Mapping[str, str] = {AMOUNT: "a number", FLAG: "true or false", TEXT: "a text"}


def require_times(times: Iterable[tuple[str, datetime | None]]) -> None:
    """Refuse a time before 1970; `times` are (place in the body, time).

    Raises:
        Problem: one lies before (422).
    """
    for place, time in times:
        if time is not None and api.to_microseconds(time) < 0:
            detail = f"`{place}` lies before 1970."
            raise Problem(422, detail, [(place, "before 1970")])


def times_of(rows: Iterable[Any], prefix: str) -> Iterable[tuple[str, datetime | None]]:
    """(place, time) of the rows of a list that stands at `prefix`."""
    return ((f"{prefix}[{n}].timestamp", row.timestamp) for n, row in enumerate(rows))


class EventTypes:
    """Refuses event types beyond as many as the tables take: each is a column of every counter.

    Types accepted here count at once, also where nothing was folded yet.
    """

    def __init__(self) -> None:
        self._accepted: set[str] = set()

    def require(self, model: ReleasedModel | None, events: Sequence[api.EventIn]) -> set[str]:
        """The types that nobody used before, accepted from now on.

        Raises:
            Problem: there would be too many (422); the first of them is named.
        """
        known = self._accepted.union(getattr(model, "event_types", ()))
        fresh: set[str] = set()
        for n, event in enumerate(events):
            if event.event_type in known or event.event_type in fresh:
                continue
            if len(known) + len(fresh) >= EVENT_TYPES:
                metrics.EVENTS.labels(outcome="too_many_types").inc(len(events))
                detail = (
                    f"The event type {event.event_type!r} is one too many: {EVENT_TYPES} are used."
                )
                raise Problem(422, detail, [(f"$[{n}].event_type", f"at most {EVENT_TYPES} types")])
            fresh.add(event.event_type)
        self._accepted |= fresh
        return fresh

    def give_back(self, types: set[str]) -> None:
        """Types whose events were not accepted after all."""
        self._accepted -= types


def require_attributes(model: ReleasedModel, attributes: Mapping[str, Any]) -> None:
    """Refuse attributes that no table could hold, and those of another type than the other items'.

    Raises:
        Problem: one is (422); it is named.
    """
    kinds = _kinds(model)
    for name, value in attributes.items():
        place = f"$.attributes.{name}"
        fault = name_fault(name)
        if fault is not None:
            raise Problem(422, f"{name!r} cannot be an attribute: {fault}.", [(place, fault)])
        kind = kinds.get(name)
        if kind is not None and attribute_value(kind, value) is None:
            detail = f"The attribute {name!r} is {_SAID[kind]} in the other items, not {value!r}."
            raise Problem(422, detail[:500], [(place, f"expected {_SAID[kind]}")])


def known_attributes(model: ReleasedModel, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an inline item of one request without those of another type: unknown, for this
    item alone."""
    kinds = _kinds(model)
    return {
        name: value
        for name, value in attributes.items()
        if name not in kinds or attribute_value(kinds[name], value) is not None
    }


def _kinds(model: ReleasedModel) -> Mapping[str, str]:
    """Kind of each attribute by name; none of a model that does not tell."""
    kinds: Mapping[str, str] = getattr(model, "attribute_kinds", {})
    return kinds
