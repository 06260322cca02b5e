"""Small worlds of events, and slow readings to compare with."""

from pathlib import Path

import pytest

from recsys.features.catalogue import Catalogue
from recsys.features.random_world import RandomWorld, item_table


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.from_table(item_table(12))


@pytest.fixture(scope="session")
def trial() -> RandomWorld:
    return RandomWorld.make(3)


@pytest.fixture
def folder_bytes():
    """Every file of a folder by its relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(folder)): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }

    return read
