"""Two runs at once: one works, the other is refused; after a kill the next takes over."""

import os
import signal
import subprocess
import sys

import pytest

from recsys.storage.workspace import Workspace, WorkspaceBusy

HOLD = """
import sys, time
from recsys.storage.workspace import Workspace
with Workspace(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""
RACE = """
import sys
from recsys.storage.workspace import Workspace, WorkspaceBusy
print("ready", flush=True)
sys.stdin.readline()
try:
    with Workspace(sys.argv[1]).lock():
        print("worked", flush=True)
        sys.stdin.readline()
except WorkspaceBusy:
    print("refused", flush=True)
"""


def child(script, path):
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(process):
    process.stdin.close()
    process.stdout.close()
    return process.wait(60)


def test_a_killed_holder_is_recognised(tmp_path):
    holder = child(HOLD, tmp_path)
    assert holder.stdout.readline() == "held\n"
    workspace = Workspace(tmp_path)
    with pytest.raises(WorkspaceBusy, match=f"process {holder.pid}"), workspace.lock():
        pass
    os.kill(holder.pid, signal.SIGKILL)
    assert ended(holder) == -signal.SIGKILL
    with workspace.lock() as note:
        assert f"process {holder.pid} has ended" in note


def test_of_several_at_once_one_works(tmp_path):
    racers = [child(RACE, tmp_path) for _ in range(4)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    # Who has the lock keeps it until all have said what they met.
    said = sorted(racer.stdout.readline().strip() for racer in racers)
    assert [ended(racer) for racer in racers] == [0] * 4
    assert said == ["refused"] * 3 + ["worked"]
