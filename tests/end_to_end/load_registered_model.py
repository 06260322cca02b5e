"""Loads a registered model where neither this package nor anything beyond the model's requirements is.

Arguments: the model's folder, the folder of its encoder, the rows to score as JSON.
"""

import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def closure(lines: Iterable[str]) -> set[str]:
    """Names of all that pip would install for these requirements."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(line.strip()) for line in lines]
    while todo:
        wanted = todo.pop()
        for extra in {"", *wanted.extras} - {e for name, e in found if name == normal(wanted.name)}:
            found.add((normal(wanted.name), extra))
            try:
                needs = map(Requirement, metadata.requires(wanted.name) or [])
            except metadata.PackageNotFoundError:
                continue
            todo += [r for r in needs if not r.marker or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


class OnlyInstalled:
    """A finder that keeps away modules of distributions that would not be installed."""

    def __init__(self, installed: set[str]) -> None:
        self.owners = {
            module: {normal(name) for name in names}
            for module, names in metadata.packages_distributions().items()
            if module != "recsys"
        }
        self.installed = installed

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        owners = self.owners.get(name.partition(".")[0])
        if owners and not owners & self.installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


model, encoder, rows = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
sys.meta_path = [f for f in sys.meta_path if getattr(f, "__name__", "") != "_EditableFinder"]
with open(f"{model}/requirements.txt", encoding="utf-8") as file:
    sys.meta_path.insert(0, OnlyInstalled(closure(file)))
for absent in ("recsys", "torch", "duckdb"):
    try:
        found = find_spec(absent)
    except ModuleNotFoundError:
        continue
    assert found is None, f"{absent} is there"

import mlflow.pyfunc  # noqa: E402
import pandas as pd  # noqa: E402

scores = mlflow.pyfunc.load_model(model).predict(pd.DataFrame(rows))

import recsys  # noqa: E402

assert str(recsys.__file__).startswith(f"{model}/code/"), recsys.__file__
assert find_spec("recsys.training.nightly") is not None, "the whole package comes with the model"
vector = recsys.TextEncoder.open(encoder).encode(["a title that nobody has seen"])[0]
print(json.dumps({"scores": scores.tolist(), "norm": float((vector**2).sum())}))
