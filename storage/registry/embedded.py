"""The embedded SQLite store read without MLflow, whose import takes seconds.

What serves now, and where is it? is asked by every service worker every few seconds. So the aliases,
tags and versions are read from MLflow's own tables. Everything else goes through MLflow's client, but
for the addresses of a workspace that was moved, for which it has no call. Tables that are not those
known here, or hold more than one of MLflow's workspaces, make `known` false, and the client is used for
all.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from recsys.storage.files import DiskFull, is_disk_full
from recsys.storage.registry.version_tags import DIGEST_TAG, RegistryError, Version

BUSY_SECONDS = 10.0
_DELETED = "Deleted_Internal"
_WORKSPACE = "workspace"
"""Column of later MLflows, part of the key of all their tables of models."""
_TABLES: Mapping[str, frozenset[str]] = {
    "registered_model_aliases": frozenset({"alias", "version", "name"}),
    "registered_model_tags": frozenset({"key", "value", "name"}),
    "model_version_tags": frozenset({"key", "value", "name", "version"}),
    "model_versions": frozenset(
        {
            "name",
            "version",
            "creation_time",
            "current_stage",
            "source",
            "storage_location",
            "run_id",
        }
    ),
}
"""The columns used here, of MLflow 3.1 to 3.17."""
_LOCATIONS = (
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow keeps addresses of files besides an experiment's own."""

_NEEDS_RECOVERY = ("readonly", "read-only", "unable to open")
"""SQLite's words when a killed writer left a transaction that a reader alone cannot undo."""

Rows = list[tuple[Any, ...]]


class EmbeddedStore:
    """MLflow's tables of one registered model in one SQLite file."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name

    def known(self) -> bool:
        """Whether the tables look as expected; an absent database holds nothing and does."""
        if not self.path.exists():
            return True
        for table, columns in _TABLES.items():
            found = {row[1] for row in self._query(f"pragma table_info({table})")}
            if found and not columns <= found:
                return False
            if _WORKSPACE in found:
                inside = self._query(f"select distinct {_WORKSPACE} from {table} limit 2")
                if len(inside) > 1:
                    return False
        return True

    def aliases(self) -> dict[str, int]:
        rows = self._query(
            "select alias, version from registered_model_aliases where name = ?", self._name
        )
        return {alias: int(version) for alias, version in rows}

    def model_tags(self) -> dict[str, str]:
        return dict(
            self._query("select key, value from registered_model_tags where name = ?", self._name)
        )

    def versions(self) -> list[Version]:
        """All versions that were registered whole."""
        tags: dict[int, dict[str, str]] = {}
        for version, key, value in self._query(
            "select version, key, value from model_version_tags where name = ?", self._name
        ):
            tags.setdefault(int(version), {})[key] = value
        aliases = self.aliases()
        rows = self._query(
            "select version, creation_time, coalesce(storage_location, source), run_id "
            "from model_versions where name = ? and current_stage <> ?",
            self._name,
            _DELETED,
        )
        return [
            Version.of(int(number), int(created), tags[int(number)], aliases, source, run_id)
            for number, created, source, run_id in rows
            if DIGEST_TAG in tags.get(int(number), {})
        ]

    def move(self, experiment: str, root: Path) -> None:
        """Let an experiment, its runs and versions lie in a folder, where the workspace was moved or
        copied there; what is not in that folder stays where it was.

        Args:
            experiment: its name.
            root: the folder of artifacts as it is now.
        """
        rows = self._query(
            "select experiment_id, artifact_location from experiments where name = ?", experiment
        )
        location = root.as_uri()
        if not rows or rows[0][1] in (location, str(root)):
            return
        number, before = rows[0]
        with (
            self._failing(),
            contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database,
            database,
        ):
            database.execute(
                "update experiments set artifact_location = ? where experiment_id = ?",
                (location, number),
            )
            for table, column in _LOCATIONS:
                found = database.execute(
                    f"select rowid, {column} from {table} where substr({column}, 1, ?) = ?",
                    (len(before) + 1, f"{before}/"),
                ).fetchall()
                for row, address in found:
                    tail = str(address)[len(before) + 1 :]
                    if (root / unquote(tail)).exists():
                        database.execute(
                            f"update {table} set {column} = ? where rowid = ?",
                            (f"{location}/{tail}", row),
                        )

    def _query(self, sql: str, *values: Any) -> Rows:
        if not self.path.exists():
            return []
        try:
            with self._failing():
                try:
                    return self._ask("ro", sql, values)
                except sqlite3.OperationalError as error:
                    if not any(words in str(error) for words in _NEEDS_RECOVERY):
                        raise
                    return self._ask("rw", sql, values)
        except _NoTable:
            return []

    def _ask(self, mode: str, sql: str, values: tuple[Any, ...]) -> Rows:
        address = f"{self.path.as_uri()}?mode={mode}"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS)) as base:
            return base.execute(sql, values).fetchall()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """SQLite's errors in our words."""
        try:
            yield
        except sqlite3.Error as error:
            if "no such table" in str(error):
                # MLflow makes its tables in several steps; before them nothing is registered.
                raise _NoTable from None
            if is_disk_full(error):
                raise DiskFull.at(self.path, "the registry's database") from error
            locked = isinstance(error, sqlite3.OperationalError)
            raise RegistryError(
                "the registry's database " + ("does not answer" if locked else "is damaged"),
                where=str(self.path),
                found=str(error),
                fix="see who holds it and that its disk answers, then run the same command again"
                if locked
                else "restore it from a copy; the bundles in the workspace are unharmed",
            ) from error


class _NoTable(Exception):
    """The database is still being made."""
