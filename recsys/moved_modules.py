"""Modules that other people's programs import by an earlier name: `recsys.client` and its like.

The name leads to the module itself, not to a copy, so that what is set on one is seen by the other.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Final

MOVED: Final = {"cli": "operations.cli", "client": "serving.client", "tables": "ingestion.tables"}
"""Earlier name below the package → where it is."""


class MovedModules(MetaPathFinder, Loader):
    """Finds what stands under an earlier name; asked first, for the files below one are there to be found
    a second time."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an earlier name and for all below it; None for any other name."""
        now = self._now(fullname)
        found = None if now is None else find_spec(now)
        return None if found is None else spec_from_loader(fullname, self, origin=found.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module where it is now."""
        now = self._now(spec.name)
        assert now is not None
        module = import_module(now)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs a second time; the import leaves the module its own spec."""
        spec = module.__spec__
        if spec is not None and spec.name in self._specs:
            module.__spec__ = self._specs.pop(spec.name)

    def _now(self, name: str) -> str | None:
        package, _, rest = name.partition(".")
        first, *below = rest.split(".")
        if package != self._package or first not in MOVED:
            return None
        return ".".join([package, MOVED[first], *below])


def install(package: str) -> None:
    """Let the earlier names of a package's modules be imported."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules(package))
