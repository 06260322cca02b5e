"""One stage = one folder under the hash of what it was made from.

`work/stages/<name>/<key>/` holds a finished output; its `stage.json`, written last, says so. A run
that was killed leaves only a `.part` folder, which the next run redoes (or, for a stage that keeps
checkpoints of its own, hands back to it). The same inputs and code give the same key, so a
repeated night does nothing and a changed setting redoes exactly what depends on it. Between two
nights some outputs rest (`rest.py`): opening makes them whole again.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from recsys.data_schemas.addresses import redact
from recsys.storage.files import (
    PART,
    explain_disk_full,
    files_below,
    folder_bytes,
    hash_json,
    human_bytes,
    plain,
    replace_folder,
    write_json,
)
from recsys.storage.progress import Reporter
from recsys.storage.stages.cost import Meter, give_memory_back
from recsys.storage.stages.identity import (
    KEY_LENGTH,
    MARKER,
    changes,
    code_version,
    in_words,
)
from recsys.storage.stages.rest import DROPPED, packed
from recsys.storage.stages.stage import Facts, Stage, StageResult, T
from recsys.storage.workspace import StageId, Workspace

LAST = "last.json"
FORMAT = 1


class StageRunner:
    """Runs the stages of one night, remembering what earlier nights did.

    Args:
        workspace: where outputs are kept; the caller holds its lock (unless `dry_run`).
        reporter: told what runs, what is unchanged and why.
        dry_run: nothing is run or written; each stage says what it would do.
        run: name of this run, sorting by time; the outputs it uses are kept by the last runs' rule.
        on_end: told of each output once, made now or by an earlier run.
    """

    def __init__(
        self,
        workspace: Workspace,
        reporter: Reporter | None = None,
        dry_run: bool = False,
        run: str | None = None,
        on_end: Callable[[StageResult[Any]], None] | None = None,
    ) -> None:
        self._on_end = on_end
        self.workspace = workspace
        self.dry_run = dry_run
        self.results: list[StageResult[Any]] = []
        self._reporter = reporter if reporter is not None else Reporter()
        self._met: dict[StageId, None] = {}
        """Stages and keys of this run so far, in order."""
        self._inside: list[float] = []
        """Of each stage that is running, outermost first: seconds spent in stages inside it."""
        self._run = run or f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"

    @property
    def outputs(self) -> list[StageResult[Any]]:
        """Each output of this run once, as it was first met: one that was made in this run and then
        asked for again is no output of an earlier one."""
        first: dict[StageId, StageResult[Any]] = {}
        for result in self.results:
            first.setdefault((result.name, result.key), result)
        return list(first.values())

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds: of the stages that this run did, and what the outputs of earlier runs that it used
        cost when they were made."""
        now = sum(result.seconds for result in self.outputs if not result.skipped)
        return now, sum(result.seconds for result in self.outputs if result.skipped)

    @property
    def used(self) -> dict[str, str]:
        """{stage name: key} of this run, for the bundle's manifest.

        A stage that ran with several keys has its further ones under `name#2`, `name#3`, ….
        """
        used: dict[str, str] = {}
        for name, keys in self._keys().items():
            for place, key in enumerate(keys, 1):
                used[name if place == 1 else f"{name}#{place}"] = key
        return used

    def _keys(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for result in self.results:
            known = keys.setdefault(result.name, [])
            if result.key not in known:
                known.append(result.key)
        return keys

    def run(self, stage: Stage[T]) -> StageResult[T]:
        """The stage's output: the kept one when what it reads and its code are unchanged, a new one
        otherwise; in a dry run, what it would be.

        Raises:
            DiskFull: nothing half-written remains.
        """
        identity, key, path = self._place(stage)
        kept, damage = _kept(path)
        if kept is not None and stage.usable is not None and not stage.usable(kept["facts"]):
            kept, damage = None, "something in its kept output had failed"
        if kept is not None:
            result = self._found(stage, key, path, kept)
            again = partial(self._make_again, stage, result, identity)
            result = replace(result, made_again=again)
        else:
            reason = damage or self._why(identity, path)
            result = StageResult.planned(stage, key, path, reason)
            if self.dry_run:
                self._reporter.say(f"{stage.name}: would run because {reason}")
            else:
                self._reporter.say(f"{stage.name}: running because {reason}")
                result = self._do(stage, result, identity)
        self._remember(result)
        return result

    def find(self, stage: Stage[T]) -> StageResult[T] | None:
        """The kept output of a stage, which this run then uses; None without one."""
        _, key, path = self._place(stage)
        kept, _ = _kept(path)
        if kept is None or kept.get(DROPPED):
            return None
        result = self._found(stage, key, path, kept)
        self._remember(result)
        return result

    def _place(self, stage: Stage[T]) -> tuple[dict[str, Any], str, Path]:
        """(identity, key, folder) of a stage's output.

        Passwords of addresses are neither kept nor part of the key: a new one makes nothing anew.
        """
        code = code_version(tuple(stage.deciding))
        identity = {"inputs": redact(plain(stage.reads)), "code": code}
        key = hash_json({"stage": stage.name, "format": FORMAT, **identity})[:KEY_LENGTH]
        return identity, key, self.workspace.path / "stages" / stage.name / key

    def _found(
        self, stage: Stage[T], key: str, path: Path, marker: dict[str, Any]
    ) -> StageResult[T]:
        if (stage.name, key) not in self._met:
            self._reporter.say(f"{stage.name}: unchanged ({key[:8]})")
        told = {name: marker[name] for name in ("facts", "seconds", "peak_mb", "bytes")}
        return StageResult(
            stage.name, key, path, skipped=True, reason="unchanged", opens=stage.opens, **told
        )

    def _make_again(self, stage: Stage[T], kept: StageResult[T], identity: dict[str, Any]) -> None:
        """Files of an output that a later stage turns out to need."""
        reason = "its files were put away"
        plan = replace(kept, skipped=False, reason=reason, made_again=None)
        self._reporter.say(f"{kept.name}: running because {reason}")
        self.results.append(self._do(stage, plan, identity))

    def _do(
        self, stage: Stage[T], plan: StageResult[T], identity: dict[str, Any]
    ) -> StageResult[T]:
        part = _aside(plan.path)
        with explain_disk_full(plan.path, f"the output of stage {plan.name}"):
            if not stage.resumable:
                shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True, exist_ok=True)
            # A killed write of a checkpoint left its file aside; nobody will rename it now.
            for aside in list(part.rglob(f".*{PART}")):
                if aside.is_dir():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.unlink(missing_ok=True)
            try:
                with self._metered() as meter, self._reporter.working(plan.name):
                    facts = _as_read_again(stage.makes(part) or {})
                give_memory_back()
                result = replace(
                    plan,
                    facts=facts,
                    seconds=round(meter.own_seconds, 3),
                    peak_mb=round(meter.peak_mb, 1),
                    bytes=folder_bytes(part),
                )
                self._finish(part, result, identity | {"personal": stage.personal})
            except BaseException:
                if not stage.resumable:
                    shutil.rmtree(part, ignore_errors=True)
                raise
        self._reporter.say(
            f"{plan.name}: {result.seconds:.1f} s, peak {result.peak_mb:,.0f} MB, "
            f"{human_bytes(result.bytes)} ({plan.key[:8]})"
        )
        return result

    @contextlib.contextmanager
    def _metered(self) -> Iterator[Meter]:
        """Measures a stage; `own_seconds` leave out what the stages inside it took, which are counted
        under their own names."""
        self._inside.append(0.0)
        meter = Meter()
        try:
            with meter:
                yield meter
        finally:
            meter.own_seconds = max(0.0, meter.seconds - self._inside.pop())
            if self._inside:
                self._inside[-1] += meter.seconds

    def _finish(self, part: Path, result: StageResult[Any], identity: dict[str, Any]) -> None:
        marker = {
            "format": FORMAT,
            "name": result.name,
            "key": result.key,
            **identity,
            "facts": result.facts,
            "reason": result.reason,
            "seconds": result.seconds,
            "peak_mb": result.peak_mb,
            "bytes": result.bytes,
            "files": {f: (part / f).stat().st_size for f in files_below(part)},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(part / MARKER, marker)
        replace_folder(part, result.path)
        write_json(result.path.parent / LAST, identity | {"key": result.key})

    def _why(self, identity: dict[str, Any], path: Path) -> str:
        """Why there is no output to use, against the earlier run that is nearest.

        A stage may run several times a night (once for each cut), so the latest run of the same
        name is not always the one to compare with: the one with fewest changes is, the latest of
        those.
        """
        if _aside(path).exists():
            return "it was interrupted"
        earlier = _earlier(path.parent)
        if not earlier:
            return "it has not run yet"
        now = _comparable(identity)
        changed = min((changes(before, now) for before in earlier), key=len)
        return in_words(changed) or "its output is no longer kept"

    def _remember(self, result: StageResult[Any]) -> None:
        """Keep the result, without what was opened of it; a night asks for the same sources at many
        cuts, which is said once."""
        self.results.append(replace(result))
        stage: StageId = (result.name, result.key)
        if stage in self._met:
            return
        self._met[stage] = None
        if not self.dry_run:
            self.workspace.record_use(self._run, list(self._met))
            if self._on_end is not None:
                self._on_end(result)


def _aside(path: Path) -> Path:
    """Where an output is made before it gets its place."""
    return path.parent / f".{path.name}{PART}"


def stage_and_key(out: Path) -> str:
    """Names what is being made in a folder that a stage is given to fill: by its stage and its key, so
    that a further try is named alike."""
    return f"{out.parent.name}-{out.name.removeprefix('.').removesuffix(PART)}"


def _as_read_again(facts: Facts) -> dict[str, Any]:
    """Facts as later nights find them in the marker, in its order of keys: whether a stage ran or was
    found must make no difference to what follows."""
    again: dict[str, Any] = json.loads(json.dumps(redact(plain(facts)), sort_keys=True))
    return again


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity.get("inputs", {}), "code": identity.get("code", {})}


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """What earlier runs of a stage were made from, latest first."""
    markers = sorted(folder.glob(f"*/{MARKER}"), key=lambda f: -f.stat().st_mtime_ns)
    found = []
    for file in [folder / LAST, *markers]:
        with contextlib.suppress(OSError, ValueError):
            found.append(_comparable(json.loads(file.read_text(encoding="utf-8"))))
    return found


def _kept(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """A finished output's marker, or (None, damage) when it cannot be used."""
    try:
        marker: dict[str, Any] = json.loads((path / MARKER).read_text(encoding="utf-8"))
        files = marker["files"]
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, OSError):
        return None, "its kept output has an unreadable marker"
    for name, size in files.items():
        if marker.get(DROPPED) or packed(path / name).exists():
            continue
        try:
            found = (path / name).stat().st_size
        except OSError:
            return None, f"its kept output lacks {name}"
        if found != size:
            return None, f"its kept output is damaged: {name} has {found} bytes, not {size}"
    return marker, None
