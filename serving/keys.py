"""API keys: random, scoped, hashed at rest, exchanged by editing one file.

A key is `rk_<id>_<secret>` with 256 random bits of secret, so a salted SHA-256 is enough: there is
nothing to guess, and a wrong key costs the service microseconds instead of a slow hash.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.yaml_text import read_yaml
from recsys.storage.files import FileStamp, atomic_write, file_stamp

COLLECT = "collect"
"""Scope of a key that may be seen by everybody, in a page: it stores events and does nothing else."""
SCOPES = ("rank", "events", "admin", "replay", COLLECT)
RELOAD_SECONDS = 1.0
STALE_SECONDS = 30.0
"""After which keys are not known any more, where the file's disk does not answer (assumed)."""
_FIELDS = {"id", "name", "scopes", "salt", "sha256", "expires"}


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


class KeysUnreadable(Exception):
    """The keys are not known now; nobody's key is valid."""


class KeyRing:
    """The keys of a file, looked at again every second by a thread of its own.

    What the file does not say any more is not valid: a key that was taken out, an entry that is not
    understood, and every key while the file as a whole cannot be read, because nobody knows which
    ones it would hold. So a mistake locks callers out instead of letting a former key in.

    Raises:
        UsageError: the file cannot be read, or an entry is wrong, when the service starts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The stamp first: a change between the two is then read again, not missed.
        self._stamp = file_stamp(path)
        self._keys = read_keys(path)
        self._looked = time.monotonic()
        self.trouble: str | None = None
        """Why no key is valid now; None where keys are."""
        self._watched, self._stop = False, threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="keys", daemon=True)

    def start(self) -> None:
        """Begin to look at the file, beside the event loop."""
        self._looked, self._watched = time.monotonic(), True
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def scopes(self, presented: str) -> frozenset[str] | None:
        """Scopes of a presented key; None when it is not valid. Reads no file.

        Raises:
            KeysUnreadable: the keys are not known.
        """
        if self.trouble is not None:
            raise KeysUnreadable(self.trouble)
        if self._watched and time.monotonic() - self._looked > STALE_SECONDS:
            raise KeysUnreadable("the key file does not answer")
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id) if prefix == "rk" else None
        if key is None or (key.expires is not None and key.expires <= time.time()):
            return None
        matches = hmac.compare_digest(_digest(key.salt, secret), key.digest)
        return key.scopes if matches else None

    def look(self) -> None:
        """Read the file again where it has changed, or could not be read."""
        stamp = file_stamp(self._path)
        if stamp != self._stamp or stamp is None or self.trouble is not None:
            self._reload(stamp)
        self._looked = time.monotonic()

    def _reload(self, stamp: FileStamp | None) -> None:
        from recsys.serving import telemetry as metrics
        from recsys.serving.logs import log

        wrong: list[str] = []
        try:
            keys, trouble = _read(self._path, wrong.append), None
        except UsageError as error:
            keys, trouble = {}, error.what
            wrong.append(f"{error.what}: {error.found}; no key is valid until it can be read")
        if stamp != self._stamp or trouble != self.trouble:
            for reason in wrong:
                log("error", "keys_refused", reason=reason)
        metrics.KEYS_REFUSED.set(len(wrong))
        self._keys, self._stamp, self.trouble = keys, stamp, trouble

    def _keep_looking(self) -> None:
        while not self._stop.wait(RELOAD_SECONDS):
            self.look()


def read_keys(path: Path) -> dict[str, Key]:
    """Keys of a file by id.

    Raises:
        UsageError: the file is missing, or an entry is wrong.
    """

    def refuse(reason: str) -> None:
        raise _unreadable(path, reason)

    return _read(path, refuse)


def _read(path: Path, refuse: Callable[[str], None]) -> dict[str, Key]:
    """Keys of a file by id; `refuse` is told of each entry that is left out.

    Raises:
        UsageError: the file as a whole cannot be read.
    """
    try:
        raw = read_yaml(path.read_text(encoding="utf-8")) or {}
        entries = raw["keys"]
        if not isinstance(entries, list):
            raise TypeError("`keys` is no list")
    except FileNotFoundError:
        raise UsageError(
            "there is no key file here",
            where=f"serving.keys_file: {path}",
            fix="make one with `recsys keys add NAME --scopes rank,events --file FILE`",
        ) from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from None
    keys: dict[str, Key] = {}
    for n, entry in enumerate(entries, 1):
        try:
            key = _key(entry)
            if key.key_id in keys:
                raise ValueError(f"the id {key.key_id} is there twice")
            keys[key.key_id] = key
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            refuse(f"entry {n} is not understood: {type(error).__name__}: {error}")
    return keys


def _unreadable(path: Path, found: str) -> UsageError:
    return UsageError(
        "the key file cannot be read",
        where=f"serving.keys_file: {path}",
        found=found,
        expected="keys: [{id, name, scopes, salt, sha256, expires?}]",
    )


def _key(entry: dict[str, Any]) -> Key:
    scopes = frozenset(entry["scopes"])
    if not scopes <= set(SCOPES):
        raise ValueError(f"unknown scope {sorted(map(str, scopes - set(SCOPES)))[0]}")
    unknown = sorted(map(str, entry.keys() - _FIELDS))
    if unknown:
        # `expire:` for `expires:` would be a key for ever.
        raise ValueError(f"unknown field {unknown[0]}")
    return Key(
        key_id=str(entry["id"]),
        name=str(entry["name"]),
        scopes=scopes,
        salt=bytes.fromhex(str(entry["salt"])),
        digest=bytes.fromhex(str(entry["sha256"])),
        expires=_expiry(entry.get("expires")),
    )


def _expiry(value: object) -> float | None:
    """Unix seconds from which on a key is not valid: a time, or a day from its beginning, UTC where
    no zone is given."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime) and isinstance(value, date):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise ValueError(f"expires is {value!r}, not a time such as 2030-01-31T12:00:00Z")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def add_key(path: Path, name: str, scopes: Sequence[str]) -> str:
    """Add a key to a file (made if absent, readable by its owner alone); give the key, once.

    Raises:
        UsageError: a scope is not known, or the file cannot be read.
    """
    if not scopes or not set(scopes) <= set(SCOPES):
        raise UsageError(
            "unknown scope", where="--scopes", found=",".join(scopes), expected=", ".join(SCOPES)
        )
    key_id, secret, salt = secrets.token_hex(4), secrets.token_hex(32), secrets.token_bytes(16)
    added = Key(key_id, name, frozenset(scopes), salt, _digest(salt, secret))
    with _alone(path):
        keys = read_keys(path) if path.exists() else {}
        _write(path, [*keys.values(), added])
    return f"rk_{key_id}_{secret}"


def remove_key(path: Path, key_id: str) -> None:
    """Take a key out of a file.

    Raises:
        UsageError: the file has no such key.
    """
    with _alone(path):
        keys = read_keys(path)
        if key_id not in keys:
            raise UsageError("no such key", where=str(path), found=key_id, expected=", ".join(keys))
        _write(path, [key for key in keys.values() if key.key_id != key_id])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change of the file at a time among all processes; what another has added is seen."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder itself: a lock file of its own would belong to whoever came first.
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unchangeable(path, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise _unchangeable(path, error) from None
        yield
    finally:
        os.close(handle)


def _unchangeable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        "the key file cannot be changed here",
        where=str(path.parent),
        found=error.strerror,
        expected="a folder on a local disk that this user may read and write",
    )


def _write(path: Path, keys: Sequence[Key]) -> None:
    """A whole new file, for the same owner as before: the service must still be able to read it."""
    text = yaml.safe_dump({"keys": [_entry(key) for key in keys]}, sort_keys=False)
    try:
        before = path.stat()
    except FileNotFoundError:
        atomic_write(path, text, mode=0o600)
        return
    owner = (before.st_uid, before.st_gid)
    ours = owner == (os.geteuid(), os.getegid())
    atomic_write(path, text, mode=before.st_mode & 0o777, owner=None if ours else owner)


def _entry(key: Key) -> dict[str, Any]:
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
