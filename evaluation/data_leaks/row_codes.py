"""Marks of an event that tell its grade: its id, the second it is dated at, its place among events of one
moment. No feature reads them, so a finding warns: whoever wrote the log knew the grades, and nothing else of
it can be trusted unseen.

Shapes: E events.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.columns import EVENT_ID, TIMESTAMP
from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.leaky_columns import last_numbers
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, codes_of, mean_of_others, separation
from recsys.evaluation.report_context import WARN
from recsys.features.future_check import group_auc
from recsys.features.interactions import SECOND, Bools, Longs
from recsys.features.on_disk import stretches, taken
from recsys.features.ragged import first_of_runs, sizes_of_groups

NAME: Final = "nothing but what happened tells an event's grade"
MOST_EVENTS: Final = 100_000
"""Events looked at, drawn by hash of their user where there are more."""
TELLS: Final = 0.65
"""AUC from which a mark tells the grade (sound logs: up to 0.53; measured)."""
BANDS: Final = 100
"""Bands of an id's number. The time of the event is cut likewise: an id may say no more than that."""
FIRST_IN_MOMENT: Final = 0.85
MOMENTS: Final = 50
"""Pairs of one moment, in hundreds, from which the order among them is judged."""
PERIODS: Final = {
    "minute": (60 * SECOND, 60),
    "second": (SECOND, 60),
    "parity of the second": (SECOND, 2),
    "hundredth of a second": (SECOND // 100, 100),
    "microsecond": (1, 1000),
}
"""Part of a time → its unit (µs), and how many there are of it."""


def marks_of_events(log: LoggedData) -> list[Finding]:
    """Every mark that tells positive events from the others."""
    if not log.graded:
        return [Finding.passed(NAME, "all events are graded alike, so no mark can tell them apart")]
    rows = _rows(log)
    label = log.positive[rows]
    usual = _told_by(codes_of(log.events.time[rows].astype(np.float64), BANDS), label)
    found = []
    best = 0.5
    for mark, code in _marks(log, rows):
        told = _told_by(code, label)
        best = max(best, told)
        if told >= TELLS and told - max(usual, 0.5) >= 0.1:
            detail = f"{mark} tells which of {len(rows):,} events are positive (AUC {told:.2f}); nothing reads it"
            found.append(Finding.failed(NAME, detail, WARN))
    order = _order_in_moments(log)
    if order is not None:
        found.append(Finding.failed(NAME, order, WARN))
    return found or [
        Finding.passed(NAME, f"AUC of ids and seconds at most {best:.2f}; 0.5 is chance")
    ]


def _rows(log: LoggedData) -> Longs:
    count = len(log.events)
    if count <= MOST_EVENTS:
        return np.arange(count)
    kept = log.chance_of_users("marks") < MOST_EVENTS / count
    return np.flatnonzero(taken(kept, log.events.user))


def _told_by(code: npt.NDArray[np.integer], label: Bools) -> float:
    """AUC of a code's mean grade among the other events."""
    y = label.astype(np.float64)
    return separation(mean_of_others(code, y, y.mean()), label)


def _marks(log: LoggedData, rows: Longs) -> Iterator[tuple[str, Longs]]:
    """(mark in words, its code for each row)."""
    if log.dated:
        time = log.events.time[rows]
        for name, (unit, count) in PERIODS.items():
            yield f"the {name} of {TIMESTAMP}", time // unit % count
    if log.event_ids is None:
        return
    ids = log.event_ids(rows)
    yield f"the length of {EVENT_ID}", np.array([len(name) for name in ids], np.int64)
    for place, word in ((-1, "last"), (-2, "last but one"), (0, "first")):
        letters = np.array([name[place] if len(name) > 1 else "" for name in ids])
        yield f"the {word} letter of {EVENT_ID}", np.unique(letters, return_inverse=True)[1]
    number = last_numbers(ids)
    yield f"the number in {EVENT_ID}", codes_of(number, BANDS)
    yield f"the parity of the number in {EVENT_ID}", _parity(number)


def _parity(number: Doubles) -> Longs:
    return np.where(np.isfinite(number), np.nan_to_num(number) % 2, 2).astype(np.int64)


def _order_in_moments(log: LoggedData) -> str | None:
    """The order of events of one moment in words, where it puts positive ones first (or last, among
    events of one type: a log may well write a view before the click it led to)."""
    graded_alike = _same_type_only(log)
    rows = _rows_of_shared_moments(log.events.time)
    if not len(rows):
        return None
    place, label = first_of_runs(log.events.time[rows]).cumsum() - 1, log.positive[rows]
    ones, size = np.bincount(place, label), np.bincount(place)
    pairs = float((ones * (size - ones)).sum())
    if pairs < 100 * MOMENTS or ((ones > 0) & (ones < size)).sum() < MOMENTS:
        return None
    first = group_auc(-np.arange(len(rows), dtype=np.float64), label, place)
    if first >= FIRST_IN_MOMENT or (graded_alike and first <= 1 - FIRST_IN_MOMENT):
        where = "before" if first > 0.5 else "after"
        return (
            f"among events of one moment, {max(first, 1 - first):.0%} of the pairs of a positive event and "
            f"another have the positive one {where} it: was the file sorted by grade?"
        )
    return None


def _rows_of_shared_moments(time: Longs) -> Longs:
    """int64[n]: events, the first `MOST_EVENTS`, dated as the one before or behind. `time` ascends."""
    found: list[Longs] = []
    for part in stretches(len(time)):
        low = max(part.start - 1, 0)
        begins = first_of_runs(time[low : part.stop + 1])
        shared = ~begins
        shared[:-1] |= ~begins[1:]
        found.append(
            part.start + np.flatnonzero(shared[part.start - low :][: part.stop - part.start])
        )
        if sum(map(len, found)) >= MOST_EVENTS:
            break
    return np.concatenate([np.empty(0, np.int64), *found])[:MOST_EVENTS]


def _same_type_only(log: LoggedData) -> bool:
    """Whether grades differ within event types, and not only between them."""
    events = log.events
    total = sizes_of_groups(events.kind, len(events.kinds))
    ones = sizes_of_groups(taken(events.kind, log.positive), len(events.kinds))
    return bool(((ones > 0.05 * total) & (ones < 0.95 * total)).any())
