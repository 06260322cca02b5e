"""The log on PostgreSQL, for workers on several machines.

A sequence alone would let a later position become visible before an earlier one. Writers therefore
take one advisory lock for the length of their (grouped, short) transaction, so the order of
positions is the order of commits, as a follower needs it.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.log_record import (
    ERASED,
    FORGET,
    Entry,
    LogRecord,
    Tombstone,
    Write,
)
from recsys.storage.eventlog.log import (
    EventLog,
    LogUnavailable,
    decode,
    encode,
    forget_write,
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
CREATE INDEX IF NOT EXISTS recsys_log_by_user ON recsys_log(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS recsys_log_forgotten ON recsys_log(user_id, position)
    WHERE kind = 'forget';
"""
_INSERT = (
    "INSERT INTO recsys_log(kind, key, user_id, received_at, payload) "
    "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING RETURNING position"
)
_TOMBSTONE = (
    "SELECT position, received_at FROM recsys_log WHERE user_id = %s AND kind = 'forget' "
    "ORDER BY position DESC LIMIT 1"
)
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
        except psycopg.Error as error:
            raise LogUnavailable(
                "the PostgreSQL log cannot be opened",
                where="serving.log",
                found=str(error).strip(),
                fix="check the URI, the server and this role's right to create a table",
            ) from None
        self._write = connection
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

    # reading

    def read(self, after: int, limit: int = 1000) -> list[LogRecord]:
        rows = self._fetch(
            "SELECT position, kind, payload, received_at FROM recsys_log "
            "WHERE position > %s AND kind <> %s ORDER BY position LIMIT %s",
            (after, ERASED, limit),
        )
        return [LogRecord(p, kind, decode(payload), at) for p, kind, payload, at in rows]

    def last_position(self) -> int:
        return self._scalar("SELECT max(position) FROM recsys_log")

    def last_received_at(self) -> int:
        return self._scalar("SELECT received_at FROM recsys_log ORDER BY position DESC LIMIT 1")

    def _scalar(self, query: str) -> int:
        rows = self._fetch(query, ())
        return int(rows[0][0]) if rows and rows[0][0] is not None else 0

    def _fetch(self, query: str, values: tuple[object, ...]) -> list[Any]:
        with self._reading:
            try:
                if self._read is None or self._read.closed:
                    self._read = self._connect()
                return list(self._read.execute(query, values).fetchall())
            except psycopg.OperationalError as error:
                self._drop("_read")
                raise _unavailable(error) from error

    # writing

    def _commit(self, writes: Sequence[Write]) -> list[Entry]:
        return self._transaction(lambda: self._insert_all(writes))

    def _insert(self, write: Write) -> Entry:
        row = self._write.execute(
            _INSERT,
            (write.kind, write.key, write.user_id, write.received_at, encode(write.payload)),
        ).fetchone()
        if row is not None:
            return Entry(int(row[0]), True)
        found = self._write.execute(
            "SELECT position FROM recsys_log WHERE key = %s", (write.key,)
        ).fetchone()
        return Entry(int(found[0]), False)

    def _tombstone(self, user_id: str) -> Tombstone | None:
        found = self._write.execute(_TOMBSTONE, (user_id,)).fetchone()
        return None if found is None else Tombstone(*found)

    def _erase(self, user_id: str, received_at: int) -> Entry:
        def run() -> Entry:
            self._write.execute(
                "UPDATE recsys_log SET kind = %s, payload = '{}', user_id = NULL "
                "WHERE user_id = %s AND kind <> %s",
                (ERASED, user_id, FORGET),
            )
            return self._insert(forget_write(user_id, received_at))

        return self._transaction(run)

    def _transaction(self, run: Callable[[], T]) -> T:
        if self._write is None or self._write.closed:
            self._write = self._connect()
        try:
            with self._write.transaction():
                self._write.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                return run()
        except psycopg.OperationalError:
            self._drop("_write")
            raise

    def _drop(self, name: str) -> None:
        """Forget a broken connection; the next use makes a new one."""
        connection = getattr(self, name)
        if connection is not None:
            connection.close()
        setattr(self, name, None)

    def _is_transient(self, error: Exception) -> bool:
        return isinstance(error, psycopg.OperationalError)

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
