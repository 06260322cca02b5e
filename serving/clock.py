"""The service's clock: strictly increasing, so that what was posted lies before what is asked next."""

import time
from collections.abc import Callable
from datetime import timedelta

from recsys.data_schemas.log_record import CLOCK_SPAN

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_us() -> int:
    """Wall clock, µs UTC."""
    return time.time_ns() // 1000


def steady_us() -> int:
    """A clock that nobody sets, µs since some moment; it goes on while the machine sleeps."""
    return time.clock_gettime_ns(_BOOT) // 1000


class Clock:
    """Microseconds UTC, never the same twice in a process.

    A `frozen` clock stands still, apart from one microsecond per call, at the latest moment it has
    observed (the end of the data); otherwise it is the wall clock. `observe` also moves it past
    what another worker stamped, so an event received there lies before the next ranking call here.

    One wrong clock must not set all others: it follows the log at most CLOCK_SPAN ahead of the wall
    clock, and the wall clock at most CLOCK_SPAN away from what a steady one says has passed. Beyond,
    `trouble` says what disagrees, and nothing is to be stamped.
    """

    def __init__(
        self,
        frozen: bool = False,
        wall: Callable[[], int] = wall_us,
        steady: Callable[[], int] = steady_us,
    ) -> None:
        self.frozen = frozen
        self._wall, self._steady = wall, steady
        self._last = self._log_stamp = self._store_ahead = self._jump = 0
        self._anchor = (wall(), steady())

    def now(self) -> int:
        """The next moment."""
        moment = 0 if self.frozen else self._checked()
        self._last = max(self._last + 1, moment)
        return self._last

    def observe(self, moment: int) -> None:
        """Never give `moment` or an earlier time again, unless it lies beyond what can be."""
        if moment <= self._checked() + CLOCK_SPAN:
            self._last = max(self._last, moment)

    def observe_log(self, last_stamp: int, store_clock: int | None) -> None:
        """Compare with the latest stamp in the log, and with the clock of its store where it has one."""
        self.observe(last_stamp)
        self._log_stamp = last_stamp
        if not self.frozen and store_clock is not None:
            self._store_ahead = self._wall() - store_clock

    @property
    def trouble(self) -> str | None:
        """Which clocks disagree by more than CLOCK_SPAN; None where they agree."""
        moment = self._checked()
        if self._jump:
            return (
                f"this machine's clock jumped by {_length(self._jump)}; set it right, or restart "
                "the service if it is right now"
            )
        if abs(self._store_ahead) > CLOCK_SPAN:
            return (
                f"this machine's clock and the log's store disagree by "
                f"{_length(self._store_ahead)}; set them right"
            )
        if self._log_stamp > moment + CLOCK_SPAN:
            return (
                f"the log's last stamp lies {_length(self._log_stamp - moment)} ahead of this "
                "machine's clock; set the clock right, or repair the stamps with "
                "`recsys log restamp -c …`"
            )
        return None

    def _checked(self) -> int:
        """The wall clock, as long as it moves with the steady one; else what that one says."""
        wall, steady = self._wall(), self._steady()
        due = self._anchor[0] + steady - self._anchor[1]
        self._jump = wall - due if abs(wall - due) > CLOCK_SPAN else 0
        if self._jump:
            return due
        self._anchor = (wall, steady)
        return wall


def _length(microseconds: int) -> str:
    return str(timedelta(minutes=round(abs(microseconds) / 60_000_000)))
