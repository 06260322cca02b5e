"""What sources said of a history, kept until something that it depends on changes.

A kept answer is used only where a fresh one would be the same to the last bit: its key holds all that the
sources read. Nothing is looked up by who asks, and nobody's answer is found by another history.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from recsys.retrieval.candidates import HistoryRecall

MOST_BYTES: Final = 64_000_000
"""Kept in one release, the latest used (assumed; some 50 kB a history, 150 where its candidates were asked
for, of ten sources that list 300 items each)."""


class KeptRecalls:
    """Readings of histories by key, the latest used, up to a number of bytes. Not safe between threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[HistoryRecall, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes, about."""
        return self._bytes

    def get(self, key: Hashable) -> HistoryRecall | None:
        """What was kept under a key, if it still is."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def keep(self, key: Hashable, read: HistoryRecall, key_bytes: int) -> None:
        """Keep a reading; what was used longest ago goes where it would be too much."""
        size = read.size + key_bytes
        self._bytes += size - self._kept.get(key, (None, 0))[1]
        self._kept[key] = read, size
        self._kept.move_to_end(key)
        while self._bytes > self._most:
            _, (_, gone) = self._kept.popitem(last=False)
            self._bytes -= gone

    def clear(self) -> None:
        """Keep nothing of what was kept."""
        self._kept.clear()
        self._bytes = 0
