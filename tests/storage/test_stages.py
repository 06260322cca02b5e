import ctypes
import io
import json
import os
import time
from pathlib import Path

import pytest

from recsys.storage.files import DiskFull
from recsys.storage.progress import Reporter
from recsys.storage.stages import Stage, StageRunner, WouldRun, code_version, difference
from recsys.storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "work")


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def night(workspace, said):
    """Starts a new night on the same workspace."""

    def start(dry_run=False):
        return StageRunner(workspace, Reporter(said), dry_run)

    return start


class Action:
    """Writes a file and counts its calls."""

    def __init__(self, text="x", facts=None):
        self.calls, self.text, self.facts = 0, text, facts or {}

    def __call__(self, out):
        self.calls += 1
        (out / "data").write_text(self.text)
        return self.facts


def test_a_repeated_stage_is_skipped_with_its_facts(night):
    action = Action(facts={"rows": 3})
    first = night().run(Stage("als", {"config": {"factors": 8}}, action))
    second = night().run(Stage("als", {"config": {"factors": 8}}, action))
    assert action.calls == 1
    assert not first.skipped
    assert second.skipped
    assert second.path == first.path
    assert second.facts == first.facts == {"rows": 3}
    assert (second.path / "data").read_text() == "x"


def test_facts_have_one_order_whether_the_stage_ran_or_was_found(night):
    facts = {"b": {"z": 1, "a": (2, 3)}, "a": 1}
    for _ in range(2):
        found = night().run(Stage("toy", {"x": 1}, lambda out: facts)).facts
        assert json.dumps(found) == '{"a": 1, "b": {"a": [2, 3], "z": 1}}'


def test_a_changed_input_redoes_the_stage_and_says_which(night, said):
    action = Action()
    night().run(Stage("als", {"config": {"factors": 8, "seed": 1}, "tables": "a"}, action))
    result = night().run(
        Stage("als", {"config": {"factors": 16, "seed": 1}, "tables": "a"}, action)
    )
    assert action.calls == 2
    assert result.reason == "config.factors 8 → 16"
    assert "als: running because config.factors 8 → 16" in said.getvalue()


def test_the_reason_compares_with_the_latest_run_not_with_any(night):
    for factors in (8, 16):
        night().run(Stage("als", {"factors": factors}, Action()))
    assert night().run(Stage("als", {"factors": 32}, Action())).reason == "factors 16 → 32"


def test_changed_code_redoes_the_stage(night, tmp_path):
    file = tmp_path / "fit.py"
    file.write_text("a = 1")
    action = Action()
    night().run(Stage("als", {}, action, code=(str(file),)))
    code_version.__globals__["_source_hash"].cache_clear()
    file.write_text("a = 2")
    result = night().run(Stage("als", {}, action, code=(str(file),)))
    assert action.calls == 2
    assert "code." in result.reason


def test_code_is_a_module_a_package_or_a_file():
    versions = code_version(["recsys.storage.files", "recsys.storage.stages", __file__])
    assert len(set(versions.values())) == 3
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        code_version(["recsys.nowhere"])


def test_a_failed_stage_leaves_nothing_and_is_redone(night, workspace):
    def fail(out):
        (out / "half").write_text("x")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        night().run(Stage("als", {}, fail))
    assert os.listdir(workspace.stages / "als") == []
    assert not night().run(Stage("als", {}, Action())).skipped


def test_an_interrupted_stage_starts_from_an_empty_folder(night, workspace):
    part = workspace.stages / "als" / f".{night(True).run(Stage('als', {}, Action())).key}.part"
    part.mkdir(parents=True)
    (part / "half").write_text("x")
    result = night().run(Stage("als", {}, Action()))
    assert result.reason == "it was interrupted"
    assert sorted(os.listdir(result.path)) == ["data", "stage.json"]


def test_a_resumable_stage_finds_its_checkpoint(night):
    def first(out):
        (out / "checkpoint").write_text("step 7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        night().run(Stage("encoder", {}, first, resumable=True))
    found = []
    night().run(
        Stage(
            "encoder",
            {},
            lambda out: found.append((out / "checkpoint").read_text()),
            resumable=True,
        )
    )
    assert found == ["step 7"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "data").unlink(), "lacks data"),
        (lambda p: (p / "data").write_text("xx"), "data has 2 bytes, not 1"),
        (lambda p: (p / "stage.json").write_text("{"), "unreadable marker"),
        (lambda p: (p / "stage.json").unlink(), "no longer kept"),
    ],
)
def test_a_damaged_output_is_redone(night, damage, reason):
    action = Action()
    damage(night().run(Stage("als", {}, action)).path)
    result = night().run(Stage("als", {}, action))
    assert action.calls == 2
    assert reason in result.reason
    assert night().run(Stage("als", {}, action)).skipped


def test_a_dry_run_says_why_and_writes_nothing(night, workspace, said):
    tables = night().run(Stage("tables", {"day": 1}, Action()))
    before = sorted(workspace.path.rglob("*"))
    runner = night(dry_run=True)
    assert runner.run(Stage("tables", {"day": 1}, Action())).path == tables.path
    action = Action()
    als = runner.run(Stage("als", {"tables": tables.key}, action))
    changed = runner.run(Stage("tables", {"day": 2}, action))
    assert action.calls == 0
    assert not als.skipped
    assert not als.path.exists()
    assert not als.made
    for opened in (als.open, lambda: als.product, lambda: als.folder, lambda: als.facts["rows"]):
        with pytest.raises(WouldRun, match="the output of als"):
            opened()
    assert sorted(workspace.path.rglob("*")) == before
    text = said.getvalue()
    assert "tables: unchanged" in text
    assert "als: would run because it has not run yet" in text
    assert "tables: would run because day 1 → 2" in text
    assert changed.key != tables.key


def test_the_key_of_a_dry_run_is_the_key_of_the_run(night):
    planned = night(dry_run=True).run(Stage("als", {"a": 1}, Action()))
    assert night().run(Stage("als", {"a": 1}, Action())).key == planned.key


def test_cost_is_measured_and_kept(night):
    def action(out):
        block = bytearray(60_000_000)
        (out / "data").write_bytes(block[:1000])

    first = night().run(Stage("als", {}, action))
    assert first.bytes == 1000
    assert first.peak_mb > 60
    assert first.seconds > 0
    again = night().run(Stage("als", {}, action))
    assert (again.seconds, again.bytes) == (first.seconds, 1000)
    assert again.cost == {"seconds": 0.0, "peak_mb": 0.0, "bytes": 0.0}
    assert first.cost["bytes"] == 1000


def test_what_is_kept_from_earlier_is_no_cost_of_tonight(night):
    def slow(seconds):
        def action(out):
            time.sleep(seconds)

        return action

    night().run(Stage("tables", {}, slow(0.3)))
    runner = night()

    def lists(out):
        runner.run(Stage("als", {}, slow(0.2)))
        time.sleep(0.1)

    runner.run(Stage("tables", {}, slow(0.3)))
    began = time.perf_counter()
    runner.run(Stage("lists", {}, lists))
    whole = time.perf_counter() - began
    for _ in range(3):  # asked for again by others of the same night
        assert runner.run(Stage("als", {}, slow(0.2))).skipped
    assert [(r.name, r.skipped) for r in runner.outputs] == [
        ("tables", True),
        ("als", False),
        ("lists", False),
    ]
    als, own = runner.outputs[1].seconds, runner.outputs[2].seconds
    assert als >= 0.2
    assert own >= 0.1
    assert als + own <= whole  # the source fitted inside the stage is not counted twice
    assert runner.spent == (pytest.approx(als + own), runner.outputs[0].seconds)


def test_what_a_run_used_survives_collection(night, workspace):
    for day in range(5):
        runner = night()
        kept = [runner.run(Stage(name, {"day": day}, Action())) for name in ("tables", "als")]
    assert runner.used == {result.name: result.key for result in kept}
    workspace.collect(1)
    assert all(result.path.exists() for result in kept)
    assert len(list(workspace.stages.glob("als/*/"))) == 1
    result = night().run(Stage("als", {"day": 0}, Action()))
    assert not result.skipped


def test_a_collected_output_is_made_again_with_that_reason(night, workspace):
    result = night().run(Stage("als", {}, Action()))
    for file in workspace.uses.iterdir():
        file.unlink()
    workspace.collect(3)
    assert not result.path.exists()
    assert night().run(Stage("als", {}, Action())).reason == "its output is no longer kept"


def test_a_full_disk_within_a_stage_names_the_stage(night, workspace):
    def action(out):
        (out / "half").write_text("x")
        raise RuntimeError("IO Error: No space left on device")

    with pytest.raises(DiskFull, match="the output of stage als"):
        night().run(Stage("als", {}, action))
    assert os.listdir(workspace.stages / "als") == []


def own_megabytes():
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("RssAnon:") + 1]) / 1024


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library")
def test_memory_that_a_stage_has_freed_is_the_systems_again(night):
    kept = []

    def crumbs(out):
        """Frees all but the newest of many small pieces, below which nothing goes back by itself."""
        pieces = [bytes(1000) for _ in range(150_000)]
        kept.append(pieces[-1])
        (out / "data").write_bytes(b"")

    before = own_megabytes()
    night().run(Stage("crumbs", {}, crumbs, personal=False))
    assert own_megabytes() < before + 60


def test_the_marker_says_everything(night):
    result = night().run(Stage("als", {"a": 1}, Action(facts={"rows": 1}), personal=False))
    marker = json.loads((result.path / "stage.json").read_text())
    assert marker["inputs"] == {"a": 1}
    assert marker["personal"] is False
    assert marker["files"] == {"data": 1}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"b": 1}, "a is gone; b is new"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b 1 → 2"),
        (
            dict.fromkeys("abcde", 1),
            dict.fromkeys("abcde", 2),
            "a 1 → 2; b 1 → 2; c 1 → 2; and 2 more",
        ),
        (
            {"cut": 852_806_896_000_000},
            {"cut": 1_577_836_800_000_000},
            "cut 1997-01-09 10:48 → 2020-01-01",
        ),
        ({"k": "0" * 64}, {"k": "f" * 64}, "k 00000000 → ffffffff"),
    ],
)
def test_differences_in_words(old, new, text):
    assert difference(old, new) == text
