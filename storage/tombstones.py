"""Who asked to be forgotten: the list that every reading of the caller's files leaves out.

The caller's own files are read again every night and never rewritten, so the workspace has to know
whom to leave out. `work/forgotten.json` holds the user id and the time, nothing else, readable by its
owner only. The id is not hashed: the caller's files hold it anyway, and a hash of a guessable id
would only look like protection.
"""

import json

from recsys.storage.files import (
    atomic_write,
)
from recsys.storage.user_times import read_user_times
from recsys.storage.workspace import Workspace


def forgotten(workspace: Workspace) -> set[str]:
    """Users that must be left out whenever the caller's files are read.

    Raises:
        RecsysError: the tombstone file is damaged; reading on would bring people back.
    """
    return set(times_of_forgetting(workspace))


def times_of_forgetting(workspace: Workspace) -> dict[str, str]:
    """{user id: time of forgetting}"""
    return read_user_times(
        workspace.tombstones,
        "forgotten users",
        "restore it from a copy; without it forgotten people would come back",
    )


def write_tombstone(workspace: Workspace, user_id: str, at: str) -> None:
    """Leave a person out of every later reading; the first time of forgetting stays."""
    users = times_of_forgetting(workspace)
    users.setdefault(user_id, at)
    text = json.dumps({"users": users}, indent=1, sort_keys=True, ensure_ascii=False)
    atomic_write(workspace.tombstones, text + "\n", mode=0o600)
