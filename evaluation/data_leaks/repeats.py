"""Events that are there twice: once where they happened and once earlier, where they tell what comes.

Shapes: E events, K slices of the log.
"""

from typing import Final

import numpy as np

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, mean_and_error
from recsys.evaluation.report_context import REFUSE
from recsys.features.interactions import Bools

NAME: Final = "late events are not there a second time"
JUMP: Final = 0.05
"""Rise of the share of repeated events that is too sudden (sound logs: up to 0.02; measured)."""
SURE: Final = 5.0
"""Standard errors of the rise."""
LATE: Final = 0.6
"""Share of the log after which a rise is looked for: before, histories are only filling up."""


def repeated_events(log: LoggedData) -> list[Finding]:
    """Whether the share of events whose like was there before (same user, item, type) jumps."""
    if log.slices < 5:
        return [Finding.passed(NAME, "too few moments to tell")]
    repeated = _repeated(log)
    parts = [log.slice_of == s for s in range(log.slices)]
    found = [
        mean_and_error(repeated[part].astype(np.float64), log.events.user[part]) for part in parts
    ]
    share, error = (np.array(column) for column in zip(*found, strict=True))
    first = int(LATE * log.slices)
    rise = _rise(share, first)
    worst = first + int(np.argmax(rise))
    sure = rise[worst - first] / max(float(np.hypot(error[worst], error[:first].max())), 1e-9)
    if rise[worst - first] < JUMP or sure < SURE:
        return [
            Finding.passed(
                NAME, f"{share[-1]:.1%} of the last events repeat one before, rise {rise.max():.1%}"
            )
        ]
    again = int(repeated[parts[worst]].sum())
    detail = (
        f"{share[worst]:.0%} of the events in the part of the log that ends at "
        f"{(worst + 1) / log.slices:.0%} ({again:,}) repeat an earlier event of the same user, item and type; "
        f"{share[worst] - rise[worst - first]:.0%} were to be expected: were later events copied to an "
        "earlier date?"
    )
    return [Finding.failed(NAME, detail, REFUSE)]


def _repeated(log: LoggedData) -> Bools:
    """bool[E]: the same user, item and type were there at an earlier moment."""
    events = log.events
    kinds = np.int64(max(len(events.kinds), 1))
    key = (events.user.astype(np.int64) * events.n_items + events.item) * kinds + events.kind
    again = np.ones(len(events), bool)
    again[np.unique(key, return_index=True)[1]] = False
    return again


def _rise(share: Doubles, first: int) -> Doubles:
    """float64[K - first]: how far each late slice lies above every one before `first`, and above the
    straight line through their last ones (histories fill up, so repeats grow)."""
    before = share[:first]
    half = len(before) // 2
    slope, level = (
        np.polyfit(np.arange(half, first), before[half:], 1)
        if first - half > 1
        else (0.0, before[-1])
    )
    line = level + max(float(slope), 0.0) * np.arange(first, len(share))
    return np.asarray(share[first:] - np.maximum(before.max(), line))
