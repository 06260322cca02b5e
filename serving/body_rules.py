"""Rules of a body that its types do not tell: those of the tables, so that no night sets aside what was
answered as accepted.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET

from recsys.data_schemas import api
from recsys.data_schemas.limits import (
    AMOUNT,
    EVENT_TYPES,
    FLAG,
    TEXT,
    kind_of,
    name_fault,
)
from recsys.serving import telemetry as metrics
from recsys.serving.problems import Problem
from recsys.serving.released_model import ReleasedModel

_SAID: Mapping[str, str] = {AMOUNT: "a number", FLAG: "true or false", TEXT: "a text"}


def session_user(session_id: str) -> str:
    """The user as which a visit is kept."""
    return api.SESSION + session_id


def person_of(asked: api.RankRequest | api.RecommendRequest) -> tuple[str, str]:
    """(user, further user whose events count, or ""): the visit stands for a person who is not
    named, and beside one who is; without either it is a visit that nobody has made before."""
    session = session_user(asked.session_id) if asked.session_id is not None else ""
    if asked.user_id is not None:
        return asked.user_id, session
    return session or session_user(os.urandom(16).hex()), ""


def doer_of(done: api.EventIn | api.ImpressionIn) -> str:
    """The user of an event or a shown list: the one that is named, or the visit.

    Raises:
        Problem: neither is given (422).
    """
    if done.user_id is not UNSET:
        return done.user_id
    if done.session_id is UNSET:
        detail = "Whose it is is missing: give `user_id`, or `session_id` for a visit."
        raise Problem(422, detail, [("$.user_id", "missing")])
    return session_user(done.session_id)


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
        known = self._accepted.union(() if model is None else model.event_types)
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


def require_attributes(
    kinds: dict[str, str],
    attributes: Mapping[str, Any],
    others: str = "items",
    where: str = "$",
) -> None:
    """Refuse attributes that no table could hold, and those of another type than the others'.

    Args:
        kinds: kind of each attribute that is known, by name; those of new ones are added.
        attributes: given ones.
        others: whose they are, `items` or `users`.
        where: place in the call of what has them.

    Raises:
        Problem: one is (422); it is named.
    """
    for name, value in attributes.items():
        place = f"{where}.attributes.{name}"
        fault = name_fault(name)
        if fault is not None:
            raise Problem(422, f"{name!r} cannot be an attribute: {fault}.", [(place, fault)])
        kind = kinds.setdefault(name, kind_of(value))
        if kind_of(value) != kind:
            detail = (
                f"The attribute {name!r} is {_SAID[kind]} in the other {others}, not {value!r}."
            )
            raise Problem(422, detail[:500], [(place, f"expected {_SAID[kind]}")])


def known_attributes(model: ReleasedModel, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an inline item of one request without those of another type: unknown, for this
    item alone."""
    kinds = model.attribute_kinds
    return {
        name: value
        for name, value in attributes.items()
        if name not in kinds or (value is not None and kind_of(value) == kinds[name])
    }


def require_vector(
    model: ReleasedModel, item_id: str, vector: Sequence[float] | None, where: str
) -> None:
    """Refuse a vector of another length than the other items'. That its numbers are finite and how many
    there may be at most is told by its type.

    Raises:
        Problem: it has not as many numbers (422).
    """
    length = model.vector_length
    if vector is not None and length and len(vector) != length:
        detail = (
            f"The vector of item {item_id!r} has {len(vector)} numbers; those of the other items"
            f" have {length}."
        )
        raise Problem(422, detail[:2000], [(where, f"expected {length} numbers")])
