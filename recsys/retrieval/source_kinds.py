"""Every source by its name: those we ship, each a class in a file of these folders, and a user's own.

A file that is put there is found; what it declares says the rest.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Final

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.features.kinds.signals import declare_source
from recsys.features.protocols import RecallSource
from recsys.retrieval import collaborative, content, sequence
from recsys.retrieval.fitted_source import FittableSource, is_source
from recsys.retrieval.source_params import PARAMS_SETTING, resolved
from recsys.storage.plug_ins import SOURCES, code_of, load_named, place_of

FOLDERS: Final = (collaborative, content, sequence)
OWN_SETTING: Final = "sources.own"
RESERVED_NAMES: Final = ("fused", "reserve")
"""Names of signals that are no source's."""
TEXT: Final = "text"
"""The encoder's source, which is fitted elsewhere."""

_OWN: dict[str, type[FittableSource]] = {}
"""Sources of a user's own that this process has declared, by name."""


@cache
def shipped() -> Mapping[str, type[FittableSource]]:
    """The sources we ship by name, in order of cost, the cheapest first.

    Raises:
        TypeError: a class that leaves out what every source declares, or takes another's name.
    """
    kinds = sorted((k for folder in FOLDERS for k in _in(folder)), key=lambda k: (k.cost, k.name))
    found: dict[str, type[FittableSource]] = {}
    for kind in kinds:
        if (other := found.setdefault(kind.name, kind)) is not kind:
            raise TypeError(f"two sources are called {kind.name!r}: {other} and {kind}")
        declare_source(kind.name, kind.family, kind.pairs)
    return found


def _in(folder: ModuleType) -> Iterator[type[FittableSource]]:
    for found in iter_modules(folder.__path__):
        module = import_module(f"{folder.__name__}.{found.name}")
        classes = (value for value in vars(module).values() if isinstance(value, type))
        for kind in classes:
            own = kind.__module__ == module.__name__
            if own and issubclass(kind, FittableSource) and is_source(kind):
                yield kind


def cheapest_first(chosen: Iterable[str]) -> list[str]:
    """Names of sources in the order in which they are fitted; a user's own that say no cost last, as
    they are declared."""
    place = {name: n for n, name in enumerate((*shipped(), *_OWN))}
    return sorted(chosen, key=lambda name: (source_class(name).cost, place[name]))


def declare(addresses: Sequence[str]) -> list[str]:
    """Make sources of a user's own known by their names; the names, in order.

    Args:
        addresses: `package.module:Class`, or names of entry points.

    Raises:
        UsageError: one cannot be loaded, is no source, or has the name of another.
    """
    taken = [*shipped(), TEXT, *RESERVED_NAMES]
    found: list[str] = []
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
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in (*taken, *found):
            raise UsageError(
                "a source of your own needs a name of its own",
                where=f"{OWN_SETTING}: {address}, {place_of(kind)}",
                found=repr(name),
                expected="letters, digits and underscores, and none of "
                + ", ".join([*taken, *found]),
            )
        _OWN[name] = kind
        declare_source(name, kind.family, kind.pairs)
        found.append(name)
    return found


def is_fitted(name: str) -> bool:
    """Whether a source of this name is fitted by itself, as all are but the encoder's."""
    return name in shipped() or name in _OWN


def is_warm(name: str) -> bool:
    """Whether fits of a source go on from earlier ones; not of one that is not there any more."""
    kind = _OWN.get(name) or shipped().get(name)
    return kind is not None and kind.warm


def own_code(name: str) -> str | None:
    """What identifies the code of a source of a user's own; None of one that we ship."""
    return code_of(_OWN[name]) if name in _OWN and name not in shipped() else None


def source_class(name: str, where: str = "sources.use") -> type[FittableSource]:
    """The class behind a name that can be fitted.

    Args:
        name: of the source.
        where: the setting that names it.

    Raises:
        UsageError: no such source.
    """
    found = _OWN.get(name) or shipped().get(name)
    if found is None:
        raise UsageError(
            f"there is no source '{name}'",
            where=where,
            found=name,
            expected=f"one of {', '.join((*shipped(), *_OWN))}",
            fix="correct the name",
        )
    return found


def require_known(use: Sequence[str], dials: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse names and params that no source has; a user's own are declared before.

    Args:
        use: `sources.use`.
        dials: `sources.dials`.

    Raises:
        UsageError: the first of them, with the params that the source has and their bounds.
    """
    for name in use:
        if name != TEXT:
            source_class(name)
    for name, params in dials.items():
        resolved(name, source_class(name, PARAMS_SETTING).Params, params)


def settings_schema() -> dict[str, dict[str, Any]]:
    """More of the JSON schema of settings, as the sources declare themselves; a user's own may be named
    too."""
    named = {"anyOf": [{"enum": [*shipped(), TEXT]}, {"type": "string"}]}
    dials = {name: kind.Params.model_json_schema() for name, kind in shipped().items()}
    return {
        "sources.use": {"anyOf": [{"type": "array", "items": named}, {"type": "null"}]},
        "sources.dials": {"properties": dials},
    }


def load_source(folder: Path) -> RecallSource:
    """Open a source's folder, whatever its kind.

    Raises:
        DataRefused: the folder does not hold a source we know.
    """
    try:
        facts = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        address, kind = facts.get("class"), shipped().get(facts["name"])
        if address is None and kind is None and facts["name"] != TEXT:
            raise KeyError(facts["name"])
    except (OSError, ValueError, KeyError) as error:
        raise DataRefused(
            "this folder does not hold a source",
            where=str(folder),
            found=f"{type(error).__name__}: {error}",
            expected=f"a source.json naming one of {', '.join((*shipped(), TEXT))}",
            fix="train again, or restore the bundle",
        ) from error
    if address is not None:
        kind = load_named(address, str(folder), SOURCES)
        declare_source(kind.name, kind.family, kind.pairs)
    elif kind is None:
        kind = import_module("recsys.encoder.tower").InterestSource
    source: RecallSource = kind.load(folder)
    return source
