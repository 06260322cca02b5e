import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from recsys.data_schemas.errors import RecsysError
from recsys.storage import workspace as module
from recsys.storage.workspace import Holder, Workspace, WorkspaceBusy


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "work")


def left_by(workspace, holder, age=0.0):
    """A lock file as another process left it, `age` seconds ago."""
    workspace.folder(".")
    workspace.lock_file.write_text(json.dumps(holder.__dict__))
    moment = time.time() - age
    os.utime(workspace.lock_file, (moment, moment))


def ended_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_second_run_is_refused_and_told_who_holds_it(workspace):
    with (
        workspace.lock() as note,
        pytest.raises(WorkspaceBusy) as caught,
        Workspace(workspace.path).lock(),
    ):
        pass
    assert note is None
    assert f"process {os.getpid()}" in str(caught.value)
    assert Holder.me().host in str(caught.value)
    assert "since 20" in str(caught.value)


def test_the_lock_is_free_again_after_a_run_and_after_a_failed_one(workspace):
    with pytest.raises(RuntimeError), workspace.lock():
        raise RuntimeError
    with workspace.lock() as note:
        assert note is None
    assert not workspace.lock_file.exists()


def test_the_lock_of_an_ended_process_is_taken_over(workspace):
    pid = ended_process()
    left_by(workspace, replace(Holder.me(), pid=pid))
    with workspace.lock() as note:
        assert f"process {pid} has ended" in note


def test_a_reused_pid_is_not_taken_for_the_holder(workspace):
    left_by(workspace, replace(Holder.me(), started=psutil.Process().create_time() - 3600))
    with workspace.lock() as note:
        assert "belongs to another process" in note


def test_another_machine_is_believed_while_it_shows_life(workspace):
    far = replace(Holder.me(), host="elsewhere", boot="another")
    left_by(workspace, far)
    with pytest.raises(WorkspaceBusy, match="elsewhere"), workspace.lock():
        pass
    left_by(workspace, far, age=module.SILENT_SECONDS + 5)
    with workspace.lock() as note:
        assert "elsewhere has shown no life" in note


def test_the_same_machine_after_a_reboot_is_not_believed_for_long(workspace):
    left_by(workspace, replace(Holder.me(), boot="before"), age=module.SILENT_SECONDS + 5)
    with workspace.lock() as note:
        assert note is not None


def test_an_unreadable_lock_file_names_nobody(workspace):
    workspace.folder(".")
    workspace.lock_file.write_text("half a f")
    with workspace.lock():
        assert Holder.read(workspace.lock_file).pid == os.getpid()


def test_a_holder_shows_life(workspace, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    with workspace.lock():
        os.utime(workspace.lock_file, (1, 1))
        deadline = time.monotonic() + 60
        while workspace.lock_file.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert workspace.lock_file.stat().st_mtime > 2


def test_a_lock_that_was_taken_over_is_not_released_by_its_former_holder(workspace):
    with workspace.lock():
        left_by(workspace, replace(Holder.me(), token="new"))
    assert workspace.lock_file.exists()


def test_a_workspace_that_cannot_be_written_is_said_to_be_so(tmp_path):
    (tmp_path / "work").write_text("a file")
    with pytest.raises(RecsysError, match="cannot be written"):
        _ = Workspace(tmp_path / "work").stages


def output(workspace, name, key, size=10):
    folder = workspace.stages / name / key
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(b"x" * size)
    return folder


def test_collection_keeps_the_last_runs_and_what_is_pinned(workspace):
    outputs = {key: output(workspace, "als", key) for key in ("old", "pinned", "mid", "new")}
    workspace.record_use("20260101", [("als", "old")])
    workspace.record_use("20260102", [("als", "mid")])
    workspace.record_use("20260103", [("als", "new")])
    half = output(workspace, "als", ".x.part")
    freed = workspace.collect(2, pinned=[("als", "pinned")])
    assert {key for key, folder in outputs.items() if folder.exists()} == {"pinned", "mid", "new"}
    assert not half.exists()
    assert freed == 20
    assert workspace.used_by(5) == {("als", "mid"), ("als", "new")}


def test_collection_keeps_the_bundles_in_use(workspace):
    for digest in ("aa", "bb"):
        (workspace.bundles / digest).mkdir()
        (workspace.bundles / f"{digest}.verified.json").write_text("{}")
    workspace.collect(digests={"aa"})
    assert sorted(os.listdir(workspace.bundles)) == ["aa", "aa.verified.json"]
    workspace.collect()
    assert (workspace.bundles / "aa").exists()


def test_collection_removes_what_was_left_half_written(workspace):
    for place in (workspace.path, workspace.tables, workspace.state):
        (place / f".x.{ended_process()}-ab.part").mkdir(parents=True)
    (workspace.stages / "als").mkdir()
    (workspace.stages / "als" / f".last.json.{ended_process()}-ab.part").write_text("{")
    (workspace.bundles / f".aa.{ended_process()}-ab.part").mkdir()
    at_work = workspace.state / f".x.{os.getppid()}-ab.part"
    at_work.mkdir()
    workspace.collect()
    assert list(workspace.path.rglob("*.part")) == [at_work]


def test_collection_keeps_the_current_snapshot_and_the_one_before(workspace):
    for age, name in enumerate(("new", "before", "old")):
        (workspace.state / name).mkdir()
        os.utime(workspace.state / name, (1000 - age, 1000 - age))
    (workspace.state / "current.json").write_text('{"snapshot": "new"}')
    workspace.collect()
    assert sorted(os.listdir(workspace.state)) == ["before", "current.json", "new"]


def test_collection_keeps_the_newest_reports_and_those_of_versions_in_use(workspace):
    nights = [f"202601{day:02}T030000" for day in range(1, 31)]
    for name in [*nights, "my-own"]:
        (workspace.reports / name).mkdir()
    (workspace.reports / "backtest.html").write_text("a page")
    workspace.collect()
    assert len(os.listdir(workspace.reports)) == 32
    workspace.collect(reports={nights[0]})
    kept = [nights[0], *nights[-module.KEEP_REPORTS :], "backtest.html", "my-own"]
    assert sorted(os.listdir(workspace.reports)) == kept


def test_usage_adds_up(workspace):
    output(workspace, "als", "a", 100)
    (workspace.cache / "x").write_bytes(b"y" * 50)
    usage = workspace.usage()
    assert usage["stages"] == 100
    assert usage["cache"] == 50
    assert usage["total"] == 150
    assert next(iter(usage)) == "stages"


def test_a_folder_of_somebody_else_is_named(tmp_path, monkeypatch):
    """Root may do everything, so the system's refusal is played."""

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(RecsysError, match="the workspace cannot be written") as caught,
        Workspace(tmp_path).lock(),
    ):
        raise AssertionError
    assert ".lock" in caught.value.render()
