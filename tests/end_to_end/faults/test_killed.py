"""SIGKILL at random moments: every restart finishes, the result is the undisturbed run's, what is
published can always be opened, and nothing half-written stays."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.data_schemas.config import parse_config
from recsys.storage.bundle import open_bundle
from recsys.storage.files import files_below, hash_file
from recsys.storage.registry import Registry

KILLS = int(os.environ.get("RECSYS_KILLS", "30"))
TOY = Path(__file__).with_name("toy_night.py")


def start(folder, *more):
    child = subprocess.Popen(
        [sys.executable, str(TOY), str(folder), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    return child


def finish(folder, *more):
    began = time.monotonic()
    child = start(folder, *more)
    ready = time.monotonic() - began
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait(300) == 0, said
    return time.monotonic() - began - ready


def kill_after(folder, seconds, *more):
    child = start(folder, *more)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.stdout.close()
    child.stderr.close()
    return child.wait(60)


def kill_often(folder, kills, seconds, *more):
    """Kill runs in a folder at random moments, so many times; after each kill it yields.

    A run that ends before its kill, on a machine that has become faster, says how long one takes
    now, and the next begins with nothing.
    """
    draw = random.Random(20260101)
    while kills:
        code = kill_after(folder, draw.uniform(0, seconds), *more)
        assert code in (0, -signal.SIGKILL)
        if code:
            kills -= 1
            yield
        else:
            shutil.rmtree(folder)
            seconds = finish(folder, *more)
            shutil.rmtree(folder)


def content(folder):
    """Hashes of every stage's files; the markers hold times and are left out."""
    found = {}
    for marker in sorted((folder / "work" / "stages").glob("*/*/stage.json")):
        marker.unlink()
        found[f"{marker.parent.parent.name}/{marker.parent.name}"] = {
            name: hash_file(marker.parent / name) for name in files_below(marker.parent)
        }
    return found


@pytest.mark.parametrize("kills", [8, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_killed_anywhere_it_ends_as_if_undisturbed(tmp_path, kills):
    seconds = finish(tmp_path / "calm")
    rough = tmp_path / "rough"
    for _ in kill_often(rough, kills, seconds):
        current = rough / "work" / "current"
        if current.exists():
            open_bundle(rough / "work" / "bundles" / current.read_text())
    finish(rough)
    assert not list(rough.rglob("*.part"))
    assert not (rough / "work" / "lock.json").exists()
    assert (rough / "work" / "current").read_text() == (
        tmp_path / "calm" / "work" / "current"
    ).read_text()
    assert content(rough) == content(tmp_path / "calm")


@pytest.mark.slow
def test_killed_with_a_registry(tmp_path):
    seconds = finish(tmp_path / "calm", "register")
    rough = tmp_path / "rough"
    config = parse_config({"data": {"items": "i", "events": "e"}}, rough)
    for _ in kill_often(rough, KILLS, seconds, "register"):
        registry = Registry(config)
        if (champion := registry.champion()) is not None:
            open_bundle(registry.local_path(champion))
        for version in registry.list():
            open_bundle(registry.local_path(version.version))
    finish(rough, "register")
    registry = Registry(config)
    assert len(registry.list()) == 1
    assert registry.champion() == registry.list()[0].version
    assert (
        registry.list()[0].digest
        == Registry(parse_config({"data": {"items": "i", "events": "e"}}, tmp_path / "calm"))
        .list()[0]
        .digest
    )
    assert [c.action for c in registry.history()] == ["promote"]
    assert len(list(rough.rglob("MLmodel"))) == 1
    assert not list(rough.rglob("*.part"))
    assert content(rough) == content(tmp_path / "calm")
