"""What long work says: a moving line on a terminal, plain dated lines in a log.

One object is handed down to everything that takes long; nothing else prints.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from recsys.data_schemas.addresses import redacted

LOG_EVERY = 15.0
"""Seconds between two lines of one task in a log (assumed: a night makes a readable page)."""
TERMINAL_EVERY = 0.1
CLOCK_EVERY = 1.0
"""Seconds between two steps of the clock of work that says nothing itself."""
CELLS = 20
"""Width of a bar."""
EIGHTHS = " ▏▎▍▌▋▊▉"


class Reporter:
    """Says lines, warnings and progress.

    Args:
        stream: where to write; standard error when absent, so that standard output holds results.
        quiet: only warnings are written.
        moving: whether lines may be written over, as on a terminal and in a notebook; as the stream
            says when None.
        as_json: each line is a JSON document `{time, level, message, …}`, for a log that programs read.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        quiet: bool = False,
        moving: bool | None = None,
        as_json: bool = False,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        terminal = bool(getattr(self._stream, "isatty", lambda: False)())
        self._terminal = (terminal if moving is None else moving) and not as_json
        self._json = as_json
        self._moving = 0
        self._moved = 0.0
        self._lock = threading.Lock()
        self.warnings: list[str] = []
        """Every warning said, for the report."""

    def say(self, text: str) -> None:
        """One line."""
        if not self._quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """One line that is also kept for the report."""
        self.warnings.append(redacted(text))
        if self._json:
            self._line(text, level="warning")
        else:
            self._line(f"warning: {text}")

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator["Task"]:
        """Progress of one piece of work; `total` in units of the caller's."""
        task = Task(self, label, total)
        try:
            yield task
        finally:
            self._clear()

    @contextmanager
    def working(self, label: str) -> Iterator[None]:
        """On a terminal and in a notebook, a clock beside the label while the work inside says nothing;
        elsewhere nothing."""
        if self._quiet or not self._terminal:
            yield
            return
        over, began = threading.Event(), time.monotonic()

        def tick() -> None:
            while not over.wait(CLOCK_EVERY):
                now = time.monotonic()
                if now - self._moved >= CLOCK_EVERY:
                    self._moment(f"{label}: {lasted(now - began)}", {})

        clock = threading.Thread(target=tick, name="recsys-clock", daemon=True)
        clock.start()
        try:
            yield
        finally:
            over.set()
            clock.join()
            self._clear()

    def _moment(self, text: str, facts: dict[str, Any]) -> None:
        """The moving line of a terminal, or a dated line of a log with the facts of a task."""
        if self._quiet:
            return
        if not self._terminal:
            self._line(text, **facts)
            return
        # A line that wraps could not be written over.
        text = text[: max(20, shutil.get_terminal_size().columns - 1)]
        with self._lock:
            padding = " " * max(0, self._moving - len(text))
            self._moving, self._moved = len(text), time.monotonic()
            self._write(f"\r{text}{padding}")

    def _line(self, text: str, level: str = "info", **facts: Any) -> None:
        self._clear()
        if self._json:
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            line = {"time": at, "level": level, "message": redacted(text), **facts}
            with self._lock:
                self._write(json.dumps(line, ensure_ascii=False) + "\n")
            return
        stamp = "" if self._terminal else f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z "
        with self._lock:
            self._write(f"{stamp}{text}\n")

    def _clear(self) -> None:
        with self._lock:
            if self._moving:
                self._write("\r" + " " * self._moving + "\r")
                self._moving = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(redacted(text))
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            # Whoever read the log went away; the work itself goes on.
            self._quiet = True


class Task:
    """One piece of work under way."""

    def __init__(self, reporter: Reporter, label: str, total: int | None) -> None:
        self._reporter = reporter
        self._label = label
        self._total = total
        self._done = 0
        self._began = self._said = time.monotonic()
        self._every = TERMINAL_EVERY if reporter._terminal else LOG_EVERY

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` is shown behind (a loss, a file name)."""
        self._done += count
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            facts = {"task": self._label, "done": self._done, "total": self._total}
            self._reporter._moment(self._text(now, note), facts)

    def reach(self, done: int, total: int) -> None:
        """`done` of `total` units are done, for work that learns its size on the way."""
        self._total = total
        self.advance(done - self._done)

    def _text(self, now: float, note: str) -> str:
        seconds = now - self._began
        parts = [f"{self._label}: {self._done:,}"]
        if self._total:
            share = min(1.0, self._done / self._total)
            left = seconds / max(self._done, 1) * max(0, self._total - self._done)
            drawn = f"{bar(share)} {share:.0%} " if self._reporter._terminal else ""
            parts = [f"{self._label}: {drawn}{self._done:,} of {self._total:,}"]
            parts.append(f"{lasted(left)} left")
        else:
            parts.append(lasted(seconds))
        return ", ".join([*parts, note] if note else parts)


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar of `CELLS` places.

    >>> bar(0.0), bar(0.53), bar(1.0)
    ('|                    |', '|██████████▌         |', '|████████████████████|')
    """
    full, part = divmod(round(share * CELLS * 8), 8)
    drawn = "█" * full + (EIGHTHS[part] if part else "")
    return f"|{drawn:<{CELLS}}|"


def lasted(seconds: float) -> str:
    """A span of time in few characters.

    >>> lasted(8.4), lasted(75), lasted(7265)
    ('8 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
