"""A bundle as an MLflow model folder, so that `mlflow models predict` and `load_model` take it."""

import json
from pathlib import Path
from typing import Any

from recsys.data_schemas import columns as c
from recsys.storage.bundle import Bundle, metadata_version
from recsys.storage.files import link_tree

DATA = "bundle"
"""Name of the bundle inside the model's `data/`."""
LOADER = "recsys.pyfunc"
OWNER_FILE = "workspace.json"
"""Beside the model: which workspace registered it."""


def write_model(folder: Path, bundle: Bundle, run_id: str, artifact_path: str, owner: str) -> None:
    """Write an MLflow model around a bundle; the bundle's bytes are linked where they can be.

    Args:
        owner: identity of the workspace that registers it, kept beside the model.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    data = folder / "data" / DATA
    data.parent.mkdir(parents=True, exist_ok=True)
    link_tree(bundle.path, data)
    model = Model(
        run_id=run_id,
        artifact_path=artifact_path,
        signature=_signature(),
        metadata={"digest": bundle.digest},
    )
    mlflow.pyfunc.add_to_model(
        model, loader_module=LOADER, data=f"data/{DATA}", python_env=_environment(folder)
    )
    model.save(str(folder / "MLmodel"))
    (folder / OWNER_FILE).write_text(json.dumps({"workspace": owner}) + "\n", encoding="utf-8")


def owner_of(folder: Path) -> str | None:
    """The workspace that registered a stored model; None where it does not say."""
    try:
        return str(json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))["workspace"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _environment(folder: Path) -> str:
    """What an isolated environment has to install: this package."""
    version = metadata_version()
    pin = "recsys" if version == "unpackaged" else f"recsys=={version}"
    (folder / "requirements.txt").write_text(f"{pin}\n", encoding="utf-8")
    environment = "dependencies:\n- -r requirements.txt\n"
    (folder / "python_env.yaml").write_text(environment, encoding="utf-8")
    return "python_env.yaml"


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema(
            [
                ColSpec("string", c.USER_ID),
                ColSpec("string", c.ITEM_ID),
                ColSpec("datetime", c.TIMESTAMP, required=False),
            ]
        ),
        outputs=Schema([ColSpec("double")]),
    )
