"""A bundle as an MLflow model folder, so that `mlflow models serve` and `load_model` take it.

The folder holds the bundle, the code that reads it, and the versions of what that code stands on:
nothing of ours has to be installed, or to be found on a package index, where it is loaded.
"""

import json
import platform
from pathlib import Path
from typing import Any

from recsys.data_schemas import columns as c
from recsys.storage.bundle import Bundle
from recsys.storage.files import link_tree
from recsys.storage.registry.model_code import copy_code, requirements

DATA = "bundle"
"""Name of the bundle inside the model's `data/`."""
CODE = "code"
"""Folder of the package's code, where MLflow looks for it."""
LOADER = "recsys.pyfunc"
HISTORY = "history"
"""Column of events sent along with a row."""
EXAMPLE, SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"
OWNER_FILE = "workspace.json"
"""Beside the model: which workspace registered it."""


def write_model(folder: Path, bundle: Bundle, run_id: str, artifact_path: str, owner: str) -> None:
    """Write an MLflow model around a bundle; the bundle's bytes are linked where they can be.

    Two folders of one bundle, written by one installation, differ in `MLmodel` alone.

    Args:
        folder: where the model is written.
        bundle: what it holds.
        run_id: of the registration's run.
        artifact_path: of the model within the run.
        owner: identity of the workspace that registers it, kept beside the model.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    data = folder / "data" / DATA
    data.parent.mkdir(parents=True, exist_ok=True)
    link_tree(bundle.path, data)
    copy_code(folder / CODE)
    model = Model(
        run_id=run_id,
        artifact_path=artifact_path,
        signature=_signature(),
        metadata={"digest": bundle.digest},
        saved_input_example_info=_write_example(folder, bundle),
    )
    mlflow.pyfunc.add_to_model(
        model,
        loader_module=LOADER,
        data=f"data/{DATA}",
        code=CODE,
        **_environments(folder),
    )
    model.save(str(folder / "MLmodel"))
    (folder / OWNER_FILE).write_text(json.dumps({"workspace": owner}) + "\n", encoding="utf-8")


def owner_of(folder: Path) -> str | None:
    """The workspace that registered a stored model; None where it does not say."""
    try:
        return str(json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))["workspace"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _environments(folder: Path) -> dict[str, str]:
    """What an isolated environment has to install, in MLflow's two spellings: it asks for both.

    The code itself comes with the model.
    """
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
    python = platform.python_version()
    (folder / "python_env.yaml").write_text(
        f"python: {python}\ndependencies:\n- -r requirements.txt\n", encoding="utf-8"
    )
    (folder / "conda.yaml").write_text(
        f"channels:\n- conda-forge\ndependencies:\n- python={python}\n- pip\n"
        "- pip:\n  - -r requirements.txt\nname: recsys\n",
        encoding="utf-8",
    )
    return {"python_env": "python_env.yaml", "conda_env": "conda.yaml"}


def _signature() -> Any:
    """What goes in, and the params of lists; what comes out depends on whether items are named."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    event = Object(
        [
            Property(c.ITEM_ID, "string"),
            Property(c.EVENT_TYPE, "string", required=False),
            Property(c.TIMESTAMP, "string", required=False),
            Property(c.VALUE, "double", required=False),
        ]
    )
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec("string", c.USER_ID),
                ColSpec("string", c.ITEM_ID, required=False),
                ColSpec("datetime", c.TIMESTAMP, required=False),
                ColSpec(Array(event), HISTORY, required=False),
            ]
        ),
        params=ParamSchema(
            [ParamSpec("k", "long", 10), ParamSpec("filter_viewed", "boolean", True)]
        ),
    )


def _write_example(folder: Path, bundle: Bundle) -> dict[str, str]:
    """Rows to try the model with, in the two spellings that MLflow keeps; where they lie."""
    first, *rest = bundle.item_ids[:2] or ["a1"]
    rows = [["somebody", item, [{c.ITEM_ID: first}]] for item in (first, *rest)]
    split = {"columns": [c.USER_ID, c.ITEM_ID, HISTORY], "data": rows}
    for name, content in ((EXAMPLE, split), (SERVING_EXAMPLE, {"dataframe_split": split})):
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return {
        "artifact_path": EXAMPLE,
        "type": "dataframe",
        "pandas_orient": "split",
        "serving_input_path": SERVING_EXAMPLE,
    }
