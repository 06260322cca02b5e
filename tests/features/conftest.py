"""Small worlds of events, made by hand or at random, and slow readings to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_schemas.columns import (
    AVAILABLE,
    CATEGORY,
    CREATED_AT,
    DESCRIPTION,
    ITEM_ID,
    TAGS,
    TITLE,
)
from data_schemas.meaning import DEFAULT_TYPES, EventMeaning
from features.catalogue import Catalogue
from features.interactions import DAY, HOUR, Interactions

START = 19_000 * DAY
KINDS = ("view", "click", "purchase")


def item_table(n: int) -> pa.Table:
    """n items; every third without category, every fourth without tags or creation time."""
    created = [None if i % 4 == 3 else START - i * DAY for i in range(n)]
    return pa.table(
        {
            ITEM_ID: [f"item-{i}" for i in range(n)],
            TITLE: [f"Title {i}" for i in range(n)],
            DESCRIPTION: [f"About {i}" if i % 2 else None for i in range(n)],
            TAGS: [[] if i % 4 == 3 else [f"tag{i % 3}", f"tag{i % 5}", "all"] for i in range(n)],
            CATEGORY: [None if i % 3 == 2 else f"category{i % 2}" for i in range(n)],
            CREATED_AT: pa.array(created, pa.timestamp("us", "UTC")),
            AVAILABLE: [i % 7 != 6 for i in range(n)],
            "price": [None if i % 5 == 4 else i * 1.5 for i in range(n)],
            "colour": [("red", "blue", None)[i % 3] for i in range(n)],
        }
    )


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.from_table(item_table(12))


@dataclass(frozen=True)
class Event:
    """One event of a stream, in words."""

    user: int
    item: int
    kind: int
    time: int
    value: float = float("nan")


def interactions(
    events: Sequence[Event], n_items: int, n_users: int, positions: Sequence[int] | None = None
) -> Interactions:
    """Events in canonical order; their place in the sequence is their log position."""
    position = np.array(range(len(events)) if positions is None else positions, np.int64)
    time = np.array([e.time for e in events], np.int64)
    order = np.lexsort((position, time))
    kind = np.array([e.kind for e in events], np.int16)[order]
    value = np.array([e.value for e in events], np.float32)[order]
    weight, grade = EventMeaning(DEFAULT_TYPES).of(KINDS, kind, value)
    return Interactions(
        np.array([e.user for e in events], np.int32)[order],
        np.array([e.item for e in events], np.int32)[order],
        kind,
        time[order],
        value,
        weight,
        grade,
        position[order],
        np.array([f"user-{u}" for u in range(n_users)], object),
        KINDS,
        n_items,
    )


def random_events(rng: np.random.Generator, n: int, n_users: int, n_items: int) -> list[Event]:
    """n events over ten days, several in one microsecond, out of order."""
    times = START + rng.integers(0, 10 * DAY // HOUR * 4, n) * (HOUR // 4)
    return [
        Event(
            int(rng.integers(n_users)),
            int(rng.integers(n_items)),
            int(rng.integers(len(KINDS))),
            int(t),
            float(rng.choice([np.nan, 1.0, 3.0, 4.5])),
        )
        for t in times
    ]


def record(position: int, event: Event) -> tuple[int, str, dict[str, Any], int]:
    """The event as a record of the log."""
    payload: dict[str, Any] = {
        "user_id": f"user-{event.user}",
        "item_id": f"item-{event.item}",
        "event_type": KINDS[event.kind],
        "timestamp": event.time,
    }
    if not np.isnan(event.value):
        payload["value"] = event.value
    return position, "event", payload, event.time
