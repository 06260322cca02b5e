"""The checkout as it would be released, and the wheel made from it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "setup.py", "Makefile", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the rooms and of the files that build, check and describe them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    for room in ROOT.glob("*/__init__.py"):
        shutil.copytree(
            room.parent, folder / room.parent.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


@pytest.fixture(scope="session")
def wheel(checkout, tmp_path_factory):
    """The wheel, built from a copy: a `build/` left by an earlier build would go into it."""
    folder = tmp_path_factory.mktemp("wheel")
    script = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))
