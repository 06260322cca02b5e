"""Read-only folders that each machine copies from scratch once, and maps from its own disk.

A folder lies in scratch under what its content is, so two releases never mix; a machine's copy is
made aside and renamed, and made again where it was deleted or damaged.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recsys.data_schemas.errors import RecsysError
from recsys.storage.files import atomic_folder, fault_of_own_folder, files_below
from recsys.storage.scratch import ScratchFolder

WHOLE: Final = "whole.json"
"""File → bytes, beside the folder and written last: what a whole copy holds."""
FILES: Final = "files"
"""Folder of what was put there, beside `WHOLE`."""
VARIABLE: Final = "RECSYS_NODE_CACHE"
"""Names the folder of copies on a machine; the temporary folder's own corner when absent."""

UNUSED_SECONDS: Final = 3 * 86_400
"""Age of a copy's last use at which it goes (assumed: longer than a night is repeated)."""


@dataclass(frozen=True)
class PublishedFolder:
    """A folder in scratch, by its content's name."""

    scratch: ScratchFolder
    name: str

    @classmethod
    def publish(cls, folder: Path, scratch: ScratchFolder, name: str) -> "PublishedFolder":
        """Put a folder there; one that is there already is not copied again.

        Args:
            folder: local, finished and never written again.
            scratch: where published folders lie.
            name: what its content is, such as a digest.
        """
        published = cls(scratch, name)
        sizes = {file: (folder / file).stat().st_size for file in files_below(folder)}
        note = scratch.below(name)
        try:
            there = json.loads(note.read(WHOLE)) == sizes
        except FileNotFoundError:
            there = False
        if not there:
            note.below(FILES).take_in(folder)
            note.write(WHOLE, json.dumps(sizes).encode())
        return published

    def is_there(self) -> bool:
        """Whether scratch holds it whole."""
        try:
            self.scratch.below(self.name).read(WHOLE)
        except FileNotFoundError:
            return False
        return True

    def in_scratch(self) -> Path | None:
        """Where its files lie in scratch; None in object storage."""
        here = self.scratch.below(f"{self.name}/{FILES}")
        return Path(here.address) if here.is_local else None

    def remove(self) -> None:
        """Take it out of scratch."""
        self.scratch.below(self.name).remove()

    def local(self, checked: Callable[[Path], None] | None = None) -> Path:
        """This machine's copy, made if it is not there whole.

        Args:
            checked: raises where what was fetched is not what it should be.

        Raises:
            RecsysError: scratch does not hold the folder.
        """
        there = self.scratch.below(self.name)
        try:
            sizes: dict[str, int] = json.loads(there.read(WHOLE))
        except FileNotFoundError:
            raise RecsysError(
                "a published folder is gone from scratch",
                where=there.address,
                expected="what the driver put there",
                fix="run the same command again; it is published anew",
            ) from None
        target = _corner() / self.name
        with _alone(target):
            if not _is_whole(target, sizes):
                with atomic_folder(target) as aside:
                    there.below(FILES).give_out(aside)
                    if checked is not None:
                        checked(aside)
            os.utime(target)
        _remove_unused()
        return target


def local_folder(folder: Path | PublishedFolder) -> Path:
    """Where a folder lies on this machine."""
    return folder if isinstance(folder, Path) else folder.local()


def remove_copies(begins: Sequence[str], kept: Collection[str], seconds: float) -> None:
    """Remove this machine's copies whose names begin so and which no process has kept for some seconds.

    Whoever uses some calls this again and again, which shows others that they are in use.
    """
    for copy in _corner().iterdir():
        with contextlib.suppress(OSError):
            if not copy.is_dir() or not copy.name.startswith(tuple(begins)):
                continue
            if copy.name in kept:
                os.utime(copy)
            elif time.time() - copy.stat().st_mtime > seconds:
                shutil.rmtree(copy, ignore_errors=True)


def derived(name: str, make: Callable[[Path], None]) -> Path:
    """A folder beside this machine's copies that is made of them, once."""
    target = _corner() / name
    with _alone(target):
        if not target.is_dir():
            with atomic_folder(target) as aside:
                make(aside)
        os.utime(target)
    return target


def forget_copies() -> int:
    """Remove this machine's copies; returns how many. Those of other machines go when they have not
    been asked for for `UNUSED_SECONDS`."""
    if not _place().is_dir():
        return 0
    copies = [p for p in _corner().iterdir() if p.is_dir()]
    for copy in copies:
        shutil.rmtree(copy, ignore_errors=True)
    return len(copies)


def _remove_unused() -> None:
    """A machine that serves night after night keeps no more than the last days' copies."""
    for copy in _corner().iterdir():
        with contextlib.suppress(OSError):
            if copy.is_dir() and time.time() - copy.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(copy, ignore_errors=True)


def _corner() -> Path:
    """This user's folder of copies, which nobody else writes."""
    folder = _place()
    fault = fault_of_own_folder(folder)
    if fault is not None:
        raise RecsysError(
            "the folder for copies must be this user's alone",
            where=str(folder),
            found=fault,
            fix=f"name another in {VARIABLE}",
        )
    return folder


def _place() -> Path:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir(), f"recsys-{os.getuid()}")


def _is_whole(folder: Path, sizes: dict[str, int]) -> bool:
    try:
        return all((folder / file).stat().st_size == size for file, size in sizes.items())
    except OSError:
        return False


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process of the machine at a time; the lock goes with its holder."""
    with target.with_name(f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
