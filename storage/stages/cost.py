"""What a stage costs: seconds, peak memory of this process and its children, bytes written."""

import contextlib
import ctypes
import os
import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

import psutil

SAMPLE_SECONDS = 0.05
CHILDREN_EVERY = 20
"""Samples between two looks at the children: reading the process table costs milliseconds."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Context manager that measures its block; `seconds` and `peak_mb` are set at its end."""

    seconds = 0.0
    own_seconds = 0.0
    """Without what is measured by others inside; set by whoever knows of them."""
    peak_mb = 0.0

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._peak = 0
        self._me = psutil.Process()

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._sample, name="stage-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.seconds = time.perf_counter() - self._began
        self.peak_mb = self._peak / 1e6

    def _sample(self) -> None:
        children, count = 0, 0
        while True:
            if count % CHILDREN_EVERY == 0:
                children = self._children()
            self._peak = max(self._peak, _own_bytes(self._me) + children)
            count += 1
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def _children(self) -> int:
        total = 0
        with contextlib.suppress(psutil.Error):
            for child in self._me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
        return total


def give_memory_back() -> bool:
    """Let the system have pages of what was freed; whether the C library here has a call for it.

    glibc keeps what lies below anything still in use. After the look for leaks over 6 million events it kept
    300 MB, which each later stage would hold besides its own.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    trim(ctypes.c_size_t(0))
    return True


def processor_seconds() -> float:
    """Seconds of processor time that this process and its children, those that ended, have used."""
    return sum(os.times()[:4])


class MachineTime(NamedTuple):
    """Seconds of all processors of the machine since it started."""

    busy: float
    whole: float


def machine_time() -> MachineTime:
    """What the machine's processors have done until now, for whomever."""
    times = psutil.cpu_times()
    # guests' time is counted within the user's
    whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return MachineTime(whole - times.idle - getattr(times, "iowait", 0.0), whole)


def others_share(since: MachineTime, own: float) -> float:
    """Share of the machine's processors that others have used since then, beside `own` seconds."""
    now = machine_time()
    whole = now.whole - since.whole
    return min(1.0, max(0.0, (now.busy - since.busy - own) / whole)) if whole > 0 else 0.0


def _own_bytes(process: psutil.Process) -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return int(process.memory_info().rss)
