"""The façade `recsys` names what exists, loads nothing before it is asked for, and holds nothing else."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recsys

ROOT = Path(__file__).parents[2]
STUB = ROOT / "recsys" / "__init__.pyi"
HEAVY = ("numpy", "pandas", "pyarrow", "torch", "mlflow", "pydantic", "duckdb", "numba", "recsys.")
IMPORT_SECONDS = 0.1


def stub_names():
    """{public name: module} as type checkers read them."""
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module != "recsys"
    }


@pytest.mark.parametrize("name", sorted(recsys._NAMES))
def test_a_name_is_the_object_of_its_module(name):
    module = importlib.import_module(f"recsys.{recsys._NAMES[name]}")
    assert getattr(recsys, name) is getattr(module, name)
    assert vars(recsys)[name] is getattr(module, name), "the next look-up is a plain one"


def test_type_checkers_see_the_same_names():
    assert stub_names() == {name: f"recsys.{module}" for name, module in recsys._NAMES.items()}


def test_public_modules_are_the_same_however_they_are_reached():
    for name in recsys._MODULES:
        assert getattr(recsys, name) is importlib.import_module(f"recsys.{name}")
        assert f"from recsys import {name} as {name}" in STUB.read_text(encoding="utf-8")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match=r"no attribute `load_confg`; did you mean `load_con"):
        recsys.load_confg  # noqa: B018
    with pytest.raises(AttributeError, match="it has ApiError, AsyncClient"):
        recsys.zzz  # noqa: B018
    assert not hasattr(recsys, "__wrapped__")
    assert set(recsys._NAMES) <= set(dir(recsys))


def test_importing_it_loads_nothing():
    script = (
        "import sys, time; start = time.perf_counter(); import recsys\n"
        "seconds = time.perf_counter() - start\n"
        f"found = [name for name in sys.modules if name.startswith({HEAVY!r})]\n"
        "found.remove('recsys.moved_modules')\n"
        "assert not found, found\n"
        "print(seconds)"
    )
    # The least of three: another program may have taken the processor.
    seconds = min(
        float(subprocess.run([sys.executable, "-c", script], check=True, stdout=-1).stdout)
        for _ in range(3)
    )
    assert seconds < IMPORT_SECONDS


def test_rooms_take_only_the_version_from_it():
    """Through the façade a room could reach every other one, and the import contract not see it."""
    taken = {}
    for room in ROOT.glob("*/__init__.py"):
        for file in room.parent.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if not re.search(r"from recsys import|import recsys\b", text):
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module == "recsys":
                    taken[file] = {alias.name for alias in node.names}
                if isinstance(node, ast.Import) and "recsys" in {a.name for a in node.names}:
                    taken[file] = {"the whole"}
    assert {str(file): n for file, n in taken.items() if n != {"__version__"}} == {}
