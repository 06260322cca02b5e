"""Repairing stamps that a wrong clock gave: times of receipt that lie ahead of now."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.log_record import CLOCK_SPAN
from recsys.storage.eventlog.open_log import written_log
from recsys.storage.workspace import Workspace

Longs = npt.NDArray[np.int64]
OWN_TIMES = (c.TIMESTAMP, c.CREATED_AT)
"""Times of a payload, which the service's clock gives where the caller does not."""


@dataclass(frozen=True)
class Restamped:
    """What was repaired."""

    records: int
    first: int = 0
    """Position of the first of them."""
    furthest: int = 0
    """How far ahead of now the furthest stamp lay, µs."""


def restamp_log(config: RecsysConfig, now: int | None = None) -> Restamped:
    """Give records whose stamps lie ahead of now stamps that can be.

    Neighbours with wrong stamps keep the time between them and are put right behind the record
    before them, at the latest at the one after them or now. Times of their own that lie ahead of now
    move along.

    Args:
        now: µs; the wall clock when absent.
    """
    moment = time.time_ns() // 1000 if now is None else now
    with Workspace(config.workspace_path).lock(), written_log(config) as log:
        if log is None:
            return Restamped(0)
        positions, stamps = log.stamps()
        wrong = stamps > moment + CLOCK_SPAN
        if not wrong.any():
            return Restamped(0)
        repaired = right_stamps(stamps, wrong, moment)

        def moved(position: int, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            place = int(np.searchsorted(positions, position))
            by = int(repaired[place] - stamps[place])
            times = {
                name: int(payload[name]) + by
                for name in OWN_TIMES
                if (payload.get(name) or 0) > moment + CLOCK_SPAN
            }
            return int(repaired[place]), {**payload, **times}

        log.restamp([int(p) for p in positions[wrong]], moved, int(repaired.max()))
        ahead = int(stamps[wrong].max()) - moment
        return Restamped(int(wrong.sum()), int(positions[wrong][0]), ahead)


def right_stamps(stamps: Longs, wrong: npt.NDArray[np.bool_], now: int) -> Longs:
    """int64[n] stamps in the order of the log with the wrong ones replaced.

    >>> wrong = np.array([False, True, True, False])
    >>> right_stamps(np.array([10, 900, 905, 30]), wrong, 50).tolist()
    [10, 11, 16, 30]
    """
    repaired = stamps.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        run = stamps[start:stop]
        until = int(stamps[stop]) if stop < len(stamps) else now
        length = int(run.max() - run.min())
        begin = int(stamps[start - 1]) + 1 if start else until - length
        repaired[start:stop] = np.minimum(begin + run - run.min(), max(begin, until))
    return repaired
