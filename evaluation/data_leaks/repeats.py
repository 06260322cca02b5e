"""Events that are there twice: once where they happened and once earlier, where they tell what comes.

Shapes: E events, K slices of the log.
"""

from typing import Final

import numpy as np

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, mean_and_error, owners_of
from recsys.evaluation.report_context import REFUSE
from recsys.features.interactions import Bools

NAME: Final = "late events are not there a second time"
JUMP: Final = 0.06
"""Rise of the share of repeated events within two slices that is too sudden (sound logs: up to 0.03;
measured)."""
SURE: Final = 3.5
"""Standard errors of the rise."""
PEOPLE: Final = 8
"""Users in every slice of the later half, at least (assumed)."""
LATE: Final = 0.6
"""Share of the log after which a rise is looked for: before, histories are only filling up."""


def repeated_events(log: LoggedData) -> list[Finding]:
    """Whether the share of events whose like was there before (same user, item, type) jumps."""
    log = log.of_some_users
    if log.slices < 5:
        return [Finding.passed(NAME, "too few moments to tell")]
    repeated = _repeated(log)
    parts = [log.slice_of == s for s in range(log.slices)]
    found = [
        mean_and_error(repeated[part].astype(np.float64), log.events.user[part]) for part in parts
    ]
    if owners_of(log.events.user, log.slice_of, log.slices)[log.slices // 2 :].min() < PEOPLE:
        return [Finding.passed(NAME, "too few users at a time to tell")]
    share, error = (np.array(column) for column in zip(*found, strict=True))
    first = max(int(LATE * log.slices), 3)
    rise, sure = _rises(share, error, first)
    worst = int(np.argmax(np.where(sure >= SURE, rise, -1.0)))
    if rise[worst] < JUMP or sure[worst] < SURE:
        detail = (
            f"{share[-1]:.1%} of the last events repeat one before, rise at most {rise.max():.1%}"
        )
        return [Finding.passed(NAME, detail)]
    place = first + worst
    detail = (
        f"{share[place]:.0%} of the events from {place / log.slices:.0%} to {(place + 1) / log.slices:.0%} of "
        f"the log ({int(repeated[parts[place]].sum()):,}) repeat an earlier event of the same user, item and "
        f"type, at most {share[place] - rise[worst]:.0%} before: were later events copied to an earlier date?"
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


def _rises(share: Doubles, error: Doubles, first: int) -> tuple[Doubles, Doubles]:
    """(how far each slice from `first` on lies above every one before it but the last, which may hold
    part of the rise; the same in standard errors), both float64[K - first]."""
    rise, sure = [], []
    for place in range(first, len(share)):
        highest = int(np.argmax(share[: place - 1]))
        rise.append(share[place] - share[highest])
        sure.append(rise[-1] / max(float(np.hypot(error[place], error[highest])), 1e-9))
    return np.array(rise), np.array(sure)
