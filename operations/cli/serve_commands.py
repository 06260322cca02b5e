"""`recsys serve` and `recsys keys`: the service on a workspace's registry, state and log."""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recsys.data_schemas.errors import ExitCode, UsageError
from recsys.data_schemas.shards import Shards

if TYPE_CHECKING:
    import socket

    from recsys.data_schemas.config import RecsysConfig
    from recsys.serving.released_model import ReleasedModel
    from recsys.serving.server import Endpoint
    from recsys.serving.settings import ServiceSettings


STORE_SECONDS = 10.0
"""Between two looks at the store for a newer snapshot."""
OLD_SECONDS = 3600.0
"""Age from which a copy of a release that nobody needs goes: another worker may just have fetched it."""


def add_parsers(subparsers: Any) -> None:
    """Declare the commands."""
    serve = subparsers.add_parser("serve", help="answer ranking requests over HTTP")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8080, help="port; 0 for any free one (8080)")
    serve.add_argument("--workers", type=int, help="processes (serving.workers of the config)")
    serve.add_argument(
        "--shards",
        metavar="N/OF",
        help="keep the histories of these shards alone: 3/16, or 3,7/16 (all)",
    )
    serve.add_argument("--model", metavar="VERSION", help="serve this version, not the champion")
    serve.add_argument("--shadow", metavar="VERSION", help="let this version rank along, unseen")
    serve.add_argument("--ab", metavar="VERSION:SHARE", help="answer a share of users with it")
    serve.add_argument("--interleave", metavar="VERSION", help="mix its lists with the champion's")
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM)")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    serve.add_argument("--access-log", action="store_true", help="one log line per request")
    serve.set_defaults(run=run_serve)

    snapshot = subparsers.add_parser(
        "snapshot", help="a newer state snapshot from the log, between two nights"
    )
    snapshot.set_defaults(run=run_snapshot)

    keys = subparsers.add_parser("keys", help="make, list and remove API keys")
    actions = keys.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="make a key; it is shown once")
    add.add_argument("name", help="who it is for")
    add.add_argument(
        "--scopes", default="rank,events", help="rank, events, admin, replay; collect, for pages"
    )
    remove = actions.add_parser("remove", help="take a key out")
    remove.add_argument("key_id")
    for action in (add, remove, actions.add_parser("list", help="names, ids and scopes")):
        action.add_argument("--file", type=Path, required=True, help="the key file (YAML)")
    keys.set_defaults(run=run_keys)


def run_serve(args: argparse.Namespace) -> int:
    """Serve until asked to stop.

    Raises:
        UsageError: the config, the address or an experiment is wrong; there is no champion.
    """
    from recsys.data_schemas.config import load_config
    from recsys.serving.server import (
        Endpoint,
        address,
        announce,
        bind,
        run_worker,
        supervise,
    )
    from recsys.storage.eventlog import log_address, open_log

    config = load_config(args.config)
    settings = make_settings(config, args)
    endpoint = Endpoint(args.host, args.port, args.tls_cert, args.tls_key)
    workers = args.workers if args.workers is not None else config.serving.workers
    if workers < 1:
        raise UsageError("there must be a worker", where="--workers", found=workers)
    provider = Releases(config, args.model, settings.shards)
    if provider.poll() is None:
        raise UsageError(
            "there is no model to serve",
            where=f"registry of {args.config}",
            fix="run `recsys nightly` first; its first valid model becomes the champion",
        )
    with bind(endpoint, settings.keys_file is not None) as sock:
        announce(address(sock, endpoint), workers)
        if workers == 1:
            from recsys.serving.app import App

            app = App(provider, lambda: open_log(log_address(config)), settings)
            run_worker(app, sock, endpoint)
            return ExitCode.DONE
        return supervise(_worker, (args.config, args.model, settings, sock, endpoint), workers)


def _worker(
    config_path: str,
    version: str | None,
    settings: "ServiceSettings",
    sock: "socket.socket",
    endpoint: "Endpoint",
) -> None:
    """One of several processes; the parent's socket comes along."""
    from recsys.data_schemas.config import load_config
    from recsys.serving.app import App
    from recsys.serving.server import run_worker
    from recsys.storage.eventlog import log_address, open_log

    config = load_config(config_path)
    app = App(
        Releases(config, version, settings.shards), lambda: open_log(log_address(config)), settings
    )
    run_worker(app, sock, endpoint)


class Releases:
    """Engines out of the workspace's registry and its state snapshot.

    Args:
        config: the workspace.
        fixed: version to serve whatever the champion is; None follows the champion.
        shards: whose histories to keep; everybody's when None.
    """

    def __init__(
        self, config: "RecsysConfig", fixed: str | None, shards: Shards | None = None
    ) -> None:
        from recsys.features.published_state import store_of
        from recsys.storage.registry import Registry

        self._config, self._registry = config, Registry(config)
        self._store, self._shards = store_of(config), shards
        self._asked: tuple[float, str | None] = (0.0, None)
        self._fixed = None if fixed is None else str(self._registry.resolve(fixed))

    def poll(self) -> str | None:
        """The version to serve now."""
        if self._fixed is not None:
            return self._fixed
        champion = self._registry.champion()
        return None if champion is None else str(champion)

    def load(self, version: str | None) -> "ReleasedModel":
        """A release over the newest state snapshot: of the store, where one is configured.

        Raises:
            RecsysError: there is no such version, or a part of it is damaged.
        """
        from recsys.operations.open_release import load_release

        published = None if self._store is None else self._store.current()
        if self._store is None or published is None:
            loaded = load_release(self._config, version or self.poll())
        else:
            folder = self._store.fetch(published, self._shards)
            loaded = load_release(self._config, version or self.poll(), folder)
            loaded.snapshot = published.name
            self._remove_old_bundles()
        loaded.state.shards = self._shards
        return loaded

    def snapshot(self) -> str | None:
        """Name of the newest snapshot, as the store or the workspace says; a store is asked every few
        seconds."""
        from recsys.storage.workspace import Workspace

        current = Workspace(self._config.workspace_path).current_snapshot()
        here = None if current is None else current.name
        if self._store is None:
            return here
        until, name = self._asked
        if time.monotonic() >= until:
            published = self._store.current()
            self._store.tidy()
            name = here if published is None else published.name
            self._asked = time.monotonic() + STORE_SECONDS, name
        return name

    def _remove_old_bundles(self) -> None:
        """On a disk that no night tidies: copies of releases that no alias names any more."""
        kept = self._registry.digests_in_use()
        for bundle in self._registry.workspace.bundles.iterdir():
            old = time.time() - bundle.stat().st_mtime > OLD_SECONDS
            if (
                bundle.is_dir()
                and not bundle.name.startswith(".")
                and old
                and bundle.name not in kept
            ):
                shutil.rmtree(bundle, ignore_errors=True)

    def resolve(self, name: str) -> str:
        """The version that a name leads to: `3`, `03`, an alias, `models:/NAME/3`.

        Raises:
            RecsysError: there is none, or the registry does not answer.
        """
        return str(self._registry.resolve(name))

    def operations(self) -> dict[str, Any]:
        """What an operator looks at; see `operator_view`."""
        from recsys.operations.operator_view import operator_view

        return operator_view(self._config, self._registry)

    def live(self) -> dict[str, Any] | None:
        """What the last night found of live lists; None where there is nothing."""
        from recsys.storage.workspace import Workspace

        try:
            text = Workspace(self._config.workspace_path).live.read_text(encoding="utf-8")
            return cast("dict[str, Any]", json.loads(text))
        except (OSError, ValueError):
            return None

    def versions(self) -> list[str]:
        """Versions that can be asked for, newest first."""
        return [str(entry.version) for entry in self._registry.list()]


def make_settings(config: "RecsysConfig", args: argparse.Namespace) -> "ServiceSettings":
    """The service's settings out of the config and the command line.

    Raises:
        UsageError: an experiment is not given as VERSION:SHARE, or the file of sentences is wrong.
    """
    from recsys.data_schemas.config import read_rules
    from recsys.operations.open_release import sentences_of
    from recsys.serving.server import LOOPBACK_NAMES
    from recsys.serving.settings import ServiceSettings
    from recsys.storage.experiment_records import ExperimentList
    from recsys.storage.opt_outs import OptOutList
    from recsys.storage.workspace import Workspace

    serving, workspace = config.serving, Workspace(config.workspace_path)
    sentences_of(config)  # a wrong file is told before anything is opened
    keys_file = config.path(serving.keys_file) if serving.keys_file else None
    return ServiceSettings(
        timeout_ms=serving.timeout_ms,
        max_body_bytes=serving.max_body_bytes,
        max_candidates=serving.max_candidates,
        max_queue=serving.max_queue,
        explain_items=serving.explain_items,
        caps=serving.caps,
        rules=read_rules(serving.rules),
        explore_share=serving.explore_share,
        parity_share=serving.parity_share,
        clock=config.clock,
        keys_file=keys_file,
        cors_origins=serving.cors_origins,
        allowed_hosts=() if keys_file else LOOPBACK_NAMES,
        shadow=args.shadow,
        ab=_experiment(args.ab) if args.ab else None,
        interleave=args.interleave,
        access_log=args.access_log,
        shards=Shards.parse(args.shards) if args.shards else None,
        opted_out=OptOutList(workspace),
        experiments=ExperimentList(workspace),
    )


def _experiment(text: str) -> tuple[str, float]:
    version, _, share = text.rpartition(":")
    try:
        if version and 0.0 < float(share) < 1.0:
            return version, float(share)
    except ValueError:
        pass
    raise UsageError(
        "the experiment is not understood",
        where="--ab",
        found=text,
        expected="VERSION:SHARE, 7:0.1",
    )


def run_snapshot(args: argparse.Namespace) -> int:
    """Make a newer snapshot of the state, and publish it where a store is configured."""
    from recsys.data_schemas.config import load_config
    from recsys.operations.make_snapshot import make_snapshot

    made = make_snapshot(load_config(args.config))
    print(
        f"{made.folder.name}: up to position {made.position}, {made.records:,} records more"
        if made.records
        else f"{made.folder.name}: the log holds nothing new"
    )
    if made.published is not None:
        print(f"published in {len(made.published.shards)} shards as {made.published.name}")
    return ExitCode.DONE


def run_keys(args: argparse.Namespace) -> int:
    """Make, remove or list keys.

    Raises:
        UsageError: the file cannot be read, or a scope or key is not known.
    """
    from recsys.serving.keys import add_key, read_keys, remove_key

    if args.action == "add":
        key = add_key(args.file, args.name, [s for s in args.scopes.split(",") if s])
        print(f"{key}\nThis is the only time the key is shown; {args.file} holds its hash.")
    elif args.action == "remove":
        remove_key(args.file, args.key_id)
        print(f"removed {args.key_id}; running services notice within a second")
    else:
        for key_id, entry in read_keys(args.file).items():
            print(f"{key_id}  {entry.name}  {','.join(sorted(entry.scopes))}")
    return ExitCode.DONE
