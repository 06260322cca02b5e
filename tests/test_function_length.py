"""No function is longer than a screen: what is longer has steps that can be named."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [file for room in ROOT.glob("*/__init__.py") for file in room.parent.rglob("*.py")]
MOST = 60
"""Lines of a function, with its signature and its docstring."""


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function, those within classes and functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_function_is_longer_than_a_screen():
    found = {
        f"{file.relative_to(ROOT)}: {name}": lines
        for file in FILES
        for name, lines in lengths(file.read_text(encoding="utf-8"))
    }
    assert len(found) > 3000
    assert {where: lines for where, lines in found.items() if lines > MOST} == {}


def test_a_long_function_is_found():
    body = "\n".join(["        pass"] * MOST)
    source = f"class A:\n    async def long(self):\n{body}\n\n    def short(self):\n        pass\n"
    assert dict(lengths(source)) == {"long": MOST + 1, "short": 2}
