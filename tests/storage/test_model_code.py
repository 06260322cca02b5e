"""A registered model carries the package's code, and names what it stands on."""

import filecmp
import os
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from recsys.storage.bundle import open_bundle
from recsys.storage.registry.mlflow_folder import write_model
from recsys.storage.registry.model_code import ROOMS, SUFFIXES, copy_code, requirements

ROOT = Path(__file__).parents[2]
PARQUET = {"ingestion/bundled/movies/items.parquet", "ingestion/bundled/movies/events.parquet"}

pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")


def files_below(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def sources():
    """Files of the package in the checkout, as they are named below `recsys/`."""
    rooms = {room: f"{room}/" for room in ROOMS} | {"recsys": ""}
    return {
        prefix + name
        for room, prefix in rooms.items()
        for name in files_below(ROOT / room)
        if "__pycache__" not in name
    }


def test_every_room_is_known():
    assert {f.parent.name for f in ROOT.glob("*/__init__.py")} == {*ROOMS, "recsys"}


def test_the_copy_is_the_whole_package_without_the_bundled_data(tmp_path):
    copy_code(tmp_path)
    assert os.listdir(tmp_path) == ["recsys"]
    assert files_below(tmp_path / "recsys") == sources() - PARQUET
    copied = tmp_path / "recsys" / "features" / "state.py"
    assert filecmp.cmp(copied, ROOT / "features" / "state.py", shallow=False)
    assert not copied.is_symlink()
    size = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert size < 3.5e6


def test_only_what_belongs_to_a_package_is_copied(tmp_path):
    """From a wheel's layout too, and nothing that Python or an editor left beside the sources."""
    package = tmp_path / "site" / "recsys"
    for room in ROOMS:
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "storage" / "__pycache__").mkdir()
    (package / "storage" / "__pycache__" / "x.pyc").write_text("")
    (package / "storage" / "secret.key").write_text("")
    script = (
        "from pathlib import Path\n"
        "from recsys.storage.registry import model_code\n"
        f"model_code._folder_of = lambda name: Path({str(package.parent)!r}, *name.split('.'))\n"
        f"model_code.copy_code(Path({str(tmp_path / 'copy')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert files_below(tmp_path / "copy" / "recsys") == {
        "__init__.py",
        *(f"{room}/__init__.py" for room in ROOMS),
    }


def test_two_registrations_of_a_bundle_differ_in_nothing_but_their_names(tmp_path, make_bundle):
    bundle = open_bundle(make_bundle())
    first, second = tmp_path / "1", tmp_path / "2"
    write_model(first, bundle, "run1", "model", "shop")
    write_model(second, bundle, "run2", "model", "shop")
    names = files_below(first)
    assert names == files_below(second)
    _, differ, lost = filecmp.cmpfiles(first, second, names, shallow=False)
    assert (differ, lost) == (["MLmodel"], [])
    assert "code/recsys/pyfunc.py" in names


def test_the_requirements_are_third_party_and_pinned(tmp_path, make_bundle):
    write_model(tmp_path / "model", open_bundle(make_bundle()), "run", "model", "shop")
    lines = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert lines == requirements()
    pins = dict(line.split("==") for line in lines)
    assert pins["mlflow"] == metadata.version("mlflow")
    assert not {"recsys", "recsys-nightly", "torch", "duckdb"} & set(pins)


def test_mlflow_finds_the_environments_it_would_make(tmp_path, make_bundle):
    """`mlflow models serve` reads both descriptions, whichever manager it then uses."""
    from mlflow.pyfunc import get_model_dependencies
    from mlflow.utils.virtualenv import _get_python_env

    folder = tmp_path / "model"
    write_model(folder, open_bundle(make_bundle()), "run", "model", "shop")
    environment = _get_python_env(folder)
    assert environment.python == platform.python_version()
    assert environment.dependencies == ["-r requirements.txt"]
    assert yaml.safe_load((folder / "conda.yaml").read_text())["dependencies"] == [
        f"python={platform.python_version()}",
        "pip",
        {"pip": ["-r requirements.txt"]},
    ]
    assert Path(get_model_dependencies(str(folder))).read_text().splitlines() == requirements()


def test_suffixes_cover_what_the_distribution_ships():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {Path(p).suffix or Path(f"x{p}").suffix for p in table["package-data"]["*"]}
    assert shipped | {".py"} == SUFFIXES | {".parquet"}
