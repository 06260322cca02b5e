import errno
import hashlib
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from recsys.data_schemas.config import GateConfig
from recsys.storage import files
from recsys.storage.files import (
    DiskFull,
    atomic_file,
    atomic_folder,
    atomic_write,
    hash_file,
    hash_json,
    is_disk_full,
)


def test_a_written_file_is_whole_and_alone(tmp_path):
    atomic_write(tmp_path / "new" / "a.txt", "é")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é".encode()
    assert os.listdir(tmp_path / "new") == ["a.txt"]


def test_a_mode_is_set_before_the_file_has_its_name(tmp_path):
    atomic_write(tmp_path / "secret", b"x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_keeps_the_former_file_and_says_what_was_written(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    atomic_write(target, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFull) as caught:
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert str(target) in str(caught.value)
    assert "free while writing a.txt" in str(caught.value)


def test_a_file_that_others_write_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.txt"
    for text in ("old", "new"):
        with atomic_file(target) as aside:
            aside.write_text(text)
            assert text == "old" or target.read_text() == "old"
    with pytest.raises(ZeroDivisionError), atomic_file(target) as aside:
        aside.write_text("half" * (1 // aside.write_text("")))
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_folder_appears_whole(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as aside:
        (aside / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_folder_leaves_nothing_and_keeps_the_former(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as aside:
        (aside / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as aside:
        (aside / "a").write_text(str(1 / 0))
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_replaces_the_former(tmp_path):
    for text in ("1", "2"):
        with atomic_folder(tmp_path / "out") as aside:
            (aside / text).write_text(text)
    assert os.listdir(tmp_path / "out") == ["2"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_recognised_however_a_library_words_it():
    assert is_disk_full(OSError(errno.ENOSPC, "x"))
    assert is_disk_full(RuntimeError("IO Error: Could not write file: No space left on device"))
    assert is_disk_full(ValueError("database or disk is full"))
    assert is_disk_full(OSError("250000 requested and 124400 written"))
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = OSError(errno.EDQUOT, "quota")
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EACCES, "denied"))
    assert not is_disk_full(None)


def test_a_hash_is_of_the_content(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    assert hash_file(tmp_path / "x") == hashlib.sha256(b"hello").hexdigest()


def test_json_hashes_ignore_order_and_keep_types():
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": (2,), "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 1.5})
    assert hash_json({"a": "1"}) != hash_json({"a": 1})
    assert hash_json({3, 1, 2}) == hash_json([1, 2, 3])


def test_json_hashes_take_what_a_night_has_at_hand():
    assert hash_json(np.float64(0.5)) == hash_json(0.5)
    assert hash_json(np.arange(3)) == hash_json([0, 1, 2])
    assert hash_json(PurePosixPath("a/b")) == hash_json("a/b")
    assert hash_json(GateConfig()) != hash_json(GateConfig(margin=0.5))
    with pytest.raises(TypeError, match="object"):
        hash_json(object())


def test_a_linked_tree_has_the_same_files(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_text("1")
    files.link_tree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "deep" / "x").read_text() == "1"
    assert files.files_below(tmp_path / "a") == files.files_below(tmp_path / "b")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")],
)
def test_sizes_for_people(count, text):
    assert files.human_bytes(count) == text


def test_free_space_of_a_place_that_is_not_there_yet(tmp_path):
    assert files.free_bytes(tmp_path / "not" / "yet") > 0
    assert files.folder_bytes(Path("/nonexistent")) == 0
