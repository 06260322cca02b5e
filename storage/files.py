"""Files that are whole or absent: written aside, flushed to the disk, then renamed.

A reader never sees half a file, and a full disk or a kill leaves nothing under the final name.
Hashes here are SHA-256 over content and relative names only: times and owners do not enter.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from recsys.data_schemas.errors import RecsysError

PART = ".part"
"""Suffix of what is still being written; anything carrying it may be removed after a crash."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")

_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


FileStamp = tuple[int, int, int]


def file_stamp(path: Path) -> FileStamp | None:
    """Changes with the file, also when it is replaced by one of its size within a clock's tick; None
    where it cannot be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def sqlite_address(path: Path) -> str:
    """The address of a SQLite file as SQLAlchemy and what stands on it take it.

    They read `%20` for a blank and end the path at `?`, so such a path is written with `%` and bytes;
    the driver is named so that MLflow makes no folder of that name beside.
    """
    if any(ch in str(path) for ch in "%?"):
        return f"sqlite+pysqlite:///{quote(str(path))}"
    return f"sqlite:///{path}"


class DiskFull(RecsysError):
    """The disk has no room for what was being written (exit code 1)."""

    @classmethod
    def at(cls, path: Path, what: str | None = None) -> "DiskFull":
        """The message for `path`: what was being written and how much is free there."""
        return cls(
            "the disk is full",
            where=str(path),
            found=f"{human_bytes(free_bytes(path))} free while writing {what or path.name}",
            fix="free some space and run the same command again; it resumes where it stopped",
        )


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, says that the disk is full.

    Libraries wrap ENOSPC in exceptions of their own (SQLite, DuckDB, Arrow), and numpy's `tofile`
    tells of a short write without an errno, so words count.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        text = str(error).lower()
        if any(words in text for words in _FULL_WORDS) or _SHORT_WRITE.fullmatch(text):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(path: Path) -> int:
    """Bytes free for us on the file system of `path` (or of its nearest existing parent)."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def folder_bytes(path: Path, seen: set[int] | None = None) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile counts 0.

    A file with several names counts once; `seen` holds the numbers of those counted before.
    """
    total, seen = 0, set() if seen is None else seen
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            if found.st_nlink == 1 or found.st_ino not in seen:
                total += found.st_size
                seen.add(found.st_ino)
    return total


def human_bytes(count: float) -> str:
    """`1.5 GB`; decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """`8.2 s`, `22 min 12 s`, `1 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def explain_disk_full(path: Path, what: str | None = None) -> Iterator[None]:
    """Turn a full disk, however a library words it, into `DiskFull`."""
    try:
        yield
    except RecsysError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull.at(path, what) from error
        raise


@contextmanager
def atomic_folder(path: Path | str, what: str | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes otherwise.

    An existing `path` is replaced. `what` names the content in the message of a full disk.

    Raises:
        DiskFull: there was no room; nothing of the new content remains.
    """
    target = Path(path)
    with explain_disk_full(target, what):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = aside_path(target)
        aside.mkdir()
        try:
            yield aside
            replace_folder(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def atomic_file(path: Path | str, what: str | None = None) -> Iterator[Path]:
    """Where to write a file that becomes `path` when the block ends well, and vanishes otherwise.

    An existing `path` is replaced; a symbolic link is not followed. `what` names the content in the
    message of a full disk.

    Raises:
        DiskFull: there was no room; the former content of `path` is untouched.
    """
    target = Path(path)
    with explain_disk_full(target, what):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = aside_path(target)
        try:
            yield aside
            sync_path(aside)
            aside.replace(target)
            sync_path(target.parent)
        finally:
            aside.unlink(missing_ok=True)


def replace_folder(aside: Path, target: Path) -> None:
    """Flush `aside` and rename it to `target`; an older `target` is moved away first."""
    sync_folder(aside)
    old = None
    if target.exists():
        old = aside_path(target)
        target.rename(old)
    aside.rename(target)
    sync_path(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def atomic_write(
    path: Path | str,
    content: bytes | str,
    *,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a whole file aside, flush it and rename it over `path`.

    Args:
        path: the file; a symbolic link is replaced, not followed.
        content: bytes, or text as UTF-8.
        mode: rights of the file; those of a new file when absent.
        owner: (user, group) to give it to; who runs this when absent.

    Raises:
        DiskFull: there was no room; the former content of `path` is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    # A new file, so that no link that lies there is followed.
    with atomic_file(path) as aside, aside.open("xb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.write(data)


def write_json(path: Path | str, value: Any, *, mode: int | None = None) -> None:
    """`atomic_write` of indented JSON with sorted keys."""
    text = json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False)
    atomic_write(path, text + "\n", mode=mode)


def sync_folder(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_path(Path(place, name))
        sync_path(Path(place))


def fault_of_own_folder(folder: Path | str) -> str | None:
    """Why a folder must not hold what is run or trusted without a look; None where only this user can
    write there. It is made where it is missing."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as error:
        return str(error.strerror)
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not others:
        return None
    return "others can write there"


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name where the file system allows it, a copy where not."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _FULL:
            raise
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """A second tree of the same files, without their bytes where hard links work."""
    shutil.copytree(source, target, copy_function=_link_for_copytree, dirs_exist_ok=True)


def _link_for_copytree(source: str, target: str) -> str:
    link_or_copy(Path(source), Path(target))
    return target


def aside_path(target: Path) -> Path:
    """Where to write what is to become `target`: beside it, named after this process."""
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}"


def sync_path(path: Path) -> None:
    """fsync of a file or a folder entry; a symbolic link needs none."""
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(root: Path) -> list[str]:
    """Relative POSIX names of all files below a folder, sorted."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def hash_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: key order does not matter, numbers keep their type.

    Raises:
        TypeError: the value holds something without a JSON form.
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON has it: paths, tuples, sets, numpy scalars and pydantic models included."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted((plain(item) for item in value), key=repr)
        case PurePath():
            return str(value)
        case bytes():
            return value.hex()
    for method in ("model_dump", "tolist", "isoformat"):
        convert = getattr(value, method, None)
        if convert is not None:
            return plain(convert())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r:.100}")
