"""Accepted events on disk: a folder of files by the calendar, so that what did not change is not written again.

A file holds a year, or a month of a year that has more than `MOST` events, or a day of such a month; its name
says which (`2023.parquet`, `2023-11.parquet`, `2023-11-14.parquet`), so the order of the names is that of time.
Which files there are follows from the number of events of each day alone, and what is in one from the rows of
its days, so an ingestion that keeps files gives the same bytes as one from scratch.

Rows lie by (timestamp, position). A position is not written: rows of files are numbered through in this order,
a row of the log has `positions.log_base` (summary.json) and its log position, and a row that comes late would
change those of all that follow.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data_schemas import columns as c
from recsys.data_schemas.tables import LOG_POSITION
from recsys.ingestion.tables.duck import DuckEngine, quote

EVENTS_FOLDER: Final = "events"
EVENTS_BEFORE: Final = "events.parquet"
"""One file with all events and their positions, as earlier versions wrote them."""
MOST: Final = 100_000
"""Events up to which a year, or a month, is one file: what a night writes again for a single row, in half a
second (measured)."""
DAY_US: Final = 86_400_000_000
_FIRST: Final = date(1970, 1, 1)


class Period(NamedTuple):
    """What a file covers: days since 1970, [first, end)."""

    name: str
    first: int
    end: int

    def holds(self, column: str) -> str:
        """SQL: a timestamp lies within."""
        low, high = (f"to_timestamp({day * DAY_US // 1_000_000})" for day in self[1:])
        return f"({column} >= {low} AND {column} < {high})"


def period_of(name: str) -> Period:
    """What a file of this name covers.

    >>> period_of("2023-11")
    Period(name='2023-11', first=19662, end=19692)
    """
    words = [int(word) for word in name.split("-")]
    first = date(*[*words, 1, 1][:3])
    if len(words) == 3:
        after = first + timedelta(days=1)
    elif len(words) == 2:
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    else:
        after = date(first.year + 1, 1, 1)
    return Period(name, (first - _FIRST).days, (after - _FIRST).days)


def periods(events: Mapping[int, int], most: int = MOST) -> list[Period]:
    """The files that events make, from their number by day (since 1970), in the order of time.

    >>> [period.name for period in periods({0: 2, 40: 2, 400: 2}, most=3)]
    ['1970-01', '1970-02', '1971']
    """
    days = {day: (_FIRST + timedelta(days=day)).isoformat() for day, n in events.items() if n}
    by_name: Counter[str] = Counter()
    for day, name in days.items():
        for length in (4, 7):
            by_name[name[:length]] += events[day]
    names = {
        next((name[:n] for n in (4, 7) if by_name[name[:n]] <= most), name)
        for name in days.values()
    }
    return [period_of(name) for name in sorted(names)]


def event_files(tables: Path) -> list[Path]:
    """The files of an ingestion's events, in the order of time."""
    folder = tables / EVENTS_FOLDER
    return sorted(folder.glob("*.parquet")) if folder.is_dir() else [tables / EVENTS_BEFORE]


def relation(files: Iterable[Path]) -> str:
    """SQL: the rows of such files."""
    return f"read_parquet([{', '.join(quote(str(file)) for file in files)}])"


def write_period(duck: DuckEngine, period: Period, table: str, folder: Path) -> int:
    """Write the rows of a sorted table that a period covers; how many."""
    rows = f"SELECT * FROM {table} WHERE {period.holds(c.TIMESTAMP)}"
    return duck.write(rows, folder / f"{period.name}.parquet")


class EventPositions:
    """Positions of rows that are read file by file, in their order.

    Args:
        log_base: position of the log's beginning.
    """

    def __init__(self, log_base: int) -> None:
        self._base, self._files = log_base, 0

    def of(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """int64[n] of the next n rows."""
        if c.POSITION in rows.column_names:  # as earlier versions wrote them
            return np.asarray(rows[c.POSITION].to_numpy())
        logged = rows[LOG_POSITION]
        of_file = logged.is_null().to_numpy()
        numbers = self._files + np.cumsum(of_file) - 1
        self._files += int(of_file.sum())
        return np.where(of_file, numbers, self._base + logged.fill_null(0).to_numpy())


def position_columns(names: Iterable[str]) -> list[str]:
    """Columns of a file that `EventPositions` reads."""
    return [name for name in (c.POSITION, LOG_POSITION) if name in set(names)]


def read_events_table(tables: Path, log_base: int) -> pa.Table:
    """All events of an ingestion with their positions, for what is small."""
    files = event_files(tables)
    rows = pa.concat_tables([pq.read_table(file) for file in files])
    if c.POSITION not in rows.column_names:
        place = EventPositions(log_base).of(rows)
        rows = rows.append_column(c.POSITION, pa.array(place))
    return rows
