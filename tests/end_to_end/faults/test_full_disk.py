"""A full disk: a clear message, nothing half-written, and the next run continues."""

import contextlib
import os
import resource
import signal
import subprocess

import numpy as np
import pytest

from recsys.storage.bundle import open_bundle, write_bundle
from recsys.storage.files import DiskFull, atomic_folder, atomic_write
from recsys.storage.progress import Reporter
from recsys.storage.stages import Stage, StageRunner
from recsys.storage.workspace import Workspace

SIZE = 4_000_000
"""Bytes of the small disk."""


@pytest.fixture
def small_disk(tmp_path):
    """A file system with little room; skipped where we may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


class Big:
    def save(self, folder):
        (folder / "big").write_bytes(b"x" * 2 * SIZE)


def half_written(place):
    return [p for p in place.rglob("*") if p.name.endswith(".part")]


def test_a_file_and_a_folder(small_disk):
    with pytest.raises(DiskFull, match="free while writing big"):
        atomic_write(small_disk / "big", b"x" * 2 * SIZE)
    with (
        pytest.raises(DiskFull, match="free while writing a model"),
        atomic_folder(small_disk / "folder", "a model") as aside,
    ):
        Big().save(aside)
    assert os.listdir(small_disk) == []


def test_a_stage_continues_when_there_is_room_again(small_disk):
    workspace = Workspace(small_disk / "work")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (SIZE - 1_000_000))

    def fit(out):
        np.save(out / "array.npy", np.zeros(250_000))
        return {}

    with workspace.lock(), pytest.raises(DiskFull, match="the output of stage als"):
        StageRunner(workspace, Reporter(quiet=True)).run(Stage("als", {}, fit))
    assert not half_written(small_disk)
    assert not workspace.lock_file.exists()
    ballast.unlink()
    with workspace.lock():
        assert not StageRunner(workspace, Reporter(quiet=True)).run(Stage("als", {}, fit)).skipped
        assert StageRunner(workspace, Reporter(quiet=True)).run(Stage("als", {}, fit)).skipped


def test_the_former_bundle_stays(small_disk):
    def write(ranker):
        write_bundle(
            small_disk / "bundle",
            encoder=None,
            items={"ids": ["a"]},
            sources={},
            ranker=ranker,
            features_json={},
            facts={},
        )

    class Small:
        def save(self, folder):
            (folder / "small").write_text("x")

    write(Small())
    digest = open_bundle(small_disk / "bundle").digest
    with pytest.raises(DiskFull, match="free while writing a bundle"):
        write(Big())
    assert open_bundle(small_disk / "bundle").digest == digest
    assert os.listdir(small_disk) == ["bundle"]


def test_the_lock_itself_on_a_full_disk(small_disk):
    workspace = Workspace(small_disk / "work")
    workspace.folder(".")
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(b"x" * 2 * SIZE)
    with pytest.raises(DiskFull, match=r"lock\.json"), workspace.lock():
        pass
    assert not workspace.lock_file.exists()


def test_a_limit_on_file_sizes_is_an_error_too(tmp_path):
    """Without a file system of our own: the kernel refuses to grow a file (EFBIG)."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            atomic_write(tmp_path / "big", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_real_night_stops_and_goes_on_when_there_is_more_room(
    small_disk, tmp_path, tiny_model, real_night
):
    """The workspace on a disk that grows by a half after each refusal: it fills up at many places."""
    calm = real_night.lay_out(tmp_path / "calm", tiny_model)
    _, said = (child := real_night.night(calm)).communicate(timeout=1800)
    assert child.returncode == 0, said
    config = real_night.lay_out(small_disk / "rough", tiny_model)
    size, refused = SIZE, []
    while True:
        _, said = (child := real_night.night(config)).communicate(timeout=1800)
        real_night.champion_of(config)
        assert not half_written(small_disk)
        assert not (config.parent / "work" / "lock.json").exists()
        if child.returncode == 0:
            break
        assert child.returncode == 1, said
        message = said[said.rindex("error: ") :]
        assert "Traceback" not in said
        assert "full" in message or "free" in message, message
        refused.append(message.splitlines()[0])
        size = size * 3 // 2
        again = ["mount", "-o", f"remount,size={size}", str(small_disk)]
        subprocess.run(again, check=True)
    assert len(refused) >= 3
    assert real_night.same_release(config, calm)
