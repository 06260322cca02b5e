"""What the demonstration prints and leaves behind, without a night."""

import json

import pytest
import yaml

from recsys.operations.ahead_lines import differences
from recsys.operations.cli.demo import apart


@pytest.mark.parametrize("serving", ["", "serving: {workers: 1, log: postgresql://host/log}\n"])
def test_the_demonstration_calls_beside_the_workspaces_log(folder, serving):
    config = folder / "recsys.yaml"
    config.write_text(config.read_text() + serving)
    before = config.read_text()
    with apart(config) as beside:
        settings = yaml.safe_load(beside.read_text())
        assert beside.parent == folder  # relative paths stay what they were
        assert not settings["serving"]["log"].startswith(str(folder))
        assert "postgresql" not in settings["serving"]["log"]
        assert settings["data"] == yaml.safe_load(before)["data"]
    assert config.read_text() == before
    assert sorted(p.name for p in folder.iterdir()) == ["recsys.yaml"]


def report(folder, **interval):
    figures = {
        "main": "recsys",
        "main_metric": "ndcg@10",
        "users": 1200,
        "groups": 1500,
        "differences": {
            name: {"ndcg@10": {"interval": interval}} for name in ("als", "bm25", "popularity")
        },
    }
    (folder / "report.json").write_text(json.dumps({"evaluation": figures}))
    return folder / "report.html"


def test_differences_are_shown_with_their_intervals(tmp_path):
    lines = differences(report(tmp_path, value=0.03, low=-0.01, high=0.07))
    assert "1,200 users, 1,500 lists" in lines[0]
    assert lines[1:] == [
        "  popularity  +0.0300 [-0.0100, +0.0700]",
        "  als         +0.0300 [-0.0100, +0.0700]",
    ]


def test_differences_of_nothing(tmp_path):
    assert differences(None) == []
    assert differences(tmp_path / "report.html") == []
    assert differences(report(tmp_path, value=None, low=None, high=None)) == []
