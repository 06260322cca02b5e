"""A small file that another process writes, as a service asks it: read again when it has changed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from recsys.data_schemas.errors import RecsysError
from recsys.storage.files import FileStamp, file_stamp

LOOK_SECONDS: Final = 1.0
"""Between two looks of a service at such a file."""
UNREAD: Final[FileStamp] = (-1, -1, -1)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a file says. Where it cannot be read, what it said before.

    Args:
        path: the file; it may be missing.
        read: reads it; may raise RecsysError.
        said: what holds until the first look.
        every: seconds between two looks.
    """

    def __init__(
        self, path: Path, read: Callable[[], T], said: T, every: float = LOOK_SECONDS
    ) -> None:
        self._path, self._read, self._said, self._every = path, read, said, every
        self._looked = float("-inf")
        self._stamp: FileStamp | None = UNREAD

    def now(self) -> T:
        """What it says by the latest look."""
        moment = time.monotonic()
        if moment - self._looked >= self._every:
            self._looked = moment
            self._look()
        return self._said

    def _look(self) -> None:
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            self._said = self._read()
        except RecsysError:
            return
        self._stamp = stamp
