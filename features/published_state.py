"""State snapshots where workers without a shared volume find them.

    store/
      current.json            names the pieces of the newest snapshot
      states/<piece>-<digest>/  world and shards, each by the digest of what it holds

A piece is written once and never changed; `current.json` is written last. A worker copies the pieces that
it needs, checks them against their names and maps them from its own disk.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.data_schemas.shards import Shards
from recsys.features.state_shards import join_state, split_state
from recsys.storage.file_systems import placed
from recsys.storage.files import files_below, hash_file, hash_json
from recsys.storage.node_copies import PublishedFolder, derived, remove_copies
from recsys.storage.scratch import ScratchFolder
from recsys.storage.workspace import STATE_MARKER

SETTING: Final = "serving.store"
CURRENT: Final = "current.json"
STATES: Final = "states"
PIECES: Final = ("world-", "shard-", "state-")
"""How names of a machine's copies begin."""
KEPT_SECONDS: Final = 3600.0
"""For which a machine keeps copies of a snapshot that a newer one took the place of."""
_LAST: Final = 2
"""Snapshots whose pieces stay in the store: a worker may be fetching the one before."""


@dataclass(frozen=True)
class PublishedState:
    """The newest snapshot of a store."""

    snapshot: str
    """Its name in the workspace that made it."""
    position: int
    """Of the log; what lies behind it is not in it."""
    world: str
    shards: tuple[str, ...]
    """Names of the pieces."""

    @property
    def name(self) -> str:
        """Tells it from every other: also from one of the same name that somebody was taken out of."""
        return f"{self.snapshot}-{hash_json([self.world, *self.shards])[:12]}"


class StateStore:
    """Snapshots in a folder that nights and workers reach.

    Args:
        address: a path or URL, as `ScratchFolder` reads it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._folder = ScratchFolder(address, SETTING)
        self._in_use: set[str] = set()
        """Names of this machine's copies that were fetched last."""

    def publish(self, snapshot: Path, shards: int) -> PublishedState:
        """Put a snapshot there in pieces, and let workers know; what is there already stays as it is."""
        former = self._told()
        with tempfile.TemporaryDirectory(dir=snapshot.parent, prefix=".pieces-") as aside:
            pieces = split_state(snapshot, Path(aside), shards)
            names = [f"{piece.name}-{_digest(piece)[:32]}" for piece in pieces]
            for piece, name in zip(pieces, names, strict=True):
                PublishedFolder.publish(piece, self._folder.below(STATES), name)
        position = json.loads((snapshot / STATE_MARKER).read_text("utf-8"))["log_position"]
        made = PublishedState(snapshot.name, int(position), names[0], tuple(names[1:]))
        told = [_as_json(made), *(t for t in former if t["world"] != made.world)][:_LAST]
        self._folder.write(CURRENT, json.dumps({"states": told}, indent=1).encode())
        self._collect(told)
        return made

    def current(self) -> PublishedState | None:
        """The newest snapshot; None where none was published."""
        told = self._told()
        return _of_json(told[0]) if told else None

    def fetch(self, state: PublishedState, shards: Shards | None) -> Path:
        """This machine's copy of a snapshot, with the persons of some shards (all when None), made and
        checked if it is not there.

        Raises:
            RecsysError: what the store holds is not what was published.
            UsageError: it was not published in such shards.
        """
        wanted = range(len(state.shards)) if shards is None else shards.among(len(state.shards))
        pieces = [self._local(name) for name in (state.world, *(state.shards[n] for n in wanted))]
        name = f"state-{hash_json([piece.name for piece in pieces])[:32]}"
        made = derived(name, lambda out: join_state(pieces[0], pieces[1:], out))
        self._in_use = {name, *(piece.name for piece in pieces)}
        self.tidy()
        return made

    def tidy(self) -> None:
        """Remove this machine's copies that no worker on it uses any more; call it now and then."""
        if self._in_use:
            remove_copies(PIECES, self._in_use, KEPT_SECONDS)

    def forget(self, snapshot: Path, shards: int) -> int:
        """Publish a snapshot that somebody was taken out of, and remove all others; how many pieces went.

        Where nothing was ever published, nothing is.
        """
        if not self._told():
            return 0
        made = self.publish(snapshot, shards)
        told = [_as_json(made)]
        self._folder.write(CURRENT, json.dumps({"states": told}, indent=1).encode())
        return self._collect(told)

    def _local(self, name: str) -> Path:
        def checked(copy: Path) -> None:
            found = _digest(copy)[:32]
            if not name.endswith(found):
                raise RecsysError(
                    "a published snapshot is damaged",
                    where=f"{redacted(self.address)}/{STATES}/{name}",
                    found=f"digest {found}",
                    expected="the digest in its name",
                    fix="remove the folder there and run `recsys snapshot`, which publishes it anew",
                )

        return PublishedFolder(self._folder.below(STATES), name).local(checked)

    def _told(self) -> list[dict[str, Any]]:
        try:
            return list(json.loads(self._folder.read(CURRENT))["states"])
        except FileNotFoundError:
            return []

    def _collect(self, told: list[dict[str, Any]]) -> int:
        """Remove the pieces that no kept snapshot names."""
        kept = {name for state in told for name in (state["world"], *state["shards"])}
        gone = [n for n, _ in self._folder.below(STATES).folders() if n not in kept]
        for name in gone:
            self._folder.below(f"{STATES}/{name}").remove()
        return len(gone)


def store_of(config: RecsysConfig) -> StateStore | None:
    """The store that a config names; None where it names none."""
    named = config.serving.store
    if named is None:
        return None
    return StateStore(placed(config, named))


def publish_state(config: RecsysConfig, snapshot: Path) -> PublishedState | None:
    """Put a snapshot where workers fetch it; None where no store is configured."""
    store = store_of(config)
    return None if store is None else store.publish(snapshot, config.serving.shards)


def _digest(folder: Path) -> str:
    return hash_json({file: hash_file(folder / file) for file in files_below(folder)})


def _as_json(state: PublishedState) -> dict[str, Any]:
    return {
        "snapshot": state.snapshot,
        "position": state.position,
        "world": state.world,
        "shards": list(state.shards),
    }


def _of_json(told: Mapping[str, Any]) -> PublishedState:
    return PublishedState(
        str(told["snapshot"]), int(told["position"]), str(told["world"]), tuple(told["shards"])
    )
