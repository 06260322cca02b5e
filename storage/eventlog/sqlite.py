"""The embedded log: one SQLite file in WAL mode, fsync on every commit, many processes.

SQLite lets one writer in at a time, so positions (AUTOINCREMENT) increase in commit order and a
reader never meets a late predecessor.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from recsys.data_schemas.errors import UsageError
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
    decode,
    encode,
    forget_write,
)

BUSY_SECONDS = 10.0
"""How long a transaction waits for another process's."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT UNIQUE,
    user_id TEXT,
    received_at INTEGER NOT NULL,
    payload TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS log_by_user ON log(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS log_forgotten ON log(user_id, position) WHERE kind = 'forget';
"""
_INSERT = (
    "INSERT INTO log(kind, key, user_id, received_at, payload) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT(key) DO NOTHING"
)


_TOMBSTONE = (
    "SELECT position, received_at FROM log WHERE user_id = ? AND kind = 'forget' "
    "ORDER BY position DESC LIMIT 1"
)


class SqliteLog(EventLog):
    """See `EventLog`; `path` is created with its parent folders."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write = self._connect()
            self._write.executescript(_SCHEMA)
            self._read = self._connect()
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                "the log's file cannot be opened",
                where=str(path),
                found=str(error),
                expected="a SQLite file this user may write",
            ) from None
        self._reading = threading.Lock()
        self._writer.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        return connection

    def read(self, after: int, limit: int = 1000) -> list[LogRecord]:
        with self._reading:
            rows = self._read.execute(
                "SELECT position, kind, payload, received_at FROM log "
                "WHERE position > ? AND kind <> ? ORDER BY position LIMIT ?",
                (after, ERASED, limit),
            ).fetchall()
        return [LogRecord(p, kind, decode(payload), at) for p, kind, payload, at in rows]

    def last_position(self) -> int:
        return self._scalar("SELECT max(position) FROM log")

    def last_received_at(self) -> int:
        return self._scalar("SELECT received_at FROM log ORDER BY position DESC LIMIT 1")

    def _scalar(self, query: str) -> int:
        with self._reading:
            row = self._read.execute(query).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def _commit(self, writes: Sequence[Write]) -> list[Entry]:
        return self._transaction(lambda: self._insert_all(writes))

    def _insert(self, write: Write) -> Entry:
        cursor = self._write.execute(
            _INSERT,
            (write.kind, write.key, write.user_id, write.received_at, encode(write.payload)),
        )
        if cursor.rowcount:
            assert cursor.lastrowid is not None
            return Entry(cursor.lastrowid, True)
        found = self._write.execute(
            "SELECT position FROM log WHERE key = ?", (write.key,)
        ).fetchone()
        return Entry(int(found[0]), False)

    def _tombstone(self, user_id: str) -> Tombstone | None:
        found = self._write.execute(_TOMBSTONE, (user_id,)).fetchone()
        return None if found is None else Tombstone(*found)

    def _erase(self, user_id: str, received_at: int) -> Entry:
        def run() -> list[Entry]:
            self._write.execute(
                "UPDATE log SET kind = ?, payload = '{}', user_id = NULL "
                "WHERE user_id = ? AND kind <> ?",
                (ERASED, user_id, FORGET),
            )
            return [self._insert(forget_write(user_id, received_at))]

        entry = self._transaction(run)[0]
        # The write-ahead file still holds the old pages until it is folded into the main file.
        self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return entry

    def _transaction(self, run: Callable[[], list[Entry]]) -> list[Entry]:
        self._write.execute("BEGIN IMMEDIATE")
        try:
            entries = run()
            self._write.execute("COMMIT")
        except BaseException:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
            raise
        return entries

    def _is_transient(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError)

    def _release(self) -> None:
        self._write.close()
        self._read.close()
