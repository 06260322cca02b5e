"""Who does not want to be learned from: served as somebody new, and in no table of a night.

What such a person does is still taken in, so that their own data can be given to them and the wish
can be taken back. `work/opted_out.json` holds ids and times, readable by its owner only.
"""

import time
from typing import Final

from recsys.data_schemas.errors import RecsysError
from recsys.storage.files import write_json
from recsys.storage.user_times import read_user_times
from recsys.storage.workspace import Workspace

LOOK_SECONDS: Final = 1.0
"""Between two looks of a service at the list."""


def opted_out(workspace: Workspace) -> dict[str, str]:
    """{user id: time of the wish}

    Raises:
        RecsysError: the list is damaged; reading on would learn from people against their wish.
    """
    return read_user_times(
        workspace.opt_outs,
        "users who opted out",
        "restore it from a copy; without it they would be learned from against their wish",
    )


def opt_out(workspace: Workspace, user_id: str, at: str) -> None:
    """Note a wish; the first time stays."""
    _write(workspace, {user_id: at} | opted_out(workspace))
    # What learned from the person is not gone on from: the next fits start from scratch.
    workspace.warm_starts.unlink(missing_ok=True)


def opt_in(workspace: Workspace, user_id: str) -> bool:
    """Take a wish back; whether there was one."""
    users = opted_out(workspace)
    found = users.pop(user_id, None) is not None
    if found:
        _write(workspace, users)
    return found


def _write(workspace: Workspace, users: dict[str, str]) -> None:
    workspace.folder(".")
    write_json(workspace.opt_outs, {"users": users}, mode=0o600)


class OptOutList:
    """The list as a service asks it, read again when it has changed.

    Args:
        workspace: whose list.
        every: seconds between two looks at the file.
    """

    def __init__(self, workspace: Workspace, every: float = LOOK_SECONDS) -> None:
        self._workspace, self._every = workspace, every
        self._looked = float("-inf")
        self._stamp: tuple[int, int] | None = None
        self._users: frozenset[str] = frozenset(opted_out(workspace))

    def __contains__(self, user_id: object) -> bool:
        now = time.monotonic()
        if now - self._looked >= self._every:
            self._looked = now
            self._look()
        return user_id in self._users

    def _look(self) -> None:
        """A list that cannot be read leaves the one that was read before."""
        try:
            found = self._workspace.opt_outs.stat()
            stamp = (found.st_ino, found.st_mtime_ns)
        except OSError:
            stamp = (0, 0)
        if stamp != self._stamp:
            try:
                self._users = frozenset(opted_out(self._workspace))
            except RecsysError:
                return
            self._stamp = stamp
