"""What makes two runs of a stage the same: its inputs and the source of its code."""

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from recsys.storage.files import hash_file

MARKER = "stage.json"
"""In each finished output, written last: what it was made from, its files and facts."""
KEY_LENGTH = 16
"""Hexadecimal digits of a key: 64 bits, no clash to be expected among a workspace's outputs."""


def code_version(code: Sequence[str | Path]) -> dict[str, str]:
    """SHA-256 of the source of each named module, package (all its files) or file."""
    return {str(part): _source_hash(str(part)) for part in code}


@cache
def _source_hash(part: str) -> str:
    files = _sources(part)
    if not files:
        raise ModuleNotFoundError(f"stage code {part!r} is neither a module nor a file")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()[:KEY_LENGTH]


def _sources(part: str) -> list[Path]:
    path = Path(part)
    if part.endswith(".py") or "/" in part:
        return [path] if path.is_file() else sorted(path.rglob("*.py"))
    spec = importlib.util.find_spec(part)
    if spec is None:
        return []
    if spec.submodule_search_locations:
        folders = [Path(place) for place in spec.submodule_search_locations]
        return sorted(file for folder in folders for file in folder.rglob("*.py"))
    return [Path(spec.origin)] if spec.origin else []


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which inputs changed between two runs, in words.

    >>> difference({"config": {"epochs": 3}, "day": "a"}, {"config": {"epochs": 4}, "day": "a"})
    'config.epochs 3 → 4'
    """
    return in_words(changes(old, new))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One phrase for each leaf that changed."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    found = []
    for name in [*before, *(n for n in after if n not in before)]:
        if name not in after:
            found.append(f"{name} is gone")
        elif name not in before:
            found.append(f"{name} is new")
        elif before[name] != after[name]:
            found.append(f"{name} {_short(before[name])} → {_short(after[name])}")
    return found


def in_words(found: Sequence[str], limit: int = 3) -> str:
    """The first changes, and how many more there are."""
    rest = len(found) - limit
    return "; ".join(found[:limit]) + (f"; and {rest} more" if rest > 0 else "")


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{name}.")
        else:
            yield prefix + name, item


TIMES_FROM: Final = 10**13
"""A whole number of an input from here on is a moment in µs: 1970-04-26 and later."""


def _short(value: Any) -> str:
    if type(value) is int and value >= TIMES_FROM:
        return f"{datetime.fromtimestamp(value / 1e6, UTC):%Y-%m-%d %H:%M}".removesuffix(" 00:00")
    text = str(value)
    if len(text) >= KEY_LENGTH and all(c in "0123456789abcdef" for c in text):
        return text[:8]
    return text if len(text) <= 40 else text[:37] + "…"
