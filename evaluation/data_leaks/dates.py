"""`created_at` that was not written down when an item came, but made from its events.

Shapes: N items.
"""

from typing import Final

import numpy as np

from recsys.data_schemas.columns import CREATED_AT
from recsys.evaluation.data_leaks.columns import ITEMS
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import NEVER, LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles
from recsys.evaluation.report_context import DROP, WARN

NAME: Final = "items were not dated by their events"
NEAR: Final = 0.05
"""Distance from an event, in usual gaps between an item's events, that is too near for chance; a twentieth
of the honest items lie nearer (assumed: exponential gaps)."""
MADE: Final = 0.5
"""Share of the items near an event from which the date was made of it (sound logs: 0.00; measured)."""
TOO_LATE: Final = 0.2
"""Share of the items with events before they were made that is warned of (assumed)."""
ENOUGH: Final = 30
"""Items with two moments of events below which nothing is said (assumed)."""


def made_of_events(log: LoggedData) -> list[Finding]:
    """Whether `created_at` lies at, or a breath from, the first or the last event of the items."""
    created, (first, last, gap) = log.catalogue.created_at, _events_of_items(log)
    told = (created != NEVER) & np.isfinite(gap)
    if not log.dated or int(told.sum()) < ENOUGH:
        return [Finding.passed(NAME, f"{int(told.sum()):,} items with a date and two events")]
    found = []
    for which, moment in (("first", first), ("last", last)):
        near = np.abs(created[told] - moment[told]) <= NEAR * gap[told]
        if near.mean() >= MADE:
            detail = (
                f"{CREATED_AT} of {near.mean():.0%} of {len(near):,} items is their {which} event: it is "
                "left out, with the features of age"
            )
            found.append(
                Finding.failed(NAME, detail, DROP)._replace(table=ITEMS, column=CREATED_AT)
            )
    late = float((created[told] > first[told]).mean())
    if late >= TOO_LATE and not found:
        detail = (
            f"{late:.0%} of {int(told.sum()):,} items have events before their {CREATED_AT}: was it "
            "written anew since, or are the events misdated?"
        )
        found.append(Finding.failed("items have no events before they are made", detail, WARN))
    return found or [Finding.passed(NAME, f"{int(told.sum()):,} items")]


def _events_of_items(log: LoggedData) -> tuple[Doubles, Doubles, Doubles]:
    """(first event, last event, mean gap between events) of each item, µs; NaN for the gap of an item
    with fewer than two moments of events."""
    events = log.events
    first = np.full(events.n_items, np.inf)
    last = np.full(events.n_items, -np.inf)
    np.minimum.at(first, events.item, events.time)
    np.maximum.at(last, events.item, events.time)
    count = np.bincount(events.item, minlength=events.n_items)
    several = np.isfinite(first) & (last > first)
    gap = np.full(events.n_items, np.nan)
    gap[several] = (last - first)[several] / (count[several] - 1)
    return first, last, gap
