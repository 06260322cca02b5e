"""`created_at` that was not written down when an item came, but made from its events.

Shapes: N items.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from recsys.data_schemas.columns import CREATED_AT
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.leaky_columns import ITEMS, SuspectColumn
from recsys.evaluation.data_leaks.logged_data import NEVER, LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles
from recsys.evaluation.report_context import DROP, WARN
from recsys.features.on_disk import stretches
from recsys.features.ragged import sizes_of_groups

NAME: Final = "items were not dated by their events"
NEAR: Final = 0.05
"""Distance from an event, in usual gaps between an item's events, that is too near for chance; a twentieth
of the honest items lie nearer (assumed: exponential gaps)."""
MADE: Final = 0.5
"""Share of the items near an event from which the date was made of it (sound logs: 0.00; measured)."""
TOO_LATE: Final = 0.2
"""Share of the items with events before they were made that is warned of (assumed)."""
SAME: Final = 0.98
"""Rank correlation from which a column was made of the last events (the newest films: below 0.6)."""
ENOUGH: Final = 30
"""Items with two moments of events below which nothing is said (assumed)."""


def made_of_events(log: LoggedData) -> list[Finding]:
    """Whether `created_at` lies at, or a breath from, the first or the last event of the items."""
    created, (first, last, gap) = log.catalogue.created_at, events_of(log, ITEMS)
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


def dates_of_last_events(
    log: LoggedData, columns: Sequence[SuspectColumn], table: str
) -> list[tuple[SuspectColumn, str]]:
    """(column of numbers that says when an item or a user had the last event, in words)."""
    first, last, gap = events_of(log, table)
    looked = log.items_looked_at if table == ITEMS else log.users_looked_at
    told = looked[np.isfinite(gap[looked])]
    found = []
    for column in columns:
        known = told[np.isfinite(column.values[told])]
        if column.named or len(known) < 2 * ENOUGH:
            continue
        values = column.values[known]
        near = abs(_same_order(values, last[known]))
        if near >= SAME and 1 - near < (1 - abs(_same_order(values, first[known]))) / 4:
            found.append(
                (column, f"it is in the order of the last events (rank correlation {near:.3f})")
            )
    return found


def _same_order(one: Doubles, other: Doubles) -> float:
    """Spearman's rank correlation."""
    ranks = [
        np.unique(values, return_inverse=True)[1].astype(np.float64) for values in (one, other)
    ]
    if min(np.ptp(rank) for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def events_of(log: LoggedData, table: str) -> tuple[Doubles, Doubles, Doubles]:
    """(first event, last event, mean gap between events) of each item or user, µs; NaN for the gap
    where there are fewer than two moments of events."""
    events = log.events
    entity, size = (
        (events.item, events.n_items) if table == ITEMS else (events.user, events.n_users)
    )
    first = np.full(size, np.inf)
    last = np.full(size, -np.inf)
    for part in stretches(len(events)):
        np.minimum.at(first, entity[part], events.time[part])
        np.maximum.at(last, entity[part], events.time[part])
    count = sizes_of_groups(entity, size)
    several = np.isfinite(first) & (last > first)
    gap = np.full(size, np.nan)
    gap[several] = (last - first)[several] / (count[several] - 1)
    return first, last, gap
