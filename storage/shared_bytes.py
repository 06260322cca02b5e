"""Where equal bytes lie once, and where they must lie twice.

A release lies twice: as registered artifact and as the local copy that services map. Neither shares
a byte with the other, so that one repairs the other. Stage outputs that hold the same bytes are
further names of the artifact's files; rewriting those in place therefore repairs all names at once.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from recsys.storage.bundle import BundleRefused, open_bundle
from recsys.storage.files import aside_path, files_below, hash_file

LEAST_BYTES: Final = 100_000
"""Smaller files are not worth a look."""


def is_whole(folder: Path, digest: str) -> bool:
    """Whether every byte of a bundle is what was written, looked at afresh."""
    try:
        return open_bundle(folder, afresh=True).digest == digest
    except (BundleRefused, OSError):
        return False


def rewrite(target: Path, source: Path) -> list[str]:
    """Make the files of one folder those of another, in place; returns the names of what differed.

    Cut short, it leaves a target that is still damaged and a source that is still whole.
    """
    wanted, changed = files_below(source), []
    for name in wanted:
        place = target / name
        if place.is_file() and hash_file(place) == hash_file(source / name):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with (
            (source / name).open("rb") as good,
            place.open("r+b" if place.exists() else "wb") as bad,
        ):
            shutil.copyfileobj(good, bad)
            bad.truncate()
            bad.flush()
            os.fsync(bad.fileno())
        changed.append(name)
    for name in sorted(set(files_below(target)) - set(wanted)):
        (target / name).unlink()
        changed.append(name)
    return changed


def share(kept: Path, others: Iterable[Path]) -> int:
    """Make files that equal one of `kept`'s further names of it; returns the bytes freed.

    Args:
        kept: a folder whose files stay as they are.
        others: files that may hold the same bytes, of whatever name; never written to again.
    """
    by_size: dict[int, list[Path]] = {}
    for name in files_below(kept):
        file = kept / name
        by_size.setdefault(file.stat().st_size, []).append(file)
    hashes: dict[Path, str] = {}
    freed = 0
    for other in others:
        with contextlib.suppress(OSError):
            stat = other.lstat()
            same_size = by_size.get(stat.st_size, []) if stat.st_size >= LEAST_BYTES else []
            if not same_size or any(f.stat().st_ino == stat.st_ino for f in same_size):
                continue
            mine = hash_file(other)
            for file in same_size:
                if file not in hashes:
                    hashes[file] = hash_file(file)
                if hashes[file] == mine and _link_over(file, other):
                    freed += stat.st_size if stat.st_nlink == 1 else 0
                    break
    return freed


def _link_over(file: Path, other: Path) -> bool:
    """Give `file` the name `other`; false where the file system has no hard links."""
    aside = aside_path(other)
    try:
        os.link(file, aside)
        aside.replace(other)
    except OSError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True
