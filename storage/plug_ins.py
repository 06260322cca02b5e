"""What users plug in: a class or function named `package.module:Name`, or by an entry point.

A wrong one is named with the file and the line of its fault, before anything expensive is done.
"""

import hashlib
import importlib
import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from recsys.data_schemas.errors import UsageError

SOURCES: Final = "recsys.sources"
FEATURES: Final = "recsys.features"
METRICS: Final = "recsys.metrics"
HOOKS: Final = "recsys.hooks"
"""Entry-point groups, in which an installed package names what it brings."""


def load_named(name: str, where: str, group: str) -> Any:
    """What an address or an entry point names.

    Args:
        name: `package.module:Name`, or the name of an entry point of the group.
        where: the setting that names it.
        group: of entry points.

    Raises:
        UsageError: it cannot be imported, or there is no such name.
    """
    if ":" not in name:
        return _entry_point(name, where, group)
    module, _, attribute = name.partition(":")
    with theirs_to_read(
        "a part of your own cannot be loaded",
        f"{where}: {name}",
        expected="package.module:Name of something that can be imported",
        fix="install its package, or put its folder on PYTHONPATH",
    ):
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    return found


@contextmanager
def theirs_to_read(
    what: str, where: str, *, expected: str | None = None, fix: str | None = None
) -> Iterator[None]:
    """Code of the user's own may raise anything inside: it becomes a message with its file and line.

    Raises:
        UsageError: `what`, with what was raised and where.
    """
    try:
        yield
    except Exception as error:
        raise UsageError(
            what,
            where=f"{where}, {line_of(error)}",
            found=f"{type(error).__name__}: {error}",
            expected=expected,
            fix=fix,
        ) from None


def _entry_point(name: str, where: str, group: str) -> Any:
    known = {point.name: point for point in metadata.entry_points(group=group)}
    if name not in known:
        raise UsageError(
            "there is no entry point of this name",
            where=where,
            found=name,
            expected="package.module:Name, or one of "
            + (", ".join(sorted(known)) or f"none: no installed package has the group {group}"),
        )
    with theirs_to_read(
        "a part of your own cannot be loaded",
        f"{where}: {name} ({known[name].value})",
        fix="correct it, or take it out",
    ):
        return known[name].load()


def address_of(kind: Any) -> str:
    """`package.module:Name` of a class or function."""
    return f"{kind.__module__}:{kind.__qualname__}"


def line_of(error: BaseException) -> str:
    """File and line in which an error was raised, the deepest that is not Python's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith("<") and not _of_python(f.filename)]
    if not own:
        return "no line of yours"
    return f"{own[-1].filename}, line {own[-1].lineno}"


def place_of(kind: Any) -> str:
    """File and line in which a class or function begins."""
    try:
        return f"{inspect.getsourcefile(kind)}, line {inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return f"{kind.__module__}, no file"


def code_of(kind: Any) -> str:
    """What identifies the code of a class or function: its whole module where that is a file."""
    try:
        file = inspect.getsourcefile(kind)
        text = Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else None
        return hashlib.sha256((text or inspect.getsource(kind)).encode()).hexdigest()
    except (OSError, TypeError):
        return address_of(kind)


def _of_python(file: str) -> bool:
    return Path(file).is_relative_to(Path(importlib.__file__).parent)
