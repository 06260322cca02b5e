"""The log on PostgreSQL, for workers on several machines.

A sequence alone would let a later position become visible before an earlier one. Writers therefore
take one advisory lock for the length of their (grouped, short) transaction, so the order of
positions is the order of commits, as a follower needs it.
"""

import threading
from collections.abc import Callable, Collection, Sequence
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
from recsys.storage.eventlog.standing import (
    ERASED_KEY,
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

_SCHEMA = """
CREATE TABLE IF NOT EXISTS recsys_log (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT UNIQUE,
    user_id TEXT,
    received_at BIGINT NOT NULL,
    payload TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS recsys_log_about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS recsys_log_by_user ON recsys_log(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS recsys_log_forgotten ON recsys_log(user_id, position)
    WHERE kind = 'forget';
"""
_INSERT = (
    "INSERT INTO recsys_log(kind, key, user_id, received_at, payload) "
    "SELECT %s, %s, %s, %s, %s WHERE NOT EXISTS (SELECT 1 FROM recsys_log WHERE key = %s) "
    "ON CONFLICT (key) DO NOTHING RETURNING position"
)
_INSERT_ALL = """
INSERT INTO recsys_log(kind, key, user_id, received_at, payload)
SELECT kind, key, user_id, received_at, payload
FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[])
    WITH ORDINALITY AS w(kind, key, user_id, received_at, payload, erased, place)
WHERE NOT EXISTS (SELECT 1 FROM recsys_log WHERE recsys_log.key = w.erased)
ORDER BY place
ON CONFLICT (key) DO NOTHING RETURNING position, key
"""
"""Positions are given in the order of the places; of two records of one key the first is written."""
_TOMBSTONES = (
    "SELECT user_id, max(position), (array_agg(received_at ORDER BY position DESC))[1] "
    "FROM recsys_log WHERE user_id = ANY(%s) AND kind = 'forget' GROUP BY user_id"
)
_STANDING = (
    "SELECT (SELECT json_object_agg(name, value) FROM recsys_log_about), "
    "(SELECT max(position) FROM recsys_log), (SELECT key FROM recsys_log WHERE position = %s), "
    "extract(epoch FROM clock_timestamp()) * 1000000"
)
_FORMER_KEY = f"kind = '{ERASED}' AND key IS NOT NULL AND key NOT LIKE '{ERASED_KEY}%%'"
T = TypeVar("T")


class PostgresLog(EventLog):
    """See `EventLog`; `uri` as libpq reads it. Connections are remade when they break."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._write: Any = None
        self._read: Any = None
        self._reading = threading.Lock()
        try:
            connection = self._connect()
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                connection.execute(_SCHEMA)
                self._write = connection
                found = connection.execute("SELECT name, value FROM recsys_log_about")
                self._introduce(dict(found.fetchall()))
        except psycopg.Error as error:
            raise LogUnavailable(
                "the PostgreSQL log cannot be opened",
                where="serving.log",
                found=str(error).strip(),
                fix="check the URI, the server and this role's right to create a table",
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
        if writing:
            rows = self._write.execute(_STANDING, (position,)).fetchall()
        else:
            rows = self._fetch(_STANDING, (position,))
        about, end, key, clock = rows[0]
        return Standing(about or {}, int(end or 0), key, int(clock))

    def _fetch(self, query: str, values: tuple[object, ...]) -> list[Any]:
        with self._reading:
            try:
                if self._read is None or self._read.closed:
                    self._read = self._connect()
                return list(self._read.execute(query, values).fetchall())
            except psycopg.errors.DataCorrupted as error:
                raise self._damaged(error) from error
            except psycopg.Error as error:
                self._drop("_read")
                raise _unavailable(error) from error

    # writing

    def _insert(self, write: Write) -> Entry:
        erased = None if write.key is None else ERASED_KEY + digest(write.key, self._salt)
        payload = encode(write.payload)
        row = self._write.execute(
            _INSERT, (write.kind, write.key, write.user_id, write.received_at, payload, erased)
        ).fetchone()
        if row is not None:
            return Entry(int(row[0]), True)
        found = self._write.execute(
            "SELECT position FROM recsys_log WHERE key IN (%s, %s)", (write.key, erased)
        ).fetchone()
        return Entry(int(found[0]), False)

    def _insert_all(self, writes: Sequence[Write]) -> list[Entry]:
        if len(writes) < 2 or any(write.key is None for write in writes):
            return super()._insert_all(writes)
        keys = [str(write.key) for write in writes]
        erased = [ERASED_KEY + digest(key, self._salt) for key in keys]
        kinds, users, times = zip(
            *((w.kind, w.user_id, w.received_at) for w in writes), strict=True
        )
        payloads = [encode(write.payload) for write in writes]
        columns = ([*kinds], keys, [*users], [*times], payloads, erased)
        fresh = {str(k): int(p) for p, k in self._write.execute(_INSERT_ALL, columns).fetchall()}
        there = self._positions({*keys, *erased} - fresh.keys()) if len(fresh) < len(keys) else {}
        entries = []
        for key, gone in zip(keys, erased, strict=True):
            # Of two records of one key in a group the second finds the first.
            if (position := fresh.pop(key, None)) is not None:
                there[key] = position
                entries.append(Entry(position, True))
            else:
                entries.append(Entry(there[gone] if gone in there else there[key], False))
        return entries

    def _positions(self, keys: Collection[str]) -> dict[str, int]:
        """Where records of these keys lie."""
        query = "SELECT key, position FROM recsys_log WHERE key = ANY(%s)"
        return {str(k): int(p) for k, p in self._write.execute(query, (list(keys),)).fetchall()}

    def _tombstones(self, user_ids: Collection[str]) -> dict[str, Tombstone]:
        rows = self._write.execute(_TOMBSTONES, (list(user_ids),)).fetchall()
        return {str(user): Tombstone(int(p), int(at)) for user, p, at in rows}

    def _empty(self, user_id: str | None) -> list[tuple[int, str | None]]:
        self._write.execute(
            "UPDATE recsys_log SET kind = %s, payload = '{}', user_id = NULL "
            "WHERE user_id = %s AND kind <> %s",
            (ERASED, user_id, FORGET),
        )
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

    def _renumber(self, after: int, by: int) -> int:
        self._write.execute("SET LOCAL statement_timeout = 0")
        column = "ALTER TABLE recsys_log ALTER COLUMN position SET GENERATED"
        self._write.execute(f"{column} BY DEFAULT")
        # Through negative numbers, so that no position is met twice on the way.
        self._write.execute(
            "UPDATE recsys_log SET position = -(position + %s) WHERE position > %s", (by, after)
        )
        moved = self._write.execute(
            "UPDATE recsys_log SET position = -position WHERE position < 0"
        ).rowcount
        self._write.execute(f"{column} ALWAYS")
        return int(moved)

    def _count_from(self, position: int) -> None:
        self._write.execute(
            "SELECT setval(pg_get_serial_sequence('recsys_log', 'position'), %s)", (position,)
        )

    def _set_about(self, name: str, value: str) -> None:
        self._write.execute(
            "INSERT INTO recsys_log_about VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def _transaction(self, run: Callable[[], T]) -> T:
        if self._write is None or self._write.closed:
            self._write = self._connect()
        try:
            with self._write.transaction():
                self._write.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                return run()
        except psycopg.errors.DataCorrupted as error:
            raise self._damaged(error) from error
        except psycopg.errors.ReadOnlySqlTransaction:
            # The name may lead to another server by now, and what this one tells readers is old.
            self._drop("_write")
            with self._reading:
                self._drop("_read")
            raise
        except psycopg.Error:
            self._drop("_write")
            raise

    def _damaged(self, error: Exception) -> LogDamaged:
        self.trouble = LogDamaged(
            "the log's table is damaged",
            where="serving.log",
            found=str(error).strip().splitlines()[0],
            fix="restore the database from a copy; nothing is accepted until then",
        )
        return self.trouble

    def _drop(self, name: str) -> None:
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
        self._drop("_write")
        with self._reading:
            self._drop("_read")


def _unavailable(error: Exception) -> RecsysError:
    return LogUnavailable(
        "the log's store does not answer",
        where="serving.log",
        found=type(error).__name__,
        fix="see whether the PostgreSQL server runs",
    )
