"""Impressions off the request's path: handed over in memory, written in groups.

A crash loses at most what waits here (`capacity` records, `most_bytes`, `interval` seconds); a store
that stays away longer than the buffer lasts loses the oldest. Both are counted.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from recsys.data_schemas.columns import ITEM_IDS, USER_ID
from recsys.storage.eventlog.log import EventLog, moved_list

GROUP = 500
"""Impressions of one write."""
LIST_BYTES = 1_000
ITEM_BYTES = 150
"""What a list, and an item of it besides the letters of its id, take at most (measured: 0.9 kB, and 135
bytes)."""


class ImpressionBuffer:
    """A bounded buffer in front of `EventLog.append_impressions`; `add` never blocks.

    Args:
        log: where the groups go.
        capacity: records held at most; beyond, the oldest are dropped and counted in `lost`.
        interval: seconds between two groups.
        on_error: told of every failed write; the group stays in the buffer.
        most_bytes: memory of what is held, at most; lists may be long, and carry long contexts.
    """

    def __init__(
        self,
        log: EventLog,
        capacity: int = 20_000,
        interval: float = 0.2,
        on_error: Callable[[Exception], None] | None = None,
        most_bytes: int = 100_000_000,
    ) -> None:
        self._log, self._interval, self._on_error = log, interval, on_error
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._capacity, self._most_bytes, self._bytes = capacity, most_bytes, 0
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
            self._waiting.append(impression)
            self._bytes += _bytes(impression)
            self._drop_oldest()

    def forget_user(self, user_id: str, column: str) -> None:
        """Drop what waits for a user; `column` is the name of the user's column."""
        with self._lock:
            self._keep([shown for shown in self._waiting if shown[column] != user_id])

    def hand_over(self, source: str, target: str) -> None:
        """Let what waits for a user be another's."""
        with self._lock:
            self._keep([
                moved_list(shown, target) if shown[USER_ID] == source else shown
                for shown in self._waiting
            ])  # fmt: skip

    def _keep(self, waiting: list[Mapping[str, Any]]) -> None:
        self._waiting = deque(waiting)
        self._bytes = sum(map(_bytes, waiting))

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
            group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
            self._bytes -= sum(map(_bytes, group))
            return group

    def _give_back(self, group: list[Mapping[str, Any]]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(group))
            self._bytes += sum(map(_bytes, group))
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        while len(self._waiting) > self._capacity or self._bytes > self._most_bytes:
            self._bytes -= _bytes(self._waiting.popleft())
            self.lost += 1


def _bytes(shown: Mapping[str, Any]) -> int:
    """About as much memory as a list takes."""
    ids = shown[ITEM_IDS]
    texts = sum(len(value) for value in shown.values() if isinstance(value, str))
    return LIST_BYTES + texts + ITEM_BYTES * len(ids) + sum(map(len, ids))
