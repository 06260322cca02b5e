"""Everything a run writes lies under one folder, and one run at a time writes there.

work/
  tables/      ingested tables          stages/   stage outputs, by name and key
  state/       state snapshots          reports/  one folder per night
  log/         the durable log, traces  mlflow/   database and artifacts
  bundles/     one local copy per digest          cache/    item vectors by text hash
  uses/        which stage outputs each run used, for collection
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.errors import RecsysError
from recsys.storage.files import (
    PART,
    explain_disk_full,
    folder_bytes,
    write_json,
)

BEAT_SECONDS = 20.0
"""How often a holder shows that it lives."""
SILENT_SECONDS = 300.0
"""A lock of another machine or container without a sign of life for this long is stale."""
KEEP_NIGHTS = 3
"""Runs whose stage outputs are kept, at the least."""
KEEP_REPORTS = 14
"""Nights whose report folders are kept, at the least: as many as the registry keeps versions."""
ORPHAN_SECONDS = 24 * 3600.0
"""Age after which something half-written is taken for an orphan where no lock protects it."""

STATE_STAGE = "state"
"""The stage that makes the snapshot of the online state."""
STATE_MARKER = "state.json"
"""In each snapshot of `state/`: what it holds."""
SIMULATION_PLAN = "plan.json"
"""In a backtest's own workspace: its cuts."""
LOG_FILE = "log.sqlite"
"""In `log/`: the embedded event log."""

_NIGHT = re.compile(r"\d{8}T\d{6}")
"""Name of a night's folder in `reports/`; what else lies there is not ours to remove."""
_WRITER = re.compile(r"\.(\d+)-[0-9a-f]+\.part$")
"""The process in the name of what `recsys.storage.files` writes aside."""

StageId = tuple[str, str]
"""(stage name, key)"""


class WorkspaceBusy(RecsysError):
    """Another run holds the workspace (exit code 1)."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    started: float
    """Start of the process, seconds since the epoch; tells a reused pid from the holder."""
    host: str
    boot: str
    """Boot and process namespace: a pid means something only inside the same one."""
    since: str
    command: str
    token: str

    @classmethod
    def me(cls) -> "Holder":
        return cls(
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            host=socket.gethostname(),
            boot=_boot(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            command=redacted(
                " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv))
            )[:200],
            token=os.urandom(8).hex(),
        )

    @classmethod
    def read(cls, path: Path) -> "Holder | None":
        """The holder a lock file names; None when there is none, or it names nobody."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def gone(self, silent: float) -> str | None:
        """Why this holder can no longer be at work, or None when it may be.

        `silent` is how long ago it last showed life, in seconds.
        """
        if self.host == socket.gethostname() and self.boot == _boot():
            try:
                started = psutil.Process(self.pid).create_time()
            except psutil.NoSuchProcess:
                return f"process {self.pid} has ended"
            # create_time is read from clock ticks: 10 ms of rounding at most (measured on Linux).
            if abs(started - self.started) > 1.0:
                return f"pid {self.pid} now belongs to another process"
            return None
        if silent > SILENT_SECONDS:
            return f"{self.host} has shown no life for {silent:.0f} s"
        return None


def _boot() -> str:
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


class Workspace:
    """The folder of a run. Sub-folders come into being when first asked for."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def folder(self, name: str) -> Path:
        """A sub-folder, made when absent."""
        place = self.path / name
        try:
            if not self.path.exists():
                # Ids of people lie below: whoever is not of the group finds a closed door.
                self.path.mkdir(mode=0o750, parents=True, exist_ok=True)
            place.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise _not_ours(place, error) from None
        return place

    @cached_property
    def stages(self) -> Path:
        return self.folder("stages")

    def newest_output(self, stage: str) -> Path | None:
        """The output of a stage that was written last; None before the first."""
        outputs = [p for p in _folders(self.path / "stages" / stage) if not p.name.endswith(PART)]
        return max(outputs, key=lambda folder: folder.stat().st_mtime_ns, default=None)

    @cached_property
    def tables(self) -> Path:
        return self.folder("tables")

    @cached_property
    def reports(self) -> Path:
        return self.folder("reports")

    @cached_property
    def state(self) -> Path:
        return self.folder("state")

    @cached_property
    def mlflow(self) -> Path:
        return self.folder("mlflow")

    @cached_property
    def log(self) -> Path:
        return self.folder("log")

    @cached_property
    def cache(self) -> Path:
        return self.folder("cache")

    @cached_property
    def bundles(self) -> Path:
        return self.folder("bundles")

    @cached_property
    def uses(self) -> Path:
        return self.folder("uses")

    @cached_property
    def receipts(self) -> Path:
        return self.folder("receipts")

    # Files and folders that their writers make.

    @property
    def current_state(self) -> Path:
        """Names the snapshot to start from."""
        return self.path / "state" / "current.json"

    def current_snapshot(self) -> Path | None:
        """The snapshot to start from; None where no night has finished."""
        try:
            name = json.loads(self.current_state.read_text(encoding="utf-8"))["snapshot"]
        except (OSError, ValueError, KeyError):
            return None
        return self.current_state.parent / str(name)

    @property
    def tombstones(self) -> Path:
        """Who asked to be forgotten."""
        return self.path / "forgotten.json"

    @property
    def opt_outs(self) -> Path:
        """Who does not want to be learned from."""
        return self.path / "opted_out.json"

    @property
    def experiments(self) -> Path:
        """Experiments that were started, with their settings."""
        return self.path / "experiments.json"

    @property
    def live(self) -> Path:
        """What the lists of the last days led to, as the last night found it."""
        return self.path / "live.json"

    @property
    def adopted(self) -> Path:
        """What was drained of logs that the one in use took the place of."""
        return self.path / "log" / "adopted"

    @property
    def simulation(self) -> Path:
        """The backtest's own workspace."""
        return self.path / "backtest"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def vectors(self) -> Path:
        """Texts' vectors by hash of the text and encoder."""
        return self.cache / "vectors"

    @property
    def frozen_vectors(self) -> Path:
        """The same by the encoder before fine-tuning."""
        return self.cache / "frozen-vectors"

    @property
    def window_plan(self) -> Path:
        """The cuts of the last night."""
        return self.cache / "windows.json"

    @property
    def recipe(self) -> Path:
        """The recipe of sources in use."""
        return self.cache / "recipe.json"

    @property
    def encoder(self) -> Path:
        """The encoder in use."""
        return self.cache / "encoder.json"

    @property
    def encoder_ages(self) -> Path:
        """What the encoder was worth, night by night."""
        return self.cache / "encoder-ages.json"

    @property
    def encoder_checkpoints(self) -> Path:
        return self.cache / "encoder-checkpoints"

    @property
    def encoder_search(self) -> Path:
        """Trials of a search over the encoder's settings."""
        return self.cache / "encoder-search.db"

    @property
    def warm_starts(self) -> Path:
        """Earlier fits that tonight's may start from."""
        return self.cache / "warm.json"

    @property
    def registered(self) -> Path:
        """What the last night registered, by its inputs."""
        return self.cache / "registered.json"

    # --- lock ---------------------------------------------------------------------------------

    @property
    def lock_file(self) -> Path:
        return self.path / "lock.json"

    @contextmanager
    def lock(self) -> Iterator[str | None]:
        """Hold the workspace; yields a note when a dead run's lock was taken over.

        A holder on this machine is known by pid and start time; one of another machine or
        container by the lock file's time, renewed every 20 s.

        Raises:
            WorkspaceBusy: another run is at work.
        """
        self.folder(".")
        me, note = self._acquire()
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), name="lock-beat", daemon=True)
        beat.start()
        try:
            yield note
        finally:
            stop.set()
            beat.join()
            self._release(me)

    def _acquire(self) -> tuple[Holder, str | None]:
        with self._guard():
            other = Holder.read(self.lock_file)
            note = None
            if other is not None:
                silent = max(0.0, time.time() - self.lock_file.stat().st_mtime)
                reason = other.gone(silent)
                if reason is None:
                    raise WorkspaceBusy(
                        "another run is at work in this workspace",
                        where=str(self.path),
                        found=f"`{other.command}`, process {other.pid} on {other.host}, "
                        f"since {other.since}",
                        fix="wait for it to end; the lock of a run that died is recognised",
                    )
                note = f"took over the lock of a run from {other.since}: {reason}"
            me = Holder.me()
            write_json(self.lock_file, me.__dict__)
        return me, note

    def _release(self, me: Holder) -> None:
        with self._guard():
            now = Holder.read(self.lock_file)
            if now is not None and now.token == me.token:
                self.lock_file.unlink(missing_ok=True)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.lock_file)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Milliseconds of exclusiveness around reading and writing the lock file.

        The kernel's lock alone would not do: a forked child inherits it, and it cannot name
        its holder.
        """
        try:
            handle = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except PermissionError as error:
            raise _not_ours(self.path / ".lock", error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # --- collection -----------------------------------------------------------------------------

    def record_use(self, run: str, used: Iterable[StageId]) -> None:
        """Remember which stage outputs a run used.

        Called after every stage, so nothing is flushed: what a crash of the machine loses here
        costs a stage to be run again at worst.
        """
        target = self.uses / f"{run}.json"
        aside = target.with_name(f".{target.name}{PART}")
        with explain_disk_full(target):
            aside.write_text(json.dumps(sorted(set(used))), encoding="utf-8")
            aside.replace(target)

    def used_by(self, runs: int) -> set[StageId]:
        """Stage outputs used by the latest `runs` runs."""
        kept: set[StageId] = set()
        for file in sorted(self.uses.glob("*.json"))[-runs:] if runs else []:
            with contextlib.suppress(ValueError, OSError):
                kept |= {(name, key) for name, key in json.loads(file.read_text())}
        return kept

    def collect(
        self,
        keep_nights: int = KEEP_NIGHTS,
        *,
        pinned: Collection[StageId] = (),
        digests: Collection[str] | None = None,
        reports: Collection[str] | None = None,
    ) -> int:
        """Remove what nothing needs; call it holding the lock. Returns the bytes freed.

        The rule: a stage output stays while one of the last `keep_nights` runs used it or it is
        `pinned` (outputs that champion and previous were made from); a local bundle copy stays
        while its digest is among `digests` (versions in use; all stay when None); the current
        state snapshot and the one before it stay; a night's report folder stays while it is one of
        the newest KEEP_REPORTS or its name is among `reports` (those of versions with an alias; all
        stay when None); whatever was left half-written goes.
        """
        kept = self.used_by(keep_nights) | {(name.split("#")[0], key) for name, key in pinned}
        freed = 0
        for stage in _folders(self.stages):
            for output in _folders(stage):
                if output.name.endswith(PART) or (stage.name, output.name) not in kept:
                    freed += remove(output)
        for bundle in _folders(self.bundles):
            if digests is None or bundle.name in digests or bundle.name.endswith(PART):
                continue
            freed += remove(bundle)
            for note in self.bundles.glob(f"{bundle.name}.*json"):
                note.unlink(missing_ok=True)
        for old in [*self._old_snapshots(), *self._old_reports(reports)]:
            freed += remove(old)
        for file in sorted(self.uses.glob("*.json"))[: -keep_nights or None]:
            file.unlink(missing_ok=True)
        return freed + sum(remove(p) for p in self._orphans())

    def remove_old_snapshots(self) -> int:
        """Remove the snapshots that nothing needs; call it holding the lock. Returns the bytes freed."""
        return sum(remove(old) for old in self._old_snapshots())

    def _old_snapshots(self) -> list[Path]:
        """State snapshots but the current one and the latest other, which a service may be on."""
        current = self.current_snapshot()
        if current is None:
            return []
        others = [p for p in _folders(self.state) if p != current and not p.name.endswith(PART)]
        return sorted(others, key=lambda p: -p.stat().st_mtime_ns)[1:]

    def _old_reports(self, kept: Collection[str] | None) -> list[Path]:
        """Report folders of nights but the newest and those to be kept; their names are times."""
        if kept is None:
            return []
        nights = [p for p in _folders(self.reports) if _NIGHT.fullmatch(p.name)]
        return [p for p in nights[:-KEEP_REPORTS] if p.name not in kept]

    def _orphans(self) -> list[Path]:
        """Half-written things at the levels where we write aside, whose writer is gone.

        The lock keeps other runs away, but a service may be writing beside us.
        """
        places = [self.path, *_folders(self.path), *_folders(self.stages)]
        return [p for place in places for p in place.iterdir() if _abandoned(p)]

    def keep_only(self, stages: Collection[str], used: Collection[StageId]) -> int:
        """Remove the outputs of some stages but those used; returns the bytes freed."""
        return sum(
            remove(output)
            for name in stages
            for output in _folders(self.stages / name)
            if (name, output.name) not in used
        )

    def usage(self) -> dict[str, int]:
        """Bytes by sub-folder, largest first, and `total`; what lies in several counts once."""
        seen: set[int] = set()
        sizes = {p.name: folder_bytes(p, seen) for p in _folders(self.path)}
        ordered = dict(sorted(sizes.items(), key=lambda entry: -entry[1]))
        return ordered | {"total": sum(sizes.values())}


def _not_ours(place: Path, error: OSError) -> RecsysError:
    return RecsysError(
        "the workspace cannot be written",
        where=str(place),
        found=error.strerror or str(error),
        expected="a folder this user may write",
        fix="change `workspace:` in the config, or the folder's owner",
    )


def _folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else []


def _abandoned(path: Path) -> bool:
    """Whether something half-written will never be finished: its process is gone, or it is old."""
    if not path.name.endswith(PART):
        return False
    writer = _WRITER.search(path.name)
    pid = int(writer[1]) if writer else None
    at_work = pid is not None and pid != os.getpid() and psutil.pid_exists(pid)
    return not at_work or _age(path) > ORPHAN_SECONDS


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def remove(path: Path) -> int:
    """Remove a file or folder; returns its bytes."""
    if path.is_dir() and not path.is_symlink():
        freed = folder_bytes(path)
        shutil.rmtree(path, ignore_errors=True)
        return freed
    freed = path.lstat().st_size
    path.unlink(missing_ok=True)
    return freed


def as_stage_ids(value: Any) -> set[StageId]:
    """Stage ids from a manifest's `stages` mapping {name or name#n: key}."""
    if not isinstance(value, dict):
        return set()
    return {(str(name).split("#")[0], str(key)) for name, key in value.items()}
