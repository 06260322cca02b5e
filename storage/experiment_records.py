"""Experiments of a workspace: which versions are held against each other, for whom, since when.

`work/experiments.json` holds no id of a person: who belongs to which arm follows from a hash of the
unit and the experiment's own salt, in every worker alike and after every restart.
"""

import hashlib
import json
import secrets
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.storage.files import write_json
from recsys.storage.watched_file import LOOK_SECONDS, WatchedFile
from recsys.storage.workspace import Workspace

CONTROL, CHALLENGER, INTERLEAVED = "control", "challenger", "interleaved"
CHAMPION_ARM: Final = "champion"
"""The control's arm where it is whichever version is the champion."""
FORMAT: Final = 1
Kind = Literal["ab", "interleave"]


@dataclass(frozen=True)
class DeclaredExperiment:
    """One experiment as it was started."""

    name: str
    kind: Kind
    challenger: str
    """Version."""
    control: str | None
    """Version; None: whichever is the champion."""
    share: float
    """Of the units: those that get the challenger, or interleaved lists."""
    salt: str
    unit: Literal["user", "session"] = "user"
    started: int = 0
    """µs UTC."""
    position: int = 0
    """Last position of the log when it was started."""
    stopped: int | None = None
    """µs UTC; None while it runs."""
    reason: str = ""
    """Why it was stopped."""
    settings: dict[str, Any] | None = None
    """The config's `experiments:` when it was started; None where it was made by a flag."""

    def arm_of(self, unit: str) -> str | None:
        """The arm of a unit; None where it takes no part."""
        inside = unit_share(unit, self.salt) < self.share
        if self.kind == "interleave":
            return INTERLEAVED if inside else None
        if inside:
            return CHALLENGER
        return CHAMPION_ARM if self.control is None else CONTROL

    def pseudonym(self, unit: str) -> str:
        """By which a visit is known again within this experiment, and nowhere else."""
        return hashlib.blake2b(f"{self.salt}\x1fu\x1f{unit}".encode(), digest_size=12).hexdigest()


def unit_share(unit: str, salt: str) -> float:
    """A unit's place in [0, 1), always the same for the same salt."""
    digest = hashlib.blake2b(f"{salt}\x1f{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def read_experiments(workspace: Workspace) -> list[DeclaredExperiment]:
    """All experiments, the oldest first.

    Raises:
        RecsysError: the file is damaged.
    """
    file = workspace.experiments
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        return [DeclaredExperiment(**one) for one in tree["experiments"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecsysError(
            "the list of experiments cannot be read",
            where=str(file),
            found=str(error)[:200],
            expected="what `recsys experiments start` writes",
            fix="restore it from a copy; or remove it, and nobody is dealt to any arm",
        ) from None


def find_experiment(workspace: Workspace, name: str) -> DeclaredExperiment:
    """One by its name.

    Raises:
        UsageError: there is none.
    """
    known = read_experiments(workspace)
    found = next((one for one in known if one.name == name), None)
    if found is None:
        raise UsageError(
            "there is no such experiment",
            where=str(workspace.experiments),
            found=name,
            expected=", ".join(one.name for one in known) or "none was started yet",
        )
    return found


def start_experiment(workspace: Workspace, new: DeclaredExperiment) -> DeclaredExperiment:
    """Add one with a salt of its own; one runs at a time.

    Raises:
        UsageError: another is running, or there was one of that name.
    """
    known = read_experiments(workspace)
    running = next((one for one in known if one.stopped is None), None)
    if running is not None:
        raise UsageError(
            "another experiment is running",
            where=str(workspace.experiments),
            found=running.name,
            fix=f"`recsys experiments stop {running.name}` first: arms of two would mix",
        )
    if any(one.name == new.name for one in known):
        raise UsageError(
            "there was an experiment of this name",
            where=str(workspace.experiments),
            found=new.name,
            expected="a new name, by which its lists are logged",
        )
    started = replace(new, salt=secrets.token_hex(8), started=time.time_ns() // 1000)
    _write(workspace, [*known, started])
    return started


def stop_experiment(workspace: Workspace, name: str, reason: str) -> DeclaredExperiment:
    """End one; its record stays.

    Raises:
        UsageError: there is none of that name, or it was stopped before.
    """
    found = find_experiment(workspace, name)
    if found.stopped is not None:
        raise UsageError("the experiment was stopped before", where=name, found=found.reason)
    stopped = replace(found, stopped=time.time_ns() // 1000, reason=reason)
    known = read_experiments(workspace)
    _write(workspace, [stopped if one.name == name else one for one in known])
    return stopped


def _write(workspace: Workspace, experiments: list[DeclaredExperiment]) -> None:
    workspace.folder(".")
    tree = {"format": FORMAT, "experiments": [asdict(one) for one in experiments]}
    write_json(workspace.experiments, tree, mode=0o640)


class ExperimentList:
    """The running experiment as a service asks for it; the file is read again when it has changed.

    Args:
        workspace: whose experiments.
        every: seconds between two looks at the file.
    """

    def __init__(self, workspace: Workspace, every: float = LOOK_SECONDS) -> None:
        self._file: WatchedFile[DeclaredExperiment | None] = WatchedFile(
            workspace.experiments, partial(_running, workspace), None, every
        )

    def running(self) -> DeclaredExperiment | None:
        """The one that runs now; where the file cannot be read, the one that ran before."""
        return self._file.now()


def _running(workspace: Workspace) -> DeclaredExperiment | None:
    return next((one for one in read_experiments(workspace) if one.stopped is None), None)
