"""What a night leaves for the next one: quick fits dropped, others compressed, what is shared as it is."""

import json
import os

import numpy as np
import pytest

from recsys.data_schemas.config import parse_config
from recsys.storage.files import DiskFull
from recsys.storage.progress import Reporter
from recsys.storage.stages import Stage, StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import at_rest
from recsys.training.night.night_context import Night

QUICK = 0.5 * at_rest.QUICK * 0.4 * 600
"""Seconds, at ten minutes of budget."""


@pytest.fixture
def night(tmp_path):
    raw = {"data": {"items": "i", "events": "e"}, "budget_minutes": 10}
    config = parse_config(raw, tmp_path)
    workspace = Workspace(config.workspace_path)
    return Night(config, workspace, StageRunner(workspace, Reporter(quiet=True)), Reporter())


def made(night, name, seconds=QUICK, **inputs):
    """An output of 400 kB that took so long."""
    output = night.runner.run(
        Stage(name, inputs, lambda out: np.save(out / "x.npy", np.arange(100_000, dtype=np.int32)))
    )
    marker = output.path / "stage.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"seconds": seconds}))
    return output.path


def test_each_output_by_what_it_would_cost(night, tmp_path):
    dropped = made(night, "source-bm25")
    spent = [made(night, f"source-{n}", 4 * QUICK, masked="some") for n in ("ease", "sequence")]
    slow = made(night, "source-ease", 4 * QUICK)
    warm = made(night, "source-als")
    groups = made(night, "groups-test")
    shared = made(night, "source-popular")
    os.link(shared / "x.npy", tmp_path / "artifact")
    others = made(night, "vectors")
    assert at_rest.rest_until_tomorrow(night) > 3 * 300_000
    for empty in (dropped, *spent):
        assert [file.name for file in empty.iterdir()] == ["stage.json"]
    for packed in (slow, warm, groups):
        assert (packed / "x.npy.zst").exists()
        assert not (packed / "x.npy").exists()
    for whole in (shared, others):
        assert (whole / "x.npy").exists()
    assert at_rest.rest_until_tomorrow(night) == 0


def test_no_room_to_compress_is_no_failure(night, monkeypatch):
    """The version is registered by then, and half a form of a file is nobody's."""
    kept = made(night, "groups-test")

    def full(*_, **__):
        raise DiskFull.at(kept)

    monkeypatch.setattr(at_rest, "put_to_rest", full)
    assert at_rest.rest_until_tomorrow(night) == 0
    assert (kept / "x.npy").exists()
