"""Outputs between two nights: compressed, or dropped and made again when they are read."""

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from recsys.storage.files import files_below, folder_bytes, hash_file
from recsys.storage.progress import Reporter
from recsys.storage.stages import Stage, StageRunner
from recsys.storage.stages.rest import packed, put_to_rest, wake
from recsys.storage.workspace import Workspace

ANY_ARRAY = st.one_of(scalar_dtypes()).flatmap(lambda kind: arrays(kind, array_shapes(max_dims=3)))


@pytest.fixture(autouse=True)
def small_files_too(monkeypatch):
    monkeypatch.setattr("recsys.storage.stages.rest.LEAST_BYTES", 0)


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def night(tmp_path, said):
    return lambda: StageRunner(Workspace(tmp_path / "work"), Reporter(said))


class Fit:
    """Two arrays and some words."""

    def __init__(self):
        self.calls = 0

    def __call__(self, out):
        self.calls += 1
        (out / "als").mkdir()
        np.save(out / "als" / "value.npy", np.linspace(0, 1, 40_000, dtype=np.float32))
        np.savez(out / "als" / "more.npz", a=np.arange(9_000), b=np.zeros(50))
        (out / "als" / "about.json").write_text("words " * 10_000)
        return {"cut": 3}


def run(night, fit):
    return night().run(Stage("source-als", {"cut": 3}, fit))


def hashes(output):
    return {name: hash_file(output / name) for name in files_below(output) if name != "stage.json"}


@given(ANY_ARRAY, st.integers(7, 64))
def test_an_array_comes_back_to_the_last_byte(tmp_path_factory, array, piece):
    folder = tmp_path_factory.mktemp("output")
    np.save(folder / "x.npy", array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.storage.stages.rest._PIECE", piece)
        before = hash_file(folder / "x.npy")
        put_to_rest(folder, drop=False)
        assert files_below(folder) == ["x.npy.zst"]
        wake(folder)
    assert files_below(folder) == ["x.npy"]
    assert hash_file(folder / "x.npy") == before


def test_what_rests_is_found_without_being_made_and_is_whole_when_it_is_read(night):
    fit = Fit()
    made = run(night, fit)
    before = hashes(made.path)
    assert made.open() == made.folder == made.path
    assert put_to_rest(made.path, drop=False) > 100_000
    assert sorted(hashes(made.path)) == [
        "als/about.json", "als/more.npz.zst", "als/value.npy.zst"
    ]  # fmt: skip
    assert put_to_rest(made.path, drop=False) == 0
    found = run(night, fit)
    assert (found.skipped, found.facts) == (True, {"cut": 3})
    assert hashes(found.open()) == before
    assert fit.calls == 1


def test_what_was_dropped_is_made_again_only_when_it_is_read(night, said):
    fit = Fit()
    made = run(night, fit)
    before, size = hashes(made.path), folder_bytes(made.path)
    assert put_to_rest(made.path, drop=True) > 0.9 * size
    assert files_below(made.path) == ["stage.json"]
    runner = night()
    found = runner.run(Stage("source-als", {"cut": 3}, fit))
    assert (found.skipped, found.facts, found.key, fit.calls) == (True, {"cut": 3}, made.key, 1)
    assert runner.find(Stage("source-als", {"cut": 3}, fit)) is None, (
        "who cannot make it finds nothing"
    )
    assert hashes(found.open()) == hashes(found.open()) == before
    assert fit.calls == 2
    assert "its files were put away" in said.getvalue()
    assert [r.skipped for r in runner.results] == [True, False], "the time is counted"
    assert run(night, fit).skipped
    assert fit.calls == 2


@pytest.mark.parametrize("drop", [False, True])
def test_killed_on_the_way_to_rest_it_is_still_an_output(night, drop, monkeypatch):
    """Whatever removal a kill came before, and once more half a file that was being written."""
    calls = 0
    unlink = os.unlink

    def killed(*args, **more):
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return unlink(*args, **more)

    for at in range(1, 6):
        fit = Fit()
        made = night().run(Stage("source-als", {"cut": at}, fit))
        before, calls = hashes(made.path), 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", killed)
            try:
                put_to_rest(made.path, drop=drop)
            except KeyboardInterrupt:
                (made.path / "als").mkdir(exist_ok=True)
                (made.path / "als" / ".value.npy.zst.1-ab.part").write_bytes(b"half")
        put_to_rest(made.path, drop=False)
        found = night().run(Stage("source-als", {"cut": at}, fit))
        assert found.skipped
        assert hashes(found.open()) == before


def test_a_damaged_compressed_file_is_made_again(night):
    fit = Fit()
    made = run(night, fit)
    before = hashes(made.path)
    put_to_rest(made.path, drop=False)
    file = packed(made.path / "als" / "value.npy")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = run(night, fit)
    assert hashes(found.open()) == before
    assert fit.calls == 2


def test_bytes_that_others_share_stay(night, tmp_path):
    made = run(night, Fit())
    os.link(made.path / "als" / "value.npy", tmp_path / "artifact")
    put_to_rest(made.path, drop=False)
    assert "als/value.npy" in files_below(made.path)
    assert "als/more.npz.zst" in files_below(made.path)
