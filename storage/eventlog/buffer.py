"""Impressions off the request's path: handed over in memory, written in groups.

A crash loses at most what waits here (`capacity` records, `interval` seconds); a store that stays
away longer than the buffer lasts loses the oldest. Both are counted.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from recsys.storage.eventlog.log import EventLog

GROUP = 500
"""Impressions of one write."""


class ImpressionBuffer:
    """A bounded buffer in front of `EventLog.append_impressions`; `add` never blocks.

    Args:
        log: where the groups go.
        capacity: records held at most; beyond, the oldest are dropped and counted in `lost`.
        interval: seconds between two groups.
        on_error: told of every failed write; the group stays in the buffer.
    """

    def __init__(
        self,
        log: EventLog,
        capacity: int = 20_000,
        interval: float = 0.2,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self._log, self._interval, self._on_error = log, interval, on_error
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._capacity = capacity
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.lost = 0
        """Impressions dropped since the start."""
        self.written = 0
        """Impressions durable since the start."""
        self._thread = threading.Thread(target=self._loop, name="impressions", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, impression: Mapping[str, Any]) -> None:
        """Hand over one impression; it is written within about `interval` seconds."""
        with self._lock:
            if len(self._waiting) >= self._capacity:
                self._waiting.popleft()
                self.lost += 1
            self._waiting.append(impression)

    def forget_user(self, user_id: str, column: str) -> None:
        """Drop what waits for a user; `column` is the name of the user's column."""
        with self._lock:
            kept = [shown for shown in self._waiting if shown[column] != user_id]
            self._waiting.clear()
            self._waiting.extend(kept)

    def flush(self) -> None:
        """Write what waits now; what cannot be written stays."""
        while group := self._take():
            try:
                self._log.append_impressions(group)
            except Exception as error:
                self._give_back(group)
                if self._on_error is not None:
                    self._on_error(error)
                return
            self.written += len(group)

    def close(self) -> None:
        """Write what waits and stop; what cannot be written is counted as lost."""
        self._stop.set()
        self._thread.join()
        self.flush()
        self.lost += len(self._waiting)
        self._waiting.clear()

    def _loop(self) -> None:
        while not self._stop.wait(self._interval):
            self.flush()

    def _take(self) -> list[Mapping[str, Any]]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]

    def _give_back(self, group: list[Mapping[str, Any]]) -> None:
        with self._lock:
            room = self._capacity - len(self._waiting)
            self.lost += max(0, len(group) - room)
            self._waiting.extendleft(reversed(group[max(0, len(group) - room) :]))
