"""Name → class of every source we ship, imported when first asked for."""

import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.features.protocols import RecallSource
from recsys.retrieval.fitted_source import FittableSource
from recsys.storage.plug_ins import SOURCES, code_of, load_named, place_of

FITTABLE: Final = {
    "popular": "recsys.retrieval.collaborative.popularity:Popular",
    "recent": "recsys.retrieval.collaborative.popularity:Recent",
    "item_item": "recsys.retrieval.collaborative.item_item:ItemItem",
    "transitions": "recsys.retrieval.collaborative.item_item:Transitions",
    "attributes": "recsys.retrieval.content.attributes:Attributes",
    "bm25": "recsys.retrieval.content.bm25:Bm25",
    "als": "recsys.retrieval.collaborative.als:Als",
    "ease": "recsys.retrieval.collaborative.ease:Ease",
    "sequence": "recsys.retrieval.sequence.source:SequenceSource",
}
"""Sources in order of cost, the cheapest first."""
OWN_SETTING: Final = "sources.own"
RESERVED_NAMES: Final = ("fused", "reserve")
"""Names of signals that are no source's."""
READABLE: Final = {**FITTABLE, "text": "recsys.encoder.tower:InterestSource"}


_OWN: dict[str, type[FittableSource]] = {}
"""Sources of a user's own that this process has declared, by name."""


def declare(addresses: Sequence[str]) -> list[str]:
    """Make sources of a user's own known by their names; the names, in order.

    Args:
        addresses: `package.module:Class`, or names of entry points.

    Raises:
        UsageError: one cannot be loaded, is no source, or has the name of another.
    """
    names: list[str] = []
    for address in addresses:
        kind = load_named(address, OWN_SETTING, SOURCES)
        if not (isinstance(kind, type) and issubclass(kind, FittableSource)):
            raise UsageError(
                "a source of your own is no source",
                where=f"{OWN_SETTING}: {address}, {place_of(kind)}",
                found=str(kind),
                expected="a subclass of recsys.OwnSource",
            )
        name = str(getattr(kind, "name", ""))
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in (*READABLE, *names, *RESERVED_NAMES):
            raise UsageError(
                "a source of your own needs a name of its own",
                where=f"{OWN_SETTING}: {address}, {place_of(kind)}",
                found=repr(name),
                expected="letters, digits and underscores, and none of "
                + ", ".join([*READABLE, *names, *RESERVED_NAMES]),
            )
        _OWN[name] = kind
        names.append(name)
    return names


def is_fitted(name: str) -> bool:
    """Whether a source of this name is fitted by itself, as all are but the encoder's."""
    return name in FITTABLE or name in _OWN


def own_code(name: str) -> str | None:
    """What identifies the code of a source of a user's own; None of one that we ship."""
    return code_of(_OWN[name]) if name in _OWN and name not in FITTABLE else None


def source_class(name: str) -> type[FittableSource]:
    """The class behind a name that can be fitted.

    Raises:
        UsageError: no such source.
    """
    if name in _OWN:
        return _OWN[name]
    if name not in FITTABLE:
        raise UsageError(
            f"there is no source '{name}'",
            where="sources.use",
            found=name,
            expected=f"one of {', '.join(FITTABLE)}",
            fix="correct the name",
        )
    found: type[FittableSource] = _resolve(FITTABLE[name])
    return found


def load_source(folder: Path) -> RecallSource:
    """Open a source's folder, whatever its kind.

    Raises:
        DataRefused: the folder does not hold a source we know.
    """
    try:
        facts = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        name = facts["name"]
        path = "" if "class" in facts else READABLE[name]
    except (OSError, ValueError, KeyError) as error:
        raise DataRefused(
            "this folder does not hold a source",
            where=str(folder),
            found=f"{type(error).__name__}: {error}",
            expected=f"a source.json naming one of {', '.join(READABLE)}",
            fix="train again, or restore the bundle",
        ) from error
    kind = _resolve(path) if path else load_named(facts["class"], str(folder), SOURCES)
    source: RecallSource = kind.load(folder)
    return source


def _resolve(path: str):  # type: ignore[no-untyped-def]
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
