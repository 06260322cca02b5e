"""Names that tell things apart: no file name and no public class name stands for two things."""

import ast
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (*(f.parent for f in ROOT.glob("*/__init__.py")), ROOT / "benchmarks")
FILES = [file for folder in FOLDERS for file in folder.rglob("*.py")]


def twice(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def public_classes(source: str) -> list[str]:
    body = ast.parse(source).body
    return [n.name for n in body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]


def test_no_file_name_stands_for_two_files():
    assert len(FILES) > 250
    assert twice(file.name for file in FILES if file.name != "__init__.py") == set()


def test_no_class_name_stands_for_two_classes():
    found = [name for file in FILES for name in public_classes(file.read_text(encoding="utf-8"))]
    assert len(found) > 300
    assert twice(found) == set()


def test_a_name_that_stands_twice_is_found():
    assert twice(["rules.py", "fit.py", "rules.py"]) == {"rules.py"}
    assert twice(public_classes("class A: ...\nclass _A: ...\nclass A: ...\nclass _A: ...")) == {
        "A"
    }
