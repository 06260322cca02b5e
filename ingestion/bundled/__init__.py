"""Real data that comes with the package, read as package resources (a zipped install works)."""

from importlib.resources import files
from pathlib import Path

from recsys.data_schemas.errors import UsageError
from recsys.storage.files import atomic_write

CONFIG = "recsys.yaml"
_MOVIES = ("items.parquet", "events.parquet", "LICENSES.md")


def lay_out_movies(folder: Path) -> Path:
    """Write the demonstration's `data/` and `recsys.yaml` into a folder; path of the YAML.

    Data files are written again if they differ from the bundled ones; a `recsys.yaml` already
    there is kept, because its owner may have changed it.

    Raises:
        UsageError: the folder's name belongs to a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            "the demonstration needs a folder",
            where=str(folder),
            found="a file of that name",
            fix="name another folder: `recsys demo DIR`",
        )
    for name in _MOVIES:
        _put(folder / "data" / name, (files(__name__) / "movies" / name).read_bytes())
    config = folder / CONFIG
    if not config.exists():
        atomic_write(config, template("demo"))
    return config


def template(name: str) -> str:
    """A commented recsys.yaml that comes with the package: `demo` or `init`."""
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")


def _put(path: Path, content: bytes) -> None:
    """Write a file unless it is there already: an unchanged time keeps stages unchanged."""
    if not (path.is_file() and path.read_bytes() == content):
        atomic_write(path, content)
