"""A workspace that was copied or moved: it serves from its own files and deletes nobody else's."""

import os
import shutil

import pytest

from recsys.data_schemas.config import parse_config
from recsys.storage.bundle import open_bundle
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import OWNER_TAG
from recsys.storage.workspace import Workspace
from recsys.storage.workspace_id import workspace_id

pytestmark = [
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::sqlalchemy"),
    pytest.mark.filterwarnings("ignore:::alembic"),
]
TABLES = {"data": {"items": "items", "events": "events"}}


@pytest.fixture
def shop(tmp_path, empty_database):
    """A registry in `shop/work` whose versions 1, 2, 3 were promoted in turn."""
    return make_shop(tmp_path / "shop", empty_database)


def make_shop(folder, empty_database, **tracking):
    (folder / "work" / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "work" / "mlflow" / "mlflow.db")
    return registry_at(folder, **tracking)


def registry_at(folder, **tracking):
    return Registry(parse_config({**TABLES, "tracking": tracking}, folder))


def promoted(registry, make_bundle, values=(1.0, 2.0, 3.0)):
    for value in values:
        version = registry.register(make_bundle(value))
        registry.promote(version, f"night {version}")
    return registry


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and "mlflow.db" not in p.name)


def copy_tree(kind, source, target):
    link = {"copied": shutil.copy2, "linked": os.link}[kind]
    shutil.copytree(source, target, copy_function=link)


@pytest.mark.parametrize("kind", ["copied", "linked"])
def test_a_copy_collects_only_its_own(shop, make_bundle, tmp_path, kind):
    promoted(shop, make_bundle)
    copy_tree(kind, tmp_path / "shop", tmp_path / "copy")
    if kind == "linked":
        database = tmp_path / "copy" / "work" / "mlflow" / "mlflow.db"
        data = database.read_bytes()
        database.unlink()
        database.write_bytes(data)
    before = files(tmp_path / "shop")
    copy = registry_at(tmp_path / "copy")
    assert copy.register(make_bundle(4.0)) == 4
    copy.promote(4, "in the copy")
    assert copy.collect(keep=1) == [2, 1]
    assert files(tmp_path / "shop") == before
    # Nothing local is left of the originals: they are fetched from their own artifacts.
    shutil.rmtree(shop.workspace.bundles)
    again = registry_at(tmp_path / "shop")
    for version in (1, 2, 3):
        assert open_bundle(again.local_path(version)).item_ids == ["a", "bé", "c"]
    stored = tmp_path / "copy" / "work" / "mlflow" / "artifacts"
    assert len(list(stored.rglob("MLmodel"))) == 2
    assert workspace_id(copy.workspace) != workspace_id(shop.workspace)


def test_a_copy_serves_without_the_original_and_so_does_mlflow(shop, make_bundle, tmp_path):
    promoted(shop, make_bundle)
    shutil.copytree(tmp_path / "shop", tmp_path / "copy")
    shutil.rmtree(tmp_path / "shop")
    shutil.rmtree(tmp_path / "copy" / "work" / "bundles")
    copy = registry_at(tmp_path / "copy")
    for version in (1, 2, 3):
        assert open_bundle(copy.local_path(version)).item_ids == ["a", "bé", "c"]
    copy.register(make_bundle(4.0))
    assert not (tmp_path / "shop").exists()
    for version in copy._client.search_model_versions("name = 'recsys'"):
        assert version.source.startswith((tmp_path / "copy").as_uri())
        assert (copy._stored(copy.show(int(version.version))) / "MLmodel").exists()


def test_a_moved_workspace_is_the_same(shop, make_bundle, tmp_path):
    promoted(shop, make_bundle, (1.0, 2.0))
    before = workspace_id(shop.workspace)
    (tmp_path / "shop").rename(tmp_path / "moved%20 'shop")
    moved = registry_at(tmp_path / "moved%20 'shop")
    assert workspace_id(moved.workspace) == before
    promoted(moved, make_bundle, (3.0, 4.0))
    assert moved.collect(keep=1) == [2, 1]
    assert open_bundle(moved.local_path(3)).item_ids == ["a", "bé", "c"]
    assert not (tmp_path / "shop").exists()


def test_a_folder_of_artifacts_that_two_share_keeps_what_the_other_made(
    tmp_path, empty_database, make_bundle
):
    shared = {"artifacts": str(tmp_path / "shared")}
    one = promoted(make_shop(tmp_path / "one", empty_database, **shared), make_bundle)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = registry_at(tmp_path / "two", **shared)
    promoted(two, make_bundle, (4.0, 5.0, 6.0))
    assert two.collect(keep=1) == [4, 3, 2, 1]
    stored = [p.parent for p in (tmp_path / "shared").rglob("MLmodel")]
    assert len(stored) == 5
    shutil.rmtree(one.workspace.bundles)
    for version in (1, 2, 3):
        assert open_bundle(registry_at(tmp_path / "one", **shared).local_path(version)).digest
    # What one made, one may delete.
    promoted(one, make_bundle, (7.0,))
    assert registry_at(tmp_path / "one", **shared).collect(keep=1) == [2, 1]
    assert len(list((tmp_path / "shared").rglob("MLmodel"))) == 4


def test_of_a_shared_registry_only_own_versions_are_deleted(shop, make_bundle):
    promoted(shop, make_bundle)
    shop.embedded = False
    shop.__dict__["_direct"] = False
    shop._client.set_model_version_tag("recsys", "1", OWNER_TAG, "another")
    assert shop.collect(keep=0) == []
    shop._client.delete_registered_model_alias("recsys", "previous")
    assert shop.collect(keep=0) == [2]
    assert [v.version for v in shop.list()] == [3, 1]


def test_versions_of_earlier_releases_of_ours_are_found_and_collected(shop, make_bundle, tmp_path):
    """They say neither who made them nor where they lie in the folder."""
    promoted(shop, make_bundle)
    for version in (1, 2, 3):
        for tag in (OWNER_TAG, "recsys.location"):
            shop._client.delete_model_version_tag("recsys", str(version), tag)
    shutil.copytree(tmp_path / "shop", tmp_path / "copy")
    copy = registry_at(tmp_path / "copy")
    assert copy.collect(keep=1) == [1]
    assert len(list((tmp_path / "shop").rglob("MLmodel"))) == 3
    assert len(list((tmp_path / "copy").rglob("MLmodel"))) == 2


def test_a_workspace_keeps_its_identity(tmp_path):
    workspace = Workspace(tmp_path / "work")
    first = workspace_id(workspace)
    assert workspace_id(workspace) == first
    (tmp_path / "work" / "workspace.json").write_text("half")
    assert workspace_id(workspace) != first
