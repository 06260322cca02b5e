"""Which workspace this is: a random identity, kept where a copy of the folder is told from it.

`workspace.json` holds the identity with the place and the inode it was given at. A copy of the
folder has another inode or stands beside the original, so it gets an identity of its own. What the
original made, in a store that both reach, is then not the copy's to delete.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from recsys.storage.files import atomic_write
from recsys.storage.workspace import Workspace

FILE: Final = "workspace.json"


def workspace_id(workspace: Workspace) -> str:
    """The workspace's own identity, made when absent or when this is a copy of another one."""
    file = workspace.folder(".") / FILE
    known = _read(file)
    if known is not None and _is_here(file, known):
        return str(known["id"])
    if known is not None and _was_moved(file, known):
        return _write(file, str(known["id"]), fresh=False)
    return _write(file, uuid4().hex, fresh=True)


def _read(file: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(known, dict) and {"id", "path", "inode"} <= known.keys():
            return known
    return None


def _is_here(file: Path, known: dict[str, Any]) -> bool:
    return bool(known["path"] == str(file.resolve()) and known["inode"] == _inode(file))


def _was_moved(file: Path, known: dict[str, Any]) -> bool:
    """Whether it is the very file, and no longer where it was: hard links stand in both places."""
    return bool(known["inode"] == _inode(file) and _inode(Path(known["path"])) != known["inode"])


def _inode(file: Path) -> int | None:
    """None where there is no file. The device is left out: its number may change with a reboot."""
    try:
        return file.stat().st_ino
    except OSError:
        return None


def _write(file: Path, identity: str, *, fresh: bool) -> str:
    """Keep an identity with the place it is at. A fresh file gets an inode of its own; afterwards it
    is filled in place."""
    if fresh:
        atomic_write(file, "{}\n")
    known = {"id": identity, "inode": _inode(file), "path": str(file.resolve())}
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return identity
