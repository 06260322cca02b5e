"""The embedded log: one SQLite file in WAL mode, fsync on every commit, many processes.

SQLite lets one writer in at a time, so positions (AUTOINCREMENT) increase in commit order and a
reader never meets a late predecessor.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import (
    ERASED,
    FORGET,
    OPT_OUT,
    Entry,
    Tombstone,
    Write,
)
from recsys.storage.eventlog.log import EventLog, Longs, encode
from recsys.storage.eventlog.retention import Retention
from recsys.storage.eventlog.standing import (
    ERASED_KEY,
    LogDamaged,
    LogUnavailable,
    Standing,
    digest,
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
CREATE TABLE IF NOT EXISTS log_about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS log_by_user ON log(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS log_forgotten ON log(user_id, position) WHERE kind = 'forget';
"""
_INSERT = (
    "INSERT INTO log(kind, key, user_id, received_at, payload) SELECT ?, ?, ?, ?, ? "
    "WHERE NOT EXISTS (SELECT 1 FROM log WHERE key = ?) ON CONFLICT(key) DO NOTHING"
)
_TOMBSTONE = (
    "SELECT position, received_at FROM log WHERE user_id = ? AND kind = 'forget' "
    "ORDER BY position DESC LIMIT 1"
)
_FORMER_KEY = f"kind = '{ERASED}' AND key IS NOT NULL AND substr(key, 1, 7) <> '{ERASED_KEY}'"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
Place = tuple[int, int] | None
T = TypeVar("T")


class SqliteLog(EventLog):
    """See `EventLog`; `path` is created with its parent folders.

    Each commit sees that the file it went to still lies under its name: a file that was removed or
    exchanged takes what is written to it along. It is opened anew once there is one again.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._reading = threading.RLock()
        self._damage: LogDamaged | None = None
        self._write: Any = None
        self._read: Any = None
        self._places: tuple[Place, Place] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._explained():
                self._open("rwc")
        except LogDamaged:
            # Who can do without goes on: every call says why nothing is accepted.
            self._places = self._found()
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                "the log's file cannot be opened",
                where=str(path),
                found=str(error),
                expected="a SQLite file this user may write",
            ) from None
        self._writer.start()

    def _open(self, mode: str) -> None:
        """Open the file and make its tables; mode `rw` makes no new file."""
        self._write, self._read = self._connect(mode), None
        self._write.executescript(_SCHEMA)
        self._write.execute("BEGIN IMMEDIATE")
        self._introduce(dict(self._write.execute("SELECT name, value FROM log_about")))
        self._write.execute("COMMIT")
        self._read = self._connect("rw")
        self._places = self._found()

    def _connect(self, mode: str) -> Any:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        return connection

    # the file

    def _found(self) -> tuple[Place, Place]:
        """Which files lie under the names of the database and of its write-ahead file."""
        return _place(self._path), _place(self._path.with_name(self._path.name + "-wal"))

    def _require_file(self) -> None:
        """See that the open file still lies under its name.

        Raises:
            LogDamaged: it does not; what was written since may be lost.
        """
        if self._found() != self._places:
            raise self._gone("no file" if _place(self._path) is None else "another file")

    def _reopen(self) -> None:
        """Take the file that lies there now, in place of one that was taken away.

        Raises:
            LogDamaged: there is none.
        """
        with self._reading:
            if self._places is not None and _place(self._path) == self._places[0]:
                # Only the write-ahead file was taken away: what it holds is still at hand.
                with suppress(sqlite3.Error):
                    self._write.execute("PRAGMA wal_checkpoint").fetchall()
            self._release()
            try:
                self._open("rw")
            except sqlite3.OperationalError as error:
                raise self._gone(str(error)) from None
            self._damage = None

    def _gone(self, found: str) -> LogDamaged:
        self.trouble = LogDamaged(
            "the log's file was removed or exchanged while it was in use",
            where=str(self._path),
            found=found,
            expected="the file that was opened",
            fix="bring it back; nothing of this call was accepted",
        )
        return self.trouble

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors in our words; those that may pass are left to be tried again."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in _DAMAGED:
                raise
            raise self._damaged(str(error)) from error

    def _damaged(self, found: str) -> LogDamaged:
        self._damage = LogDamaged(
            "the log's file is damaged",
            where=str(self._path),
            found=found,
            expected="a whole SQLite database",
            fix="stop the service and restore the file from a copy, or recover it with "
            "`sqlite3 FILE .recover`; nothing is accepted until then",
        )
        self.trouble = self._damage
        return self._damage

    def verify(self) -> None:
        with self._explained(), closing(self._connect("rw")) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(str(found).strip())

    # reading

    def _rows(
        self, after: int, limit: int, kind: str | None = None
    ) -> list[tuple[int, str, str, int, str | None]]:
        which = "kind <> ?" if kind is None else "kind = ?"
        return self._fetch(
            "SELECT position, kind, payload, received_at, key FROM log "
            f"WHERE position > ? AND {which} ORDER BY position LIMIT ?",
            (after, kind or ERASED, limit),
        )

    def stamps(self) -> tuple[Longs, Longs]:
        rows = self._fetch("SELECT position, received_at FROM log ORDER BY position", ())
        table = np.array(rows, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _fetch(self, query: str, values: tuple[object, ...]) -> list[Any]:
        if self._damage is not None:
            raise self._damage
        with self._reading, self._explained():
            if self._read is None:
                raise self._gone("no file that could be opened")
            try:
                return list(self._read.execute(query, values).fetchall())
            except sqlite3.OperationalError as error:
                raise _unavailable(error) from error

    def _standing(self, position: int, *, writing: bool = False) -> Standing:
        if writing:
            return _standing(self._write, position)
        if self._damage is not None:
            raise self._damage
        with self._reading, self._explained():
            if self._read is None:
                raise self._gone("no file that could be opened")
            try:
                return _standing(self._read, position)
            except sqlite3.OperationalError as error:
                raise _unavailable(error) from error

    def check(self) -> None:
        if self._found() != self._places:
            # The writer's thread opens the file anew; nothing is written.
            self.submit([]).result()
        super().check()

    # writing

    def _insert(self, write: Write) -> Entry:
        erased = None if write.key is None else ERASED_KEY + digest(write.key, self._salt)
        cursor = self._write.execute(
            _INSERT,
            (
                write.kind,
                write.key,
                write.user_id,
                write.received_at,
                encode(write.payload),
                erased,
            ),
        )
        if cursor.rowcount > 0:
            assert cursor.lastrowid is not None
            return Entry(cursor.lastrowid, True)
        found = self._write.execute(
            "SELECT position FROM log WHERE key IN (?, ?)", (write.key, erased)
        ).fetchone()
        return Entry(int(found[0]), False)

    def _tombstones(self, user_ids: Collection[str]) -> dict[str, Tombstone]:
        found = ((user, self._write.execute(_TOMBSTONE, (user,)).fetchone()) for user in user_ids)
        return {user: Tombstone(*row) for user, row in found if row is not None}

    def _empty(self, user_id: str | None) -> list[tuple[int, str | None]]:
        self._write.execute(
            "UPDATE log SET kind = ?, payload = '{}', user_id = NULL "
            "WHERE user_id = ? AND kind <> ?",
            (ERASED, user_id, FORGET),
        )
        return list(self._write.execute(f"SELECT position, key FROM log WHERE {_FORMER_KEY}"))

    def _records_of(self, user_id: str, kind: str) -> list[tuple[int, int, str]]:
        query = (
            "SELECT position, received_at, payload FROM log "
            "WHERE user_id = ? AND kind = ? ORDER BY position"
        )
        return list(self._write.execute(query, (user_id, kind)))

    def _blank(self, positions: Sequence[int]) -> None:
        self._write.executemany(
            "UPDATE log SET kind = ?, payload = '{}', user_id = NULL WHERE position = ?",
            [(ERASED, position) for position in positions],
        )

    def _set_key(self, position: int, key: str) -> None:
        self._write.execute("UPDATE log SET key = ? WHERE position = ?", (key, position))

    def _payload(self, position: int) -> str:
        query = "SELECT payload FROM log WHERE position = ?"
        return str(self._write.execute(query, (position,)).fetchone()[0])

    def _rewrite(
        self, position: int, received_at: int, payload: str, user_id: str | None = None
    ) -> None:
        self._write.execute(
            "UPDATE log SET received_at = ?, payload = ?, user_id = coalesce(?, user_id) "
            "WHERE position = ?",
            (received_at, payload, user_id, position),
        )

    def _latest_stamp(self) -> int:
        return int(self._write.execute("SELECT max(received_at) FROM log").fetchone()[0] or 0)

    def _latest_position(self) -> int:
        return int(self._write.execute("SELECT max(position) FROM log").fetchone()[0] or 0)

    def droppable(self, before: int, until: int) -> int:
        first = self._fetch("SELECT min(position) FROM log WHERE received_at >= ?", (before,))
        end = until if first[0][0] is None else min(until, int(first[0][0]) - 1)
        return int(
            self._fetch("SELECT max(position) FROM log WHERE position <= ?", (end,))[0][0] or 0
        )

    def _drop(self, until: int) -> None:
        query = "DELETE FROM log WHERE position <= ? AND kind NOT IN (?, ?)"
        self._write.execute(query, (until, FORGET, OPT_OUT))

    def _renumber(self, after: int, by: int) -> int:
        # Through negative numbers, so that no position is met twice on the way.
        self._write.execute(
            "UPDATE log SET position = -(position + ?) WHERE position > ?", (by, after)
        )
        moved = self._write.execute("UPDATE log SET position = -position WHERE position < 0")
        return int(moved.rowcount)

    def _count_from(self, position: int) -> None:
        self._write.execute("DELETE FROM sqlite_sequence WHERE name = 'log'")
        self._write.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('log', ?)", (position,))

    def _set_about(self, name: str, value: str) -> None:
        self._write.execute(
            "INSERT INTO log_about VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = ?",
            (name, value, value),
        )

    def _erase(self, user_id: str, received_at: int) -> Entry:
        entry = super()._erase(user_id, received_at)
        self._overwrite()
        return entry

    def _move(self, source: str, target: str, received_at: int) -> list[Entry]:
        entries = super()._move(source, target, received_at)
        if entries:
            self._overwrite()
        return entries

    def _overwrite(self) -> None:
        """The write-ahead file still holds the old pages until it is folded into the main file."""
        self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def expire(self, retention: Retention) -> int:
        count = super().expire(retention)
        if count:
            self._overwrite()
        return count

    def _transaction(self, run: Callable[[], T]) -> T:
        if self._found() != self._places:
            self._reopen()
        if self._damage is not None:
            raise self._damage
        with self._explained():
            self._write.execute("BEGIN IMMEDIATE")
            try:
                done = run()
                self._write.execute("COMMIT")
            except BaseException:
                if self._write.in_transaction:
                    self._write.execute("ROLLBACK")
                raise
        self._require_file()
        return done

    def _is_transient(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError)

    def _release(self) -> None:
        # A read may be under way on another thread; closing beneath it ends the process.
        with self._reading:
            for connection in (self._write, self._read):
                if connection is not None:
                    with suppress(sqlite3.Error):
                        connection.close()
            self._write = self._read = self._places = None


def _standing(connection: Any, position: int) -> Standing:
    about = dict(connection.execute("SELECT name, value FROM log_about"))
    end = connection.execute("SELECT max(position) FROM log").fetchone()[0]
    at = connection.execute("SELECT key FROM log WHERE position = ?", (position,)).fetchone()
    return Standing(about, int(end or 0), at[0] if at else None)


def _place(path: Path) -> Place:
    """Device and inode of a file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _unavailable(error: Exception) -> LogUnavailable:
    return LogUnavailable(
        "the log's file does not answer",
        where="serving.log",
        found=str(error),
        fix="see who holds it and that its disk answers",
    )
