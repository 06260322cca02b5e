"""Files that tools of others read: citation, hooks, workflow."""

import re
from pathlib import Path

import yaml

import recsys

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == recsys.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_hooks_call_what_the_lint_step_calls():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    called = {hook["entry"].removeprefix(".venv/bin/") for hook in hooks if "ruff" in hook["id"]}
    assert called == {"ruff format", "ruff check"}


def test_the_workflow_calls_targets_that_the_makefile_has():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    wanted = set(re.findall(r"make ([\w-]+)", " ".join(step.get("run", "") for step in steps)))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert wanted >= {"test", "test-all", "test-lowest"}
    assert wanted <= targets


def test_the_changelog_has_its_parts_once():
    text = (ROOT / "CHANGELOG.md").read_text()
    newest = text.split("\n## ")[1]
    assert re.findall(r"^### (\w+)$", newest, re.M) == ["Changed", "Fixed", "Added"]
