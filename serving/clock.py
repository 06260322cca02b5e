"""The service's clock: strictly increasing, so that what was posted lies before what is asked next."""

import time


class Clock:
    """Microseconds UTC, never the same twice in a process.

    A `frozen` clock stands still, apart from one microsecond per call, at the latest moment it has
    observed (the end of the data); otherwise it is the wall clock. `observe` also moves it past
    what another worker stamped, so an event received there lies before the next ranking call here.
    """

    def __init__(self, frozen: bool = False) -> None:
        self.frozen = frozen
        self._last = 0

    def now(self) -> int:
        """The next moment."""
        wall = 0 if self.frozen else time.time_ns() // 1000
        self._last = max(self._last + 1, wall)
        return self._last

    def observe(self, moment: int) -> None:
        """Never give `moment` or an earlier time again."""
        self._last = max(self._last, moment)
