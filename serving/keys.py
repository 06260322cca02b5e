"""API keys: random, scoped, hashed at rest, exchanged by editing one file.

A key is `rk_<id>_<secret>` with 256 random bits of secret, so a salted SHA-256 is enough: there is
nothing to guess, and a wrong key costs the service microseconds instead of a slow hash.
"""

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recsys.data_schemas.errors import UsageError

COLLECT = "collect"
"""Scope of a key that may be seen by everybody, in a page: it stores events and does nothing else."""
SCOPES = ("rank", "events", "admin", "replay", COLLECT)
RELOAD_SECONDS = 1.0


@dataclass(frozen=True)
class Key:
    """One key as the file holds it."""

    key_id: str
    name: str
    scopes: frozenset[str]
    salt: bytes
    digest: bytes
    expires: float | None = None
    """Unix seconds; None for never."""


class KeyRing:
    """The keys of a file, read again within a second of a change.

    A file that became unreadable keeps the keys read before, so a half-made edit locks nobody out.

    Raises:
        UsageError: the file cannot be read when the service starts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The stamp first: a change between the two is then read again, not missed.
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        self._looked = time.monotonic()

    def scopes(self, presented: str) -> frozenset[str] | None:
        """Scopes of a presented key; None when it is not valid."""
        self._reload()
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id) if prefix == "rk" else None
        if key is None or (key.expires is not None and key.expires < time.time()):
            return None
        matches = hmac.compare_digest(_digest(key.salt, secret), key.digest)
        return key.scopes if matches else None

    def _reload(self) -> None:
        if time.monotonic() - self._looked < RELOAD_SECONDS:
            return
        self._looked = time.monotonic()
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            try:
                self._keys, self._stamp = read_keys(self._path), stamp
            except UsageError as error:
                from recsys.serving.logs import log

                log("error", "keys_not_reloaded", reason=error.what)


def read_keys(path: Path) -> dict[str, Key]:
    """Keys of a file by id.

    Raises:
        UsageError: the file is missing or an entry is wrong.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        entries = raw["keys"]
        keys = [_key(entry) for entry in entries]
    except FileNotFoundError:
        raise UsageError(
            "there is no key file here",
            where=f"serving.keys_file: {path}",
            fix="make one with `recsys keys add NAME --scopes rank,events --file FILE`",
        ) from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "the key file cannot be read",
            where=f"serving.keys_file: {path}",
            found=f"{type(error).__name__}: {error}",
            expected="keys: [{id, name, scopes, salt, sha256, expires?}]",
        ) from None
    return {key.key_id: key for key in keys}


def _key(entry: dict[str, Any]) -> Key:
    scopes = frozenset(entry["scopes"])
    if not scopes <= set(SCOPES):
        raise ValueError(f"unknown scope {sorted(scopes - set(SCOPES))[0]}")
    expires = entry.get("expires")
    return Key(
        key_id=str(entry["id"]),
        name=str(entry["name"]),
        scopes=scopes,
        salt=bytes.fromhex(str(entry["salt"])),
        digest=bytes.fromhex(str(entry["sha256"])),
        expires=None if expires is None else float(expires.timestamp()),
    )


def add_key(path: Path, name: str, scopes: Sequence[str]) -> str:
    """Add a key to a file (made if absent, readable by its owner alone); give the key, once.

    Raises:
        UsageError: a scope is not known, or the file cannot be read.
    """
    if not scopes or not set(scopes) <= set(SCOPES):
        raise UsageError(
            "unknown scope", where="--scopes", found=",".join(scopes), expected=", ".join(SCOPES)
        )
    keys = read_keys(path) if path.exists() else {}
    key_id, secret, salt = secrets.token_hex(4), secrets.token_hex(32), secrets.token_bytes(16)
    added = Key(key_id, name, frozenset(scopes), salt, _digest(salt, secret))
    _write(path, [*keys.values(), added])
    return f"rk_{key_id}_{secret}"


def remove_key(path: Path, key_id: str) -> None:
    """Take a key out of a file.

    Raises:
        UsageError: the file has no such key.
    """
    keys = read_keys(path)
    if key_id not in keys:
        raise UsageError("no such key", where=str(path), found=key_id, expected=", ".join(keys))
    _write(path, [key for key in keys.values() if key.key_id != key_id])


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Write aside, sync, rename."""
    entries = [_entry(key) for key in keys]
    aside = path.with_name(path.name + ".tmp")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump({"keys": entries}, file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _entry(key: Key) -> dict[str, Any]:
    from datetime import UTC, datetime

    entry: dict[str, Any] = {
        "id": key.key_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "salt": key.salt.hex(),
        "sha256": key.digest.hex(),
    }
    if key.expires is not None:
        entry["expires"] = datetime.fromtimestamp(key.expires, UTC)
    return entry


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes with the file, also when it is replaced by one of its size within a clock's tick."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
