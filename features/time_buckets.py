"""Times, buckets and windows, all in integer microseconds UTC.

A bucket is `time // bucket_us` (floor). A counter at time t sees whole buckets before t's own; a
window of w buckets sees the w buckets before it.
"""

import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import DAY, HOUR, SECOND

MISSING_TIME: Final = int(np.iinfo(np.int64).min)
"""A time that is not known."""
UNBOUNDED: Final = 0
"""Width of the window that sees everything before."""
BUCKETS: Final = {"minute": 60 * SECOND, "hour": HOUR, "day": DAY}
_UNITS: Final = {"m": 60 * SECOND, "h": HOUR, "d": DAY, "w": 7 * DAY}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MomentGrid(NamedTuple):
    """The moments at which lists are asked for in batch, when training, testing or recommending.

    A counter does not see the bucket that is going on, while every model score and the history do. Only at
    a moment where a bucket has just ended is all that is known also counted; where times are known to the
    day, or only their order, the next action lies a whole step further. Cuts, label windows, batch lists
    and a frozen clock all take `after`, so nothing is asked at a moment of a kind that the ranker did not
    learn from.

    >>> MomentGrid(60 * 60 * 1_000_000).after(90 * 60 * 1_000_000) // (60 * 1_000_000)
    120
    """

    step: int
    """µs between moments: a whole number of counter buckets, or the step of ordinal histories."""
    origin: int = 0
    """One of the moments, µs."""

    def after(self, time: int) -> int:
        """The first moment strictly after `time` (µs): all up to `time` is known and counted then."""
        return self.origin + ((time - self.origin) // self.step + 1) * self.step

    def before(self, time: int) -> int:
        """The last moment at or before `time` (µs)."""
        return self.origin + (time - self.origin) // self.step * self.step

    @classmethod
    def of(cls, bucket_us: int, step_us: int = 0, ordinal_until: int | None = None) -> "MomentGrid":
        """The grid for counters in buckets of `bucket_us` over data whose times are known to `step_us`.

        Args:
            bucket_us: width of a counter bucket.
            step_us: resolution of the data's times, 0 where they are known to the second.
            ordinal_until: last moment of wholly ordinal histories; the grid then runs through it, or
                through the beginning of its bucket where a step is whole buckets, and is the same for
                histories that have grown by whole steps.
        """
        if ordinal_until is not None:
            step = step_us or DAY
            moment = ordinal_until if step % bucket_us else ordinal_until // bucket_us * bucket_us
            return cls(step, moment % step)
        return cls(bucket_us * max(1, -(-step_us // bucket_us)))


def microseconds(value: Any) -> int:
    """A time as µs UTC: µs already, a datetime, or ISO 8601 text; `MISSING_TIME` for none.

    A datetime without a zone is read as UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    if type(value) is int:
        return value
    if value is None:
        return MISSING_TIME
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
        # Integer arithmetic: float seconds lose microseconds.
        return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds
    return int(value)


def window_us(text: str) -> int:
    """Width in µs of a window written like `90m`, `6h`, `7d` or `2w`; `all` is `UNBOUNDED`.

    Raises:
        UsageError: the text is none of these.
    """
    if text == "all":
        return UNBOUNDED
    match = re.fullmatch(r"([1-9]\d*)([mhdw])", text)
    if match is None:
        raise UsageError(
            "a window is not understood",
            where="features.windows",
            found=text,
            expected="a number and m, h, d or w, such as 6h or 7d, or `all`",
        )
    return int(match[1]) * _UNITS[match[2]]


def window_name(width_us: int) -> str:
    """The shortest way to write a width: 7d, 36h, `all`."""
    if width_us == UNBOUNDED:
        return "all"
    for unit in ("d", "h", "m"):
        if width_us % _UNITS[unit] == 0:
            return f"{width_us // _UNITS[unit]}{unit}"
    return f"{width_us}us"


def type_word(name: str, every: str) -> str:
    """An event type as part of a column's name, `every` for all types; a type of that very name is
    told apart by a `=` in front.

    >>> type_word("", "any"), type_word("click", "any"), type_word("any", "any")
    ('any', 'click', '=any')
    """
    if not name:
        return every
    return f"={name}" if name == every or name.startswith("=") else name


def window_buckets(width_us: int, bucket_us: int) -> int:
    """A window's width in buckets; 0 for `UNBOUNDED`.

    Raises:
        UsageError: the window is shorter than a bucket or not a whole number of them.
    """
    if width_us % bucket_us or width_us < 0 or 0 < width_us < bucket_us:
        raise UsageError(
            "a window is not a whole number of buckets",
            where="features.windows",
            found=f"{window_name(width_us)} with buckets of {window_name(bucket_us)}",
            expected=f"a multiple of {window_name(bucket_us)}",
            fix="lengthen the window or set a finer features.bucket",
        )
    return width_us // bucket_us
