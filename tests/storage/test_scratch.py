"""Files in scratch are whole, on a disk and in object storage alike."""

import os

import pyarrow as pa
import pytest

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.storage import node_copies
from recsys.storage.node_copies import PublishedFolder, forget_copies
from recsys.storage.scratch import ScratchFolder


@pytest.fixture(params=["disk", "s3"])
def scratch(request, tmp_path):
    if request.param == "disk":
        return ScratchFolder(str(tmp_path / "scratch"))
    return ScratchFolder(f"{request.getfixturevalue('s3')}/recsys")


def test_what_is_written_is_read(scratch):
    part = scratch.below("lists/one")
    table = pa.table({"a": [1, 2, 3], "b": [["x"], [], ["y", "z"]]})
    part.write_table("made-0.parquet", table)
    part.write("note.json", b"{}")
    assert part.table("made-0.parquet").equals(table)
    assert part.read("note.json") == b"{}"
    assert part.names() == {"made-0.parquet", "note.json"}
    assert [name for name, _ in scratch.below("lists").folders()] == ["one"]


def test_nothing_is_there_before_anything_is_written(scratch):
    part = scratch.below("lists/none")
    assert part.names() == set()
    assert list(scratch.below("lists").folders()) == []
    with pytest.raises(FileNotFoundError):
        part.read("note.json")
    part.remove()


def test_removing_leaves_the_neighbours(scratch):
    for name in ("one", "two"):
        scratch.below(name).write("f", b"1")
    scratch.below("one").remove()
    assert scratch.below("one").names() == set()
    assert scratch.below("two").names() == {"f"}


def test_an_address_that_nothing_reads_is_named():
    with pytest.raises(UsageError, match="this address cannot be read"):
        ScratchFolder("nonsense://a/b").names()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(node_copies.VARIABLE, str(tmp_path / "node"))
    made = tmp_path / "bundle"
    (made / "items").mkdir(parents=True)
    (made / "manifest.json").write_bytes(b"{}")
    (made / "items" / "vectors.npy").write_bytes(bytes(1000))
    return made


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_machine_s_copy_is_made_once_and_again_when_it_is_lost_or_damaged(scratch, folder):
    published = PublishedFolder.publish(folder, scratch.below("releases"), "bundle-1")
    copy = published.local()
    assert contents(copy) == contents(folder)
    inode = (copy / "manifest.json").stat().st_ino
    assert (published.local() / "manifest.json").stat().st_ino == inode
    (copy / "items" / "vectors.npy").write_bytes(b"short")
    assert contents(published.local()) == contents(folder)
    assert forget_copies() == 1
    assert not copy.exists()
    assert contents(published.local()) == contents(folder)


def test_publishing_again_after_a_kill_completes_what_is_half_there(scratch, folder):
    where = scratch.below("releases")
    where.below("bundle-1/files").write("manifest.json", b"{")
    with pytest.raises(RecsysError, match="gone from scratch"):
        PublishedFolder(where, "bundle-1").local()
    published = PublishedFolder.publish(folder, where, "bundle-1")
    assert contents(published.local()) == contents(folder)


def test_a_copy_that_nobody_asks_for_goes(scratch, folder):
    where = scratch.below("releases")
    old = PublishedFolder.publish(folder, where, "bundle-1").local()
    os.utime(old, (1, 1))
    new = PublishedFolder.publish(folder, where, "bundle-2").local()
    assert not old.exists()
    assert new.exists()


def test_copies_do_not_lie_where_others_can_write(scratch, folder, tmp_path):
    published = PublishedFolder.publish(folder, scratch.below("releases"), "bundle-1")
    (tmp_path / "node").mkdir()
    (tmp_path / "node").chmod(0o770)
    with pytest.raises(RecsysError, match="must be this user's alone"):
        published.local()


def test_forgetting_makes_no_folder_where_there_was_none(folder, tmp_path):
    assert forget_copies() == 0
    assert not (tmp_path / "node").exists()
