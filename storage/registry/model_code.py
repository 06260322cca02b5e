"""The package's own code beside a registered model: it loads where nothing of ours is installed.

MLflow puts the folder on the module path before it imports the model's loader. In a checkout every
room is a top-level folder; here, as in a wheel, all lie below `recsys/`.
"""

import os
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PACKAGE: Final = "recsys"
ROOMS: Final = (
    "data_schemas",
    "evaluation",
    "features",
    "ingestion",
    "operations",
    "serving",
    "storage",
    "training",
)
"""Rooms that are folders of their own in a checkout."""
SUFFIXES: Final = frozenset(
    {".py", ".pyi", ".typed", ".html", ".css", ".js", ".j2", ".md", ".yaml"}
)
"""What is copied: all but the bundled data, which only `recsys demo` reads, and compiled files."""
SERVED_WITH: Final = (
    "lightgbm",
    "mlflow",
    "msgspec",
    "numba",
    "numpy",
    "onnxruntime",
    "pandas",
    "psutil",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "tokenizers",
)
"""What the ranking path imports: scores, texts, reasons. PyTorch and what only fits need are not in it."""


def copy_code(folder: Path) -> None:
    """Write the package below `folder`, as `folder/recsys/<room>/…`."""
    package = folder / PACKAGE
    _copy(_folder_of(PACKAGE), package)
    for room in ROOMS:
        if not (package / room).exists():
            _copy(_folder_of(f"{PACKAGE}.{room}"), package / room)


def requirements() -> list[str]:
    """`name==version` of every third-party package of the ranking path, as installed here."""
    return [f"{name}=={metadata.version(name)}" for name in SERVED_WITH]


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _copy(source: Path, target: Path) -> None:
    for place, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        kept = [name for name in sorted(names) if os.path.splitext(name)[1] in SUFFIXES]
        if kept:
            inside = target / os.path.relpath(place, source)
            inside.mkdir(parents=True, exist_ok=True)
            for name in kept:
                shutil.copyfile(os.path.join(place, name), inside / name)
