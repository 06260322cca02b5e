"""How far a shadow's lists differ from those that were shown: counters, and a line a minute."""

import time
from collections.abc import Sequence

from recsys.serving import telemetry as metrics
from recsys.serving.logs import log

HEAD = 10
"""First items of a list that are compared."""
EVERY_SECONDS = 60.0


class Differences:
    """Differences between answers and a shadow's, gathered and logged without ids.

    Args:
        version: the shadow's; named in the log.
    """

    def __init__(self, version: str | None) -> None:
        self._version = version
        self._since = time.monotonic()
        self._lists = self._same_first = 0
        self._overlap = self._moved = self._seconds = 0.0

    def add(self, shown: Sequence[str], other: Sequence[str], seconds: float) -> None:
        """One list as shown, the same question answered by the shadow, and how long that took."""
        same = overlap(shown, other)
        metrics.SHADOW.observe(same)
        metrics.SHADOW_SECONDS.observe(seconds)
        self._lists += 1
        self._same_first += shown[:1] == other[:1]
        self._overlap += same
        self._moved += displacement(shown, other)
        self._seconds += seconds
        if time.monotonic() - self._since >= EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        """Log the means since the last line, and begin anew."""
        if self._lists:
            n = self._lists
            log(
                "info",
                "shadow",
                version=self._version,
                lists=n,
                overlap=round(self._overlap / n, 4),
                same_first=round(self._same_first / n, 4),
                places_moved=round(self._moved / n, 3),
                ms=round(self._seconds / n * 1e3, 2),
            )
        self.__init__(self._version)  # type: ignore[misc]


def overlap(shown: Sequence[str], other: Sequence[str]) -> float:
    """Share of the first items of a list that are among the first of the other."""
    first = set(shown[:HEAD])
    return len(first & set(other[:HEAD])) / len(first)


def displacement(shown: Sequence[str], other: Sequence[str]) -> float:
    """Mean number of places by which the first items stand elsewhere in the other list; one that is
    not in it counts as just behind its end."""
    place = {item: n for n, item in enumerate(other)}
    head = shown[:HEAD]
    return sum(abs(n - place.get(item, len(other))) for n, item in enumerate(head)) / len(head)
