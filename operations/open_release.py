"""Opening a released model with the newest state: what recommend, evaluate and serve share."""

from pathlib import Path
from typing import TYPE_CHECKING

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.operations.batch_lists import ReleaseFiles
from recsys.storage.registry import Registry
from recsys.storage.workspace import Workspace

if TYPE_CHECKING:
    from recsys.recommender import LoadedRelease
    from recsys.sentences import Sentences


def state_folder(config: RecsysConfig) -> Path:
    """The newest state snapshot of a workspace.

    Raises:
        RecsysError: no night has finished yet.
    """
    workspace = Workspace(config.workspace_path)
    if (current := workspace.current_snapshot()) is None:
        raise RecsysError(
            "there is no state snapshot yet",
            where=str(workspace.current_state.parent),
            fix="run `recsys nightly` first",
        )
    return current


def resolve(registry: Registry, model: str | None) -> int:
    """Version of `models:/NAME/VERSION`, or the champion for None.

    Raises:
        RecsysError: there is no such version, or no champion yet.
    """
    if model is not None:
        return registry.resolve(model)
    champion = registry.champion()
    if champion is None:
        raise RecsysError(
            "there is no champion yet",
            where=f"model {registry.name}",
            fix="run `recsys nightly` first; the first valid model is promoted",
        )
    return champion


def find_release(
    config: RecsysConfig, model: str | None = None, state: Path | None = None
) -> ReleaseFiles:
    """A version (the champion for None) and a state, the workspace's newest when None."""
    registry = Registry(config)
    version = resolve(registry, model)
    state = state_folder(config) if state is None else state
    return ReleaseFiles(registry.local_path(version), state, str(version))


def load_release(
    config: RecsysConfig, model: str | None = None, state: Path | None = None
) -> "LoadedRelease":
    """A version (the champion for None) over a state, the workspace's newest when None.

    A few items newer than the version are encoded here; `encode_new` does the others.
    """
    loaded = find_release(config, model, state).open()
    loaded.explainer.sentences = sentences_of(config)
    return loaded


def sentences_of(config: RecsysConfig) -> "Sentences":
    """The words of reasons: ours, or the owner's.

    Raises:
        UsageError: the owner's file is wrong.
    """
    from recsys.sentences import Sentences

    own = config.serving.sentences
    return Sentences.default() if own is None else Sentences.load(config.path(own))
