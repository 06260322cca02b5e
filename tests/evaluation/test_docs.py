"""The code in docs/report.md runs as written."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    exec(compile(block, str(PAGE), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1.0"
    assert lines[1].startswith("On ndcg@2, ours (1.0000) is not to be told apart from popularity")


def test_every_metric_of_a_report_is_explained() -> None:
    from recsys.evaluation.metrics import METRICS

    page = PAGE.read_text(encoding="utf-8")
    for metric in METRICS:
        assert f"`{metric.name}" in page, metric.name
