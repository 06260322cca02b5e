"""Releases in MLflow: one joint version per night, and which of them serves.

Aliases: `champion` serves, `previous` is what `rollback` returns to, `challenger` is the latest
candidate that was registered but not promoted. The history of champions (when, why, from what)
is kept in tags of the registered model. A version comes into being with all its tags in one
transaction after its files are in place, so a killed registration leaves nothing that looks valid.

The embedded SQLite store is read without importing MLflow (see `embedded`); any other store is asked, and
every store is changed, through MLflow's client.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse
from urllib.request import url2pathname

from recsys.data_schemas.addresses import redact, redacted
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.storage.bundle import FEATURES, Bundle, BundleRefused, open_bundle
from recsys.storage.files import (
    atomic_file,
    atomic_folder,
    explain_disk_full,
    plain,
    sqlite_address,
)
from recsys.storage.loopback import exempt
from recsys.storage.registry.embedded import EmbeddedStore
from recsys.storage.registry.mlflow_folder import DATA, owner_of, write_model
from recsys.storage.registry.version_tags import (
    CHALLENGER,
    CHAMPION,
    DIGEST_TAG,
    HISTORY_TAG,
    LOCATION_TAG,
    METRICS_TAG,
    OWNER_TAG,
    PREVIOUS,
    REPORT_TAG,
    Change,
    Changes,
    RegistryError,
    Version,
    Versions,
)
from recsys.storage.shared_bytes import is_whole, rewrite, share
from recsys.storage.workspace import STATE_STAGE, Workspace
from recsys.storage.workspace_id import workspace_id

KIND_TAG: Final = "recsys.kind"
NOTE_TAG: Final = "mlflow.note.content"
"""Where MLflow's pages look for the description of a run."""
KEEP_VERSIONS: Final = 14
"""Versions kept besides those with an alias: two weeks of nights."""
KNOCK_SECONDS: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_MODEL = "model"
_REGISTRY_MODULES = frozenset(
    {"mlflow", "sqlalchemy", "requests", "urllib3", "botocore", "boto3", "psycopg2", "psycopg"}
)
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
Numbers = list[int]
Sentences = list[str]
Pairs = list[tuple[str, Any]]
Aliases = Mapping[str, int | None]


class Registry:
    """The releases of one workspace's model.

    Args:
        config: names the model, the tracking URI and the artifacts' location.
    """

    def __init__(self, config: RecsysConfig) -> None:
        self.name = config.name
        self.workspace = Workspace(config.workspace_path)
        self._experiment = config.tracking.experiment
        database = config.workspace_path / "mlflow" / "mlflow.db"
        self.embedded = config.tracking.uri is None
        self.uri = _with_driver(config.tracking.uri or sqlite_address(database))
        self._store = EmbeddedStore(database, self.name)
        location = config.tracking.artifacts
        if location is not None and "://" not in location:
            location = config.path(location).as_uri()
        if location is None and self.embedded:
            location = (config.workspace_path / "mlflow" / "artifacts").as_uri()
        self._artifacts = location
        self._root = _as_path(location) if location is not None else None
        """The folder of artifacts as it is now; None for a remote store."""

    # --- reading ------------------------------------------------------------------------------

    def champion(self) -> int | None:
        """The version that serves; None before the first promotion. Milliseconds when embedded."""
        return self.alias(CHAMPION)

    def alias(self, alias: str) -> int | None:
        """The version an alias points to."""
        return self._aliases().get(alias)

    def list(self) -> Versions:
        """All valid versions, newest first."""
        found = self._store.versions() if self._direct else self._read_client()
        return sorted(found, key=lambda v: -v.version)

    def show(self, version: int) -> Version:
        """One version.

        Raises:
            UsageError: there is no such version; the message lists those there are.
        """
        versions = self.list()
        for entry in versions:
            if entry.version == version:
                return entry
        raise UsageError(
            "there is no such model version",
            where=f"models:/{self.name}",
            found=version,
            expected=", ".join(str(v.version) for v in versions) or "none is registered yet",
            fix="`recsys models list` shows them",
        )

    def history(self) -> Changes:
        """Who was champion when and why, oldest first."""
        tags = self._model_tags()
        entries = sorted((k, v) for k, v in tags.items() if k.startswith(HISTORY_TAG))
        return [Change(**json.loads(value)) for _, value in entries]

    def resolve(self, reference: str | int | None) -> int:
        """A version from `3`, `champion`, `models:/NAME/3` or `models:/NAME@champion`.

        Raises:
            UsageError: it names another model, an unknown alias or version.
        """
        text = str(reference if reference is not None else CHAMPION)
        if text.startswith("models:/"):
            text = self._of_uri(text)
        if text.isdecimal():
            return self.show(int(text)).version
        version = self.alias(text)
        if version is None:
            raise UsageError(
                "no model version has this name",
                where=f"models:/{self.name}",
                found=text,
                expected="a version number, or one of "
                + (", ".join(self._aliases()) or "no alias yet"),
                fix="run `recsys nightly` first" if text == CHAMPION else None,
            )
        return version

    def _of_uri(self, uri: str) -> str:
        rest = uri.removeprefix("models:/")
        for mark in ("@", "/"):
            name, separator, wanted = rest.rpartition(mark)
            if separator and name == self.name:
                return wanted
        raise UsageError(
            "the model's address names another model",
            found=uri,
            expected=f"models:/{self.name}/VERSION or models:/{self.name}@ALIAS",
        )

    def local_path(self, version: int) -> Path:
        """The one local copy of a version's bundle, verified; fetched when absent.

        Raises:
            BundleRefused: the stored bundle does not match its manifest.
        """
        entry = self.show(version)
        target = self.workspace.bundles / entry.digest
        if target.is_dir():
            with contextlib.suppress(BundleRefused):
                return open_bundle(target).path
        with self._alone(entry.digest):
            if target.is_dir():
                # Another worker fetched it while we waited, or the copy was damaged.
                with contextlib.suppress(BundleRefused):
                    return open_bundle(target).path
            self._fetch(entry, target)
            found = open_bundle(target).digest
            if found != entry.digest:
                raise BundleRefused(
                    "the stored bundle is not the one that was registered",
                    where=f"{entry.source} (version {version})",
                    found=f"digest {found[:16]}…",
                    expected=f"digest {entry.digest[:16]}…",
                    fix="roll back, or run `recsys nightly`",
                )
        return target

    def _fetch(self, entry: Version, target: Path) -> None:
        with atomic_folder(target, f"the local copy of version {entry.version}") as folder:
            stored = self._stored(entry)
            if stored is not None:
                source = stored / "data" / DATA
                if not source.is_dir():
                    raise BundleRefused(
                        "a registered version has lost its files",
                        where=str(source),
                        found="no such folder",
                        fix="restore it, or promote another version",
                    )
                # Bytes of its own: what damages one copy leaves the other to repair it from.
                shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
            else:
                self._download(entry.source, folder)

    def _stored(self, entry: Version) -> Path | None:
        """The local folder of a version's model; None where it lies in a remote store.

        In the folder of artifacts as it is now, whatever address was written down: the workspace
        may have been moved, or be a copy whose original still serves.
        """
        own = self._own_place(entry)
        if own is not None and own.is_dir():
            return own
        return _as_path(entry.source)

    def _own_place(self, entry: Version) -> Path | None:
        """Where a version's model lies in the folder of artifacts; None for a remote store."""
        written = _as_path(entry.source)
        if self._root is None or written is None:
            return None
        tail = entry.tags.get(LOCATION_TAG) or "/".join(written.parts[-3:])
        place = (self._root / tail).resolve()
        return place if place.is_relative_to(self._root.resolve()) else None

    def _owns(self, entry: Version) -> bool:
        """Whether this workspace registered a version; one that does not say is anybody's."""
        return entry.owner == self._id

    def _download(self, source: str, folder: Path) -> None:
        with (
            self._asked("fetching a bundle"),
            tempfile.TemporaryDirectory(dir=folder.parent) as aside,
        ):
            from mlflow.artifacts import download_artifacts

            got = download_artifacts(
                artifact_uri=f"{source.rstrip('/')}/data/{DATA}",
                dst_path=aside,
                tracking_uri=self.uri,
            )
            shutil.copytree(got, folder, dirs_exist_ok=True, copy_function=shutil.move)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """One at a time among the processes of a machine: a fetch of a digest, a change of aliases."""
        handle = os.open(
            self.workspace.bundles / f".{what}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666
        )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # --- writing ------------------------------------------------------------------------------

    def register(
        self,
        bundle_dir: Path | str,
        tags: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        report_dir: Path | str | None = None,
        *,
        costs: Mapping[str, float] | None = None,
        challenger: bool = True,
        run_name: str | None = None,
        description: str = "",
    ) -> int:
        """Register a bundle as the next version; a bundle already registered keeps its version.

        Args:
            bundle_dir: folder of a finished bundle.
            tags: further tags of the version, JSON-able.
            metrics: what the version is compared by; kept in its tags and its run.
            report_dir: report that is kept beside the version; None without.
            costs: what making it cost; kept in its run only.
            challenger: whether it may be tried beside the champion; a rejected one may not.
            run_name: of the registration's run; MLflow makes one up when None.
            description: shown on the version's page and the run's.

        Raises:
            BundleRefused: the bundle does not match its manifest.
            RegistryError: the registry does not answer.
        """
        bundle = open_bundle(bundle_dir)
        for known in self.list():
            if known.digest == bundle.digest:
                if challenger:
                    self._offer(known)
                return known.version
        with self._asked("registering a version"):
            self._bury_killed()
            number = self._register(
                bundle, tags or {}, metrics or {}, costs or {}, report_dir, run_name, description
            )
            if challenger:
                self._client.set_registered_model_alias(self.name, CHALLENGER, str(number))
        return number

    def _register(
        self,
        bundle: Bundle,
        tags: Mapping[str, Any],
        metrics: Mapping[str, float],
        costs: Mapping[str, float],
        report_dir: Path | str | None,
        run_name: str | None,
        description: str,
    ) -> int:
        client = self._client
        note = {NOTE_TAG: description} if description else {}
        run = client.create_run(
            self._experiment_id,
            tags={KIND_TAG: "registration", OWNER_TAG: self._id, **note},
            run_name=run_name,
        )
        run_id = run.info.run_id
        try:
            self._log_run(run_id, bundle, {**metrics, **costs}, report_dir)
            self._log_data(run_id, bundle)
            source = self._store_model(run.info.artifact_uri, run_id, bundle)
            self._ensure_model()
            version = client.create_model_version(
                self.name,
                source=source,
                run_id=run_id,
                description=description or None,
                tags={
                    **{str(key): redacted(str(value)) for key, value in tags.items()},
                    DIGEST_TAG: bundle.digest,
                    OWNER_TAG: self._id,
                    **self._location(source),
                    METRICS_TAG: json.dumps(plain(metrics)),
                    REPORT_TAG: str(report_dir) if report_dir else "",
                },
            )
            client.set_terminated(run_id, "FINISHED")
        except BaseException:
            with contextlib.suppress(Exception):
                client.set_terminated(run_id, "KILLED")
                self._bury(run_id, run.info.artifact_uri)
            raise
        return int(version.version)

    def _location(self, source: str) -> dict[str, str]:
        """The tag that says where a model lies in a local folder of artifacts."""
        stored = _as_path(source)
        if stored is None or self._root is None or not stored.is_relative_to(self._root):
            return {}
        return {LOCATION_TAG: stored.relative_to(self._root).as_posix()}

    def log_curves(self, kind: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Keep the curves of a fit, (step, value) by name, as a run of their own.

        Raises:
            RegistryError: the registry does not answer.
        """
        from mlflow.entities import Metric

        with self._asked(f"logging the curves of the {kind}"):
            run = self._client.create_run(
                self._experiment_id,
                tags={KIND_TAG: kind, OWNER_TAG: self._id},
            )
            now = int(time.time() * 1000)
            points = [
                Metric(_metric_name(name), float(value), now, step)
                for name, curve in curves.items()
                for step, value in curve
            ]
            for low in range(0, len(points), 1000):
                self._client.log_batch(run.info.run_id, points[low : low + 1000])
            self._client.set_terminated(run.info.run_id, "FINISHED")

    def _offer(self, known: Version) -> None:
        """Finish a registration that was cut short before its version became the challenger."""
        if not known.aliases and known == self.list()[0] and not self._was_champion(known.version):
            with self._asked("naming the challenger"):
                self._client.set_registered_model_alias(self.name, CHALLENGER, str(known.version))

    def _was_champion(self, version: int) -> bool:
        return any(change.version == version for change in self.history())

    def _log_run(
        self,
        run_id: str,
        bundle: Bundle,
        metrics: Mapping[str, float],
        report_dir: Path | str | None,
    ) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        numbers = [
            Metric(_metric_name(name), float(value), now, 0)
            for name, value in metrics.items()
            if isinstance(value, int | float)
        ]
        config = bundle.manifest.get("config") or {}
        params = [Param(name, str(value)[:500]) for name, value in _flat(redact(config))]
        for low in range(0, max(len(numbers), len(params)), 100):
            self._client.log_batch(run_id, numbers[low : low + 100], params[low : low + 100])
        if report_dir is not None and Path(report_dir).exists():
            self._client.log_artifacts(run_id, str(report_dir), "report")

    def _log_data(self, run_id: str, bundle: Bundle) -> None:
        """The tables that the version was learned from, as the run's data set: by the key of the
        night's own copy, for where the caller's lie is in no registry."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        key = str((bundle.facts.get("stages") or {}).get("tables", ""))
        if not key:
            return
        window = bundle.manifest.get("data_window")
        source = json.dumps({"stage": f"tables/{key}"})
        profile = json.dumps({"items": bundle.n_items, "time in µs": window})
        data = Dataset("tables", key[:36], "recsys", source, profile=profile)
        inputs = [DatasetInput(data, [InputTag("mlflow.data.context", "training")])]
        self._client.log_inputs(run_id, inputs)

    def _store_model(self, artifact_uri: str, run_id: str, bundle: Bundle) -> str:
        """Put the pyfunc model (the bundle within) among the run's artifacts; returns its URI."""
        stored = _as_path(artifact_uri)
        if stored is not None:
            target = stored / _MODEL
            with atomic_folder(target, "a registered model") as folder:
                write_model(folder, bundle, run_id, _MODEL, self._id)
        else:
            with (
                explain_disk_full(self.workspace.cache, "a registered model"),
                tempfile.TemporaryDirectory(dir=self.workspace.cache) as aside,
            ):
                write_model(Path(aside) / _MODEL, bundle, run_id, _MODEL, self._id)
                self._client.log_artifacts(run_id, str(Path(aside) / _MODEL), _MODEL)
        return f"{artifact_uri.rstrip('/')}/{_MODEL}"

    def promote(self, version: int, reason: str) -> int:
        """Make a version the champion; the former champion becomes `previous`. Repeating is safe.

        The bundle is fetched and verified first: a champion can always be loaded.
        """
        self.local_path(version)
        with self._asked("promoting a version"), self._alone("aliases"):
            before = self.champion()
            changes: dict[str, int | None] = {}
            if before != version:
                changes |= {PREVIOUS: before} if before is not None else {}
                changes |= {CHAMPION: version}
            if self.alias(CHALLENGER) == version:
                changes[CHALLENGER] = None
            self._change(changes, Change.now("promote", version, before, reason))
        return version

    def rollback(self, reason: str = "rolled back by hand") -> int:
        """Return to the champion before; repeating changes nothing. Returns the champion.

        Afterwards nothing is `previous` until the next promotion, so that a repeated call cannot
        bring the withdrawn version back.

        Raises:
            UsageError: there never was another champion.
        """
        with self._asked("rolling back"), self._alone("aliases"):
            champion, previous = self.champion(), self.alias(PREVIOUS)
            if previous is None or previous == champion:
                past = self.history()
                if champion is not None and past and past[-1].action == "rollback":
                    return champion
                raise UsageError(
                    "there is nothing to roll back to",
                    where=f"models:/{self.name}",
                    found=f"champion {champion}, no version before it",
                    fix="choose a version with `recsys models promote VERSION`",
                )
            self.local_path(previous)
            note = Change.now("rollback", previous, champion, reason)
            self._change({CHAMPION: previous, PREVIOUS: None}, note)
        return previous

    def hold(self, aliases: Mapping[str, int | None]) -> None:
        """Keep versions under further names while something needs them; None lets one go."""
        with self._asked("naming versions"), self._alone("aliases"):
            self._change(dict(aliases), Change.now("hold", 0, None, ""))

    def tag(self, version: int, tags: Mapping[str, Any]) -> None:
        """Add tags to a version (the gate's reasons)."""
        with self._asked("tagging a version"):
            for key, value in tags.items():
                text = redacted(str(value))
                self._client.set_model_version_tag(self.name, str(version), key, text)

    def collect(self, keep: int = KEEP_VERSIONS) -> Numbers:
        """Delete versions beyond the latest `keep` that no alias names; returns them.

        Only what this workspace's own registry holds and made: of a registry that others share,
        their versions stay, and so do files that do not lie in its own folder of artifacts.
        """
        old = [v for v in self.list()[keep:] if not v.aliases]
        old = [v for v in old if self.embedded or self._owns(v)]
        if old:
            with self._asked("deleting old versions"):
                for entry in old:
                    self._client.delete_model_version(self.name, str(entry.version))
                    self._remove_files(entry)
                    self._drop_run(entry.run_id)
        return [entry.version for entry in old]

    def _remove_files(self, entry: Version) -> None:
        """Delete a version's artifacts, where they are this workspace's own."""
        place = self._own_place(entry)
        if place is not None:
            within = self._root is not None and self._root.resolve().is_relative_to(
                self.workspace.path.resolve()
            )
            if within or owner_of(place) == self._id:
                shutil.rmtree(place.parent, ignore_errors=True)
        elif _as_path(entry.source) is None and self._owns(entry):
            self._repository(entry).delete_artifacts()

    def _repository(self, entry: Version) -> Any:
        """What remote store keeps of a version, its report included."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(entry.source.removesuffix(f"/{_MODEL}"))

    def drop_reports(self) -> int:
        """Delete the copies of reports that a remote store keeps beside the versions; how many
        versions there are. Those in a folder are the caller's to clean file by file."""
        remote = [v for v in self.list() if _as_path(v.source) is None and self._owns(v)]
        if remote:
            with self._asked("deleting reports"):
                for entry in remote:
                    self._repository(entry).delete_artifacts("report")
        return len(remote)

    def repair(self, *, look_only: bool = False) -> Sentences:
        """Compare the two copies of each version with an alias byte by byte, and mend one from the
        other; returns a sentence for each that was damaged.

        Args:
            look_only: damage is told and nothing written.
        """
        told: Sentences = []
        for entry in self.list():
            stored = self._stored(entry) if entry.aliases else None
            if stored is None:
                continue
            kept, local = stored / "data" / DATA, self.workspace.bundles / entry.digest
            whole = {place: is_whole(place, entry.digest) for place in (kept, local)}
            damaged = [place for place, sound in whole.items() if place.is_dir() and not sound]
            for place in damaged:
                sound = next((other for other, is_sound in whole.items() if is_sound), None)
                how = "no other copy of it is whole: promote another version, or run a night"
                if sound is not None:
                    how = f"{sound} is whole" if look_only else f"repaired from {sound}"
                if sound is not None and not look_only:
                    self._mend(place, sound, local)
                told.append(f"version {entry.version}: the copy in {place} was damaged; {how}")
        return told

    def _mend(self, place: Path, sound: Path, local: Path) -> None:
        """The local copy, which services map, is replaced; the artifact, whose files may have further
        names among the stage outputs, is written in place."""
        if place == local:
            with atomic_folder(local, "the local copy of a version") as folder:
                shutil.copytree(sound, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        else:
            rewrite(place, sound)

    def share_stage_outputs(self) -> int:
        """Make stage outputs that equal files of the champion's artifact further names of these;
        returns the bytes freed.

        Nothing is shared with the local copies, nor with what is rewritten when a person is
        forgotten: the online state.
        """
        champion = self.champion()
        stored = None if champion is None else self._stored(self.show(champion))
        if stored is None:
            return 0
        outputs = (stage for stage in self.workspace.stages.iterdir() if stage.name != STATE_STAGE)
        files = (file for stage in outputs for file in stage.rglob("*") if file.is_file())
        return share(stored / "data" / DATA, files)

    def declarations(self) -> Iterator[tuple[int, str]]:
        """(version, text of its feature declarations) of the versions in a local folder of artifacts."""
        for entry in self.list():
            stored = self._stored(entry)
            with contextlib.suppress(OSError):
                if stored is not None:
                    file = stored / "data" / DATA / FEATURES
                    yield entry.version, file.read_text(encoding="utf-8")

    def digests_in_use(self) -> set[str]:
        """Digests of the versions with an alias; their local copies are kept."""
        return {v.digest for v in self.list() if v.aliases}

    def reports_in_use(self) -> set[str]:
        """Names of the report folders of the versions with an alias; they are kept."""
        return {Path(v.report).name for v in self.list() if v.aliases and v.report}

    def check(self) -> str:
        """Ask the registry for anything; returns what it is.

        Raises:
            RegistryError: it does not answer.
        """
        if self.embedded:
            count = len(self.list())
            return f"embedded SQLite, {count} version{'s' if count != 1 else ''}"
        with self._asked("asking the registry"):
            self._client.search_registered_models(max_results=1)
        return redacted(self.uri)

    # --- MLflow's client ------------------------------------------------------------------------

    @cached_property
    def _id(self) -> str:
        return workspace_id(self.workspace)

    @cached_property
    def _client(self) -> Any:
        quiet_mlflow()
        if not self.embedded:
            exempt(self.uri)
            _knock(self.uri)
        from mlflow.tracking import MlflowClient

        quiet_logging()
        if self.embedded and not self._store.path.exists():
            _make_database(self._store.path)
        if self.embedded and self._root is not None:
            self._store.move(self._experiment, self._root)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @cached_property
    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._experiment, self._artifacts))

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _change(self, aliases: Aliases, change: Change) -> None:
        """Change aliases, noting a change of champion in the history, once however often repeated.

        Each call of the client is a transaction. The note comes first and the aliases in the order
        given, so that whatever cuts a change short leaves a champion, and repeating finishes it.
        """
        if not aliases:
            return
        past = self.history()
        if CHAMPION in aliases and not (past and past[-1].same_as(change)):
            key = f"{HISTORY_TAG}{len(past):06d}"
            self._client.set_registered_model_tag(self.name, key, json.dumps(asdict(change)))
        for alias, version in aliases.items():
            if version is None:
                self._client.delete_registered_model_alias(self.name, alias)
            else:
                self._client.set_registered_model_alias(self.name, alias, str(version))

    def _bury_killed(self) -> None:
        """Remove runs of ours that a killed registration left."""
        runs = self._client.search_runs(
            [self._experiment_id],
            filter_string=f"attributes.status = 'RUNNING' and tags.`{KIND_TAG}` = 'registration' "
            f"and tags.`{OWNER_TAG}` = '{self._id}'",
        )
        used = {version.run_id for version in self.list()}
        for run in runs:
            if run.info.run_id in used:
                self._client.set_terminated(run.info.run_id, "FINISHED")
            else:
                self._client.set_terminated(run.info.run_id, "KILLED")
                self._bury(run.info.run_id, run.info.artifact_uri)

    def _bury(self, run_id: str, artifact_uri: str) -> None:
        """Remove a run of this workspace's own and what it left."""
        stored = _as_path(artifact_uri)
        if stored is not None:
            shutil.rmtree(stored, ignore_errors=True)
        self._drop_run(run_id)

    def _drop_run(self, run_id: str | None) -> None:
        if run_id is not None:
            with contextlib.suppress(Exception):
                self._client.delete_run(run_id)

    @contextmanager
    def _asked(self, doing: str) -> Iterator[None]:
        """Say plainly that the registry failed, whatever its client raised."""
        quiet_mlflow()
        try:
            with (
                explain_disk_full(self._store.path, "the registry's database"),
                warnings.catch_warnings(),
            ):
                # MLflow and what it stands on warn of each other's deprecations.
                warnings.simplefilter("ignore")
                yield
        except (RecsysError, KeyboardInterrupt):
            raise
        except Exception as error:
            if not _from_registry(error):
                raise
            raise RegistryError(
                f"the registry failed while {doing}",
                where=redacted(self.uri),
                found=(redacted(str(error)).strip().splitlines() or [type(error).__name__])[0][
                    :300
                ],
                fix="see that it runs and can be reached, then run the same command again",
            ) from error

    # --- the two ways to read -------------------------------------------------------------------

    @cached_property
    def _direct(self) -> bool:
        """Whether the embedded store can be used without MLflow."""
        return self.embedded and self._store.known()

    def _aliases(self) -> dict[str, int]:
        if self._direct:
            return self._store.aliases()
        model = self._remote_model()
        return {a: int(v) for a, v in model.aliases.items()} if model is not None else {}

    def _model_tags(self) -> dict[str, str]:
        if self._direct:
            return self._store.model_tags()
        model = self._remote_model()
        return dict(model.tags) if model is not None else {}

    def _remote_model(self) -> Any:
        with self._asked("reading the model"):
            from mlflow.exceptions import MlflowException

            try:
                return self._client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def _read_client(self) -> Versions:
        aliases = self._aliases()
        with self._asked("listing versions"):
            found = self._client.search_model_versions(f"name = '{self.name}'", max_results=1000)
            entries = [(v, dict(v.tags)) for v in found]
        return [
            Version.of(int(v.version), int(v.creation_timestamp), tags, aliases, v.source, v.run_id)
            for v, tags in entries
            if DIGEST_TAG in tags
        ]


def _make_database(path: Path) -> None:
    """Let MLflow make its tables aside, then rename the database into place.

    MLflow makes them in many transactions: a database killed in between could never be opened.
    """
    from mlflow.tracking import MlflowClient

    with atomic_file(path) as aside:
        MlflowClient(tracking_uri=sqlite_address(aside)).search_experiments(max_results=1)


def _with_driver(uri: str) -> str:
    """SQLAlchemy takes `postgresql://` for psycopg2; name psycopg 3 where only that is there."""
    for scheme in ("postgresql://", "postgres://"):
        if uri.startswith(scheme) and importlib.util.find_spec("psycopg2") is None:
            return "postgresql+psycopg://" + uri.removeprefix(scheme)
    return uri


def _knock(uri: str) -> None:
    """See that somebody listens, before MLflow tries again and again for minutes.

    Raises:
        OSError: nobody does.
    """
    parsed = urlparse(uri)
    port = parsed.port or _PORTS.get(parsed.scheme.split("+")[0])
    if parsed.hostname and port:
        socket.create_connection((parsed.hostname, port), KNOCK_SECONDS).close()


def quiet_mlflow() -> None:
    """Before MLflow is imported: no telemetry, short retries; the caller's own settings win."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def quiet_logging() -> None:
    """MLflow and Alembic narrate every migration; only their warnings are of use."""
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _as_path(uri: str) -> Path | None:
    """The local folder of a file URI or plain path; None for a remote store."""
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    return Path(uri) if parsed.scheme == "" else None


def _metric_name(name: str) -> str:
    """MLflow allows no `@` in a metric's name."""
    return "".join(ch if ch.isalnum() or ch in "_-./ " else "_" for ch in name.replace("@", "_at_"))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Pairs:
    flat: Pairs = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat += _flat(item, f"{prefix}{name}.")
        else:
            flat.append((prefix + str(name), item))
    return [(_metric_name(name), item) for name, item in flat] if not prefix else flat


def _from_registry(error: Exception) -> bool:
    """Whether an exception comes from the store or the way to it, not from a bug of ours."""
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    known = isinstance(error, ConnectionError | TimeoutError | socket.gaierror | sqlite3.Error)
    return known or bool(modules & _REGISTRY_MODULES)
