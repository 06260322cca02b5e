"""The log on PostgreSQL, for workers on several machines.

A sequence alone would let a later position become visible before an earlier one. Writers therefore
take one advisory lock for the length of their (grouped, short) transaction, so the order of
positions is the order of commits, as a follower needs it. Under that lock nobody else writes, so a
group asks once which of its keys are there, and the rest goes in by COPY.

The table lies in partitions, one for each day (`postgres_days`).
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import psycopg

from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.log_record import (
    ERASED,
    FORGET,
    Entry,
    Tombstone,
    Write,
)
from recsys.storage.eventlog.log import EventLog, Longs, encode
from recsys.storage.eventlog.postgres_days import (
    begin_day,
    cover,
    drop_days,
    last_of_days,
    require_tables,
    tell,
)
from recsys.storage.eventlog.standing import (
    ERASED_KEY,
    REVISION,
    SALT,
    LogDamaged,
    LogUnavailable,
    Standing,
    digest,
)

LOCK = 0x7265_6373_7973
"""Key of the advisory lock; the letters "recsys"."""
CONNECT_SECONDS = 3
SILENT_SECONDS = 10
"""After which a connection whose server's machine or network is gone counts as broken; without it a
write would wait for the kernel's quarter of an hour."""

_COPY = "COPY recsys_log (position, kind, key, user_id, received_at, payload) FROM STDIN"
_THERE = (
    "SELECT l.key, l.position FROM unnest(%s::text[]) AS asked(key) "
    "JOIN recsys_log AS l ON l.key = asked.key"
)
_TOMBSTONES = (
    "SELECT user_id, max(position), (array_agg(received_at ORDER BY position DESC))[1] "
    "FROM recsys_log WHERE user_id = ANY(%s) AND kind = 'forget' GROUP BY user_id"
)
_STANDING = (
    "SELECT (SELECT json_object_agg(name, value) FROM recsys_log_about), "
    "(SELECT key FROM recsys_log WHERE position = %s), "
    "extract(epoch FROM clock_timestamp()) * 1000000"
)
_FORMER_KEY = f"kind = '{ERASED}' AND key IS NOT NULL AND key NOT LIKE '{ERASED_KEY}%%'"
_PLANS = (
    # With the values at hand the planner leaves out the partitions that do not matter.
    "plan_cache_mode = force_custom_plan",
    # Some thousand keys are looked up one by one: an index whose statistics are old, or code made for
    # one query, takes ten times as long (measured).
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "enable_seqscan = off",
    "jit = off",
)
_CONTROLS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
T = TypeVar("T")


class PostgresLog(EventLog):
    """See `EventLog`; `uri` as libpq reads it. Connections are remade when they break."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._write: Any = None
        self._read: Any = None
        self._reading = threading.Lock()
        self._changed = True
        """Whether records of the log were ever changed, so that keys of some are known by digests."""
        self._next = 1
        """Position of the next record, within a transaction."""
        self._asking: list[str] = []
        self._lines: dict[int, str] = {}
        """Keys of the records that are to be written, and how COPY takes the records."""
        self._told: tuple[int, list[Any]] | None = None
        self._found: dict[str, int] | None = None
        """What a transaction was told when it began: the log's standing, and where keys lie."""
        self._later: dict[str, str] = {}
        """What it tells of the log at its end."""
        try:
            connection = self._connect()
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                require_tables(connection)
                self._write = connection
                found = connection.execute("SELECT name, value FROM recsys_log_about")
                self._introduce(dict(found.fetchall()))
        except psycopg.Error as error:
            raise LogUnavailable(
                "the PostgreSQL log cannot be opened",
                where="serving.log",
                found=str(error).strip(),
                fix="check the URI, the server and this role's right to create tables",
            ) from None
        self._writer.start()

    def _connect(self) -> Any:
        connection = psycopg.connect(
            self._uri,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name="recsys",
            keepalives_idle=SILENT_SECONDS,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=SILENT_SECONDS * 1000,
        )
        connection.execute("SET synchronous_commit = on")
        connection.execute("SET statement_timeout = '10s'")
        for setting in _PLANS:
            connection.execute(f"SET {setting}")
        return connection

    def verify(self) -> None:
        self._standing(0)

    # reading

    def _rows(
        self, after: int, limit: int, kind: str | None = None
    ) -> list[tuple[int, str, str, int, str | None]]:
        which = "kind <> %s" if kind is None else "kind = %s"
        return self._fetch(
            "SELECT position, kind, payload, received_at, key FROM recsys_log "
            f"WHERE position > %s AND {which} ORDER BY position LIMIT %s",
            (after, kind or ERASED, limit),
        )

    def stamps(self) -> tuple[Longs, Longs]:
        rows = self._fetch("SELECT position, received_at FROM recsys_log ORDER BY position", ())
        table = np.array(rows, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _standing(self, position: int, *, writing: bool = False) -> Standing:
        if not writing:
            return _standing_of(self._fetch(_STANDING, (position,)))
        told, self._told = self._told, None
        if told is None or told[0] != position:
            told = position, self._write.execute(_STANDING, (position,)).fetchall()
        standing = _standing_of(told[1])
        changed = standing.about.get(REVISION) != "0"
        if standing.about.get(SALT) != self._salt or changed != self._changed:
            # Keys that are known by other digests were not asked for.
            self._found = None
        self._changed = changed
        self._next = begin_day(self._write, standing)
        return standing

    def _fetch(self, query: str, values: tuple[object, ...]) -> list[Any]:
        return self._asked(lambda connection: list(connection.execute(query, values).fetchall()))

    def _asked(self, ask: Callable[[Any], T]) -> T:
        """What the reading connection answers."""
        with self._reading:
            try:
                if self._read is None or self._read.closed:
                    self._read = self._connect()
                return ask(self._read)
            except psycopg.errors.DataCorrupted as error:
                raise self._damaged(error) from error
            except psycopg.Error as error:
                self._disconnect("_read")
                raise _unavailable(error) from error

    # writing

    def _ahead(self, writes: Sequence[Write]) -> None:
        """Keep ahead of a transaction what it will ask and say, so that others wait for it less."""
        self._lines = {id(write): _line(write) for write in writes}
        keys = [write.key for write in writes]
        self._asking = [k for k in (*keys, *self._erased_keys(keys)) if k is not None]

    def _insert(self, write: Write) -> Entry:
        return self._insert_all([write])[0]

    def _insert_all(self, writes: Sequence[Write]) -> list[Entry]:
        keys = [write.key for write in writes]
        erased = self._erased_keys(keys)
        there = dict(self._positions([key for key in (*keys, *erased) if key is not None]))
        if not there and None not in keys and len(set(keys)) == len(keys):
            first, self._next = self._next, self._next + len(writes)
            self._append(writes, first)
            return [Entry(position, True) for position in range(first, self._next)]
        fresh: list[Write] = []
        entries = []
        for key, gone, write in zip(keys, erased, writes, strict=True):
            if key is not None and (key in there or gone in there):
                # Of two records of one key in a group the second finds the first.
                entries.append(Entry(there[key if key in there else str(gone)], False))
                continue
            entries.append(Entry(self._next, True))
            if key is not None:
                there[key] = self._next
            self._next += 1
            fresh.append(write)
        self._append(fresh, self._next - len(fresh))
        return entries

    def _erased_keys(self, keys: Sequence[str | None]) -> list[str | None]:
        """By what records of these keys are known whose person was forgotten; none where nothing ever
        was."""
        if not self._changed:
            return [None] * len(keys)
        return [None if key is None else ERASED_KEY + digest(key, self._salt) for key in keys]

    def _append(self, writes: Sequence[Write], position: int) -> None:
        """Write records whose keys are not there, from a position on."""
        if not writes:
            return
        lines = [self._lines.get(id(write)) or _line(write) for write in writes]
        with self._write.cursor().copy(_COPY) as copy:
            copy.write("".join([f"{n}\t{line}" for n, line in enumerate(lines, position)]))

    def _positions(self, keys: Collection[str]) -> dict[str, int]:
        """Where records of these keys lie."""
        if not keys:
            return {}
        if self._found is not None and len(keys) <= len(self._asking):
            return self._found
        return _places(self._write.execute(_THERE, (list(keys),)))

    def _tombstones(self, user_ids: Collection[str]) -> dict[str, Tombstone]:
        rows = self._write.execute(_TOMBSTONES, (list(user_ids),)).fetchall()
        return {str(user): Tombstone(int(p), int(at)) for user, p, at in rows}

    def _empty(self, user_id: str | None) -> list[tuple[int, str | None]]:
        if user_id is not None:
            emptied = self._write.execute(
                "UPDATE recsys_log SET kind = %s, payload = '{}', user_id = NULL "
                "WHERE user_id = %s AND kind <> %s RETURNING position, key",
                (ERASED, user_id, FORGET),
            )
            return list(emptied.fetchall())
        query = f"SELECT position, key FROM recsys_log WHERE {_FORMER_KEY}"
        return list(self._write.execute(query, ()).fetchall())

    def _records_of(self, user_id: str, kind: str) -> list[tuple[int, int, str]]:
        query = (
            "SELECT position, received_at, payload FROM recsys_log "
            "WHERE user_id = %s AND kind = %s ORDER BY position"
        )
        return list(self._write.execute(query, (user_id, kind)).fetchall())

    def _blank(self, positions: Sequence[int]) -> None:
        self._write.execute("SET LOCAL statement_timeout = 0")
        self._write.execute(
            "UPDATE recsys_log SET kind = %s, payload = '{}', user_id = NULL "
            "WHERE position = ANY(%s)",
            (ERASED, list(positions)),
        )

    def _set_key(self, position: int, key: str) -> None:
        self._write.execute("UPDATE recsys_log SET key = %s WHERE position = %s", (key, position))

    def _payload(self, position: int) -> str:
        query = "SELECT payload FROM recsys_log WHERE position = %s"
        return str(self._write.execute(query, (position,)).fetchone()[0])

    def _rewrite(
        self, position: int, received_at: int, payload: str, user_id: str | None = None
    ) -> None:
        self._write.execute(
            "UPDATE recsys_log SET received_at = %s, payload = %s, "
            "user_id = coalesce(%s, user_id) WHERE position = %s",
            (received_at, payload, user_id, position),
        )

    def _latest_stamp(self) -> int:
        found = self._write.execute("SELECT max(received_at) FROM recsys_log").fetchone()
        return int(found[0] or 0)

    def _latest_position(self) -> int:
        found = self._write.execute("SELECT max(position) FROM recsys_log").fetchone()
        return int(found[0] or 0)

    def _renumber(self, after: int, by: int) -> int:
        self._write.execute("SET LOCAL statement_timeout = 0")
        # Through negative numbers, so that no position is met twice on the way.
        self._write.execute(
            "UPDATE recsys_log SET position = -(position + %s) WHERE position > %s", (by, after)
        )
        cover(self._write, -self._least())
        moved = self._write.execute(
            "UPDATE recsys_log SET position = -position WHERE position < 0"
        ).rowcount
        return int(moved)

    def _least(self) -> int:
        return int(self._write.execute("SELECT min(position) FROM recsys_log").fetchone()[0] or 0)

    def _count_from(self, position: int) -> None:
        # Writers count from the last position that the log tells of.
        cover(self._write, position)

    def _set_about(self, name: str, value: str) -> None:
        tell(self._write, {name: value})

    def _tell(self, said: Mapping[str, str]) -> None:
        self._later |= said

    def droppable(self, before: int, until: int) -> int:
        return self._asked(lambda connection: last_of_days(connection, before, until))

    def drop(self, until: int) -> None:
        try:
            super().drop(until)
        except psycopg.errors.LockNotAvailable:
            raise LogUnavailable(
                "drained days cannot be dropped from the log now",
                where="serving.log",
                found="somebody reads its tables in a long transaction, as a backup does",
                fix="the next night tries again",
            ) from None

    def _drop(self, until: int) -> None:
        self._write.execute("SET LOCAL statement_timeout = 0")
        # Writers wait meanwhile.
        self._write.execute("SET LOCAL lock_timeout = '2s'")
        drop_days(self._write, until)

    def _transaction(self, run: Callable[[], T]) -> T:
        if self._write is None or self._write.closed:
            self._write = self._connect()
        try:
            self._begin()
            done = run()
            self._end()
        except psycopg.errors.DataCorrupted as error:
            self._disconnect("_write")
            raise self._damaged(error) from error
        except psycopg.errors.ReadOnlySqlTransaction:
            # The name may lead to another server by now, and what this one tells readers is old.
            self._disconnect("_write")
            with self._reading:
                self._disconnect("_read")
            raise
        except psycopg.Error:
            self._disconnect("_write")
            raise
        except BaseException:
            with suppress(psycopg.Error):
                self._write.execute("ROLLBACK")
            raise
        finally:
            self._told, self._found, self._asking, self._lines, self._later = None, None, [], {}, {}
        return done

    def _begin(self) -> None:
        """Begin with what every transaction asks, on one way to the server and back."""
        with self._seeing:
            position = self._seen.position
        with self._write.pipeline():
            self._write.execute("BEGIN")
            self._write.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            standing = self._write.execute(_STANDING, (position,))
            there = self._write.execute(_THERE, (self._asking,)) if self._asking else None
        self._told = position, standing.fetchall()
        self._found = None if there is None else _places(there)

    def _end(self) -> None:
        with self._write.pipeline():
            if self._later:
                tell(self._write, self._later)
            self._write.execute("COMMIT")

    def _damaged(self, error: Exception) -> LogDamaged:
        self.trouble = LogDamaged(
            "the log's table is damaged",
            where="serving.log",
            found=str(error).strip().splitlines()[0],
            fix="restore the database from a copy; nothing is accepted until then",
        )
        return self.trouble

    def _disconnect(self, name: str) -> None:
        """Forget a broken connection; the next use makes a new one."""
        connection = getattr(self, name)
        if connection is not None:
            connection.close()
        setattr(self, name, None)

    def _is_transient(self, error: Exception) -> bool:
        """Whatever the server says of itself: away, read-only, no right, no table. What it says of a
        record is ours to mend."""
        ours = (psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError)
        return isinstance(error, psycopg.Error) and not isinstance(error, ours)

    def _release(self) -> None:
        self._disconnect("_write")
        with self._reading:
            self._disconnect("_read")


def _standing_of(rows: list[Any]) -> Standing:
    about, key, clock = rows[0]
    # Every writer leaves the last position there, so the records need not be asked for it.
    return Standing(about or {}, 0, key, int(clock))


def _places(cursor: Any) -> dict[str, int]:
    return {str(key): int(position) for key, position in cursor.fetchall()}


def _line(write: Write) -> str:
    """A record without its position as COPY takes it."""
    key = r"\N" if write.key is None else _escaped(write.key)
    user = r"\N" if write.user_id is None else _escaped(write.user_id)
    return f"{write.kind}\t{key}\t{user}\t{write.received_at}\t{_escaped(encode(write.payload))}\n"


def _escaped(text: str) -> str:
    r"""A value of COPY's text format.

    >>> _escaped("a\\b\tc")
    'a\\\\b\\tc'
    """
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    return text if text.isprintable() else text.translate(_CONTROLS)


def _unavailable(error: Exception) -> RecsysError:
    return LogUnavailable(
        "the log's store does not answer",
        where="serving.log",
        found=type(error).__name__,
        fix="see whether the PostgreSQL server runs",
    )
