"""Partitions of the PostgreSQL log, one for each day (UTC).

Positions are what readers go by, so partitions are ranges of positions: a day begins at the next
multiple of `BLOCK`, and its partition holds the block. A reader behind a position is led to the days
that matter, and a day that was drained is dropped as a table, without a delete. Keys are unique in
each partition; across them the writers see to it, who ask under their lock.

`recsys_log_days` names each partition's day, its first position and its table. What must outlast its day
(wishes to be forgotten, and not to be learned from) moves into `recsys_log_kept`, the partition before
all days.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from recsys.data_schemas.log_record import FORGET, OPT_OUT
from recsys.storage.eventlog.standing import LAST_POSITION, Standing

BLOCK: Final = 1 << 32
"""Positions of a day: 50,000 records a second for 24 hours; a day with more takes another block."""
MARGIN: Final = 1 << 20
"""Positions left of a block at which the next is begun; more than one transaction writes."""
DAY: Final = "day"
"""In the log's table about itself: the day that is written now."""
COVERED: Final = "covered"
"""Likewise: the first position that no partition covers."""
KEPT: Final = "recsys_log_kept"

_ABOUT = "CREATE TABLE IF NOT EXISTS recsys_log_about (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
# Ids and keys are compared by their bytes: by the rules of a language a look-up takes ten times as long
# (measured).
_TABLES = """
CREATE TABLE recsys_log (
    position BIGINT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT COLLATE "C",
    user_id TEXT COLLATE "C",
    received_at BIGINT NOT NULL,
    payload TEXT NOT NULL,
    CONSTRAINT recsys_log_position PRIMARY KEY (position)
) PARTITION BY RANGE (position);
CREATE INDEX recsys_log_by_person ON recsys_log(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX recsys_log_tombstones ON recsys_log(user_id, position) WHERE kind = 'forget';
CREATE TABLE recsys_log_days (first BIGINT PRIMARY KEY, day TEXT NOT NULL, held_by TEXT NOT NULL);
"""
_COVERED = (
    "SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''(\\d+)''\\)')::bigint) "
    "FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
    "WHERE i.inhparent = 'recsys_log'::regclass"
)
_TELL = (
    "INSERT INTO recsys_log_about SELECT * FROM unnest(%s::text[], %s::text[]) "
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


def require_tables(connection: Any, now: int | None = None) -> None:
    """Make the log's tables where there are none, within a transaction that holds the writers' lock.

    A log of an earlier version, one table, becomes the first partition as it is. Its rows are read once
    to see that they belong there, and the index of its keys is built anew.

    Args:
        connection: to the store.
        now: µs; the store's clock when absent.
    """
    connection.execute(_ABOUT)
    kind = _one(connection, "SELECT relkind FROM pg_class WHERE oid = to_regclass('recsys_log')")
    if kind == "p":
        _require_told(connection)
        return
    clock = _one(connection, "SELECT extract(epoch FROM clock_timestamp()) * 1000000")
    today = day_of(clock if now is None else now)
    former = f"recsys_log_before_{today}"
    if kind is not None:
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute(f"ALTER TABLE recsys_log RENAME TO {former}")
        connection.execute(f"ALTER TABLE {former} ALTER COLUMN position DROP IDENTITY IF EXISTS")
        for name in ("recsys_log_by_user", "recsys_log_forgotten"):
            connection.execute(f"DROP INDEX IF EXISTS {name}")
        for name in ("key", "user_id"):
            connection.execute(f'ALTER TABLE {former} ALTER COLUMN {name} TYPE TEXT COLLATE "C"')
    connection.execute(_TABLES)
    if kind is None:
        _make_day(connection, None, BLOCK, today)
        return
    last = int(_one(connection, f"SELECT max(position) FROM {former}") or 0)
    told = _told(connection, LAST_POSITION)
    last = max(last, int(told or 0))
    end = (last // BLOCK + 1) * BLOCK
    connection.execute(
        f"ALTER TABLE recsys_log ATTACH PARTITION {former} FOR VALUES FROM (MINVALUE) TO ({end})"
    )
    _note(connection, 0, today, former, end)


def _require_told(connection: Any) -> None:
    """Say again which day is written and what is covered, where the table about the log was lost."""
    if _told(connection, COVERED) is None:
        day = _one(connection, "SELECT max(day) FROM recsys_log_days")
        tell(connection, {DAY: day, COVERED: str(_one(connection, _COVERED))})


def begin_day(connection: Any, standing: Standing) -> int:
    """See that a partition takes what is written now, within a transaction that holds the writers' lock:
    that of the store's day, or another of the same day where its block is nearly full.

    Returns:
        The position of the next record.
    """
    about, clock = standing.about, standing.clock
    assert clock is not None, "this store has a clock"
    today, covered = day_of(clock), int(about[COVERED])
    if today <= about[DAY] and standing.last_position + MARGIN < covered:
        return standing.last_position + 1
    _make_day(connection, covered, covered + BLOCK, max(today, about[DAY]))
    return covered


def cover(connection: Any, position: int) -> None:
    """See that a partition takes a position, within such a transaction."""
    covered = int(_told(connection, COVERED))
    if position + MARGIN >= covered:
        today = _told(connection, DAY)
        _make_day(connection, covered, (position // BLOCK + 2) * BLOCK, today)


def last_of_days(connection: Any, before: int, until: int) -> int:
    """The last position of the days that ended before a moment (µs) and lie at or before a position; 0
    for none. The day that is written never counts."""
    days = connection.execute("SELECT first, day FROM recsys_log_days ORDER BY first").fetchall()
    found = 0
    for (_, day), (after, _) in pairwise(days):
        if day >= day_of(before):
            break
        last = _last_before(connection, after)
        if last > until:
            break
        found = last
    return found


def drop_days(connection: Any, until: int) -> None:
    """Drop the partitions of days that end at or before a position, within a transaction that holds the
    writers' lock; tombstones and wishes move into the partition before all days."""
    days = connection.execute(
        "SELECT first, held_by FROM recsys_log_days ORDER BY first"
    ).fetchall()
    gone = [
        (first, table, after)
        for (first, table), (after, _) in pairwise(days)
        if after - 1 <= until or _last_before(connection, after) <= until
    ]
    if not gone:
        return
    if _one(connection, f"SELECT to_regclass('{KEPT}')") is None:
        _make_table(connection, KEPT)
    else:
        connection.execute(f"ALTER TABLE recsys_log DETACH PARTITION {KEPT}")
    for first, table, _ in gone:
        connection.execute(f"ALTER TABLE recsys_log DETACH PARTITION {table}")
        connection.execute(
            f"INSERT INTO {KEPT} SELECT position, kind, key, user_id, received_at, payload "
            f"FROM {table} WHERE kind IN ('{FORGET}', '{OPT_OUT}')"
        )
        connection.execute(f"DROP TABLE {table}")
        connection.execute("DELETE FROM recsys_log_days WHERE first = %s", (first,))
    connection.execute(
        f"ALTER TABLE recsys_log ATTACH PARTITION {KEPT} "
        f"FOR VALUES FROM (MINVALUE) TO ({gone[-1][2]})"
    )


def _last_before(connection: Any, position: int) -> int:
    query = "SELECT max(position) FROM recsys_log WHERE position < %s"
    return int(connection.execute(query, (position,)).fetchone()[0] or 0)


def day_of(moment: Any) -> str:
    """The day of a moment (µs), as partitions are named by it.

    >>> day_of(1_764_547_200_000_000)
    '20251201'
    """
    return f"{datetime.fromtimestamp(int(moment) // 1_000_000, UTC):%Y%m%d}"


def tell(connection: Any, said: Mapping[str, str]) -> None:
    """Change entries of the log's table about itself."""
    connection.execute(_TELL, (list(said), list(said.values())))


def _make_day(connection: Any, start: int | None, end: int, day: str) -> None:
    """A partition from a position (the least when None) to before another."""
    table = f"recsys_log_{day}_{(start or 0) // BLOCK}"
    low = "MINVALUE" if start is None else str(start)
    # Made apart and attached: that does not wait for who reads the log, a backup for example.
    _make_table(connection, table)
    connection.execute(
        f"ALTER TABLE recsys_log ATTACH PARTITION {table} FOR VALUES FROM ({low}) TO ({end})"
    )
    _note(connection, start or 0, day, table, end)


def _make_table(connection: Any, table: str) -> None:
    """A table to be attached as a partition; keys are unique within it."""
    connection.execute(f"CREATE TABLE {table} (LIKE recsys_log)")
    connection.execute(f"CREATE UNIQUE INDEX ON {table}(key)")


def _note(connection: Any, first: int, day: str, table: str, end: int) -> None:
    connection.execute("INSERT INTO recsys_log_days VALUES (%s, %s, %s)", (first, day, table))
    tell(connection, {DAY: day, COVERED: str(end)})


def _told(connection: Any, name: str) -> Any:
    """An entry of the log's table about itself; None without."""
    return _one(connection, f"SELECT value FROM recsys_log_about WHERE name = '{name}'")


def _one(connection: Any, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
