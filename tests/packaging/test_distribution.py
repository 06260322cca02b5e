"""One name, one version, and bounds that hold: pyproject.toml against what else speaks of them."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recsys
from recsys.data_schemas.distribution import DISTRIBUTION, install_extra
from recsys.operations.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,]+)\])?>=([\d.]+),<(\d+)")
ALL = sorted({*PROJECT["dependencies"], *(r for extra in OPTIONAL.values() for r in extra)})


def texts():
    """{file: text} of what a user reads or runs."""
    rooms = [file.parent for file in ROOT.glob("*/__init__.py")]
    files = [f for room in rooms for f in room.rglob("*") if f.suffix in {".py", ".yaml", ".j2"}]
    files += [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"]
    files += [f for f in (ROOT / "deploy").rglob("*") if f.is_file()]
    return {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for f in files}


def pinned():
    """{distribution: version} of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normal(name): version for name, version in pins}


def normal(name):
    return re.sub("[-_.]+", "-", name).lower()


def numbers(version):
    return [int(part) for part in version.split(".") if part.isdecimal()]


def test_the_name_is_the_distributions():
    assert PROJECT["name"] == DISTRIBUTION
    assert install_extra("spark") == "pip install 'recsys-nightly[spark]'"


def test_nobody_is_told_to_install_a_strangers_package():
    wrong = re.compile(r"(?<![\w./-])recsys\[|pip install ['\"]?recsys(?!-nightly)\b|recsys==")
    found = {file: wrong.findall(text) for file, text in texts().items()}
    assert {file: hits for file, hits in found.items() if hits} == {}


def test_every_extra_named_is_there():
    named = {extra for text in texts().values() for extra in re.findall(r"-nightly\[(\w+)", text)}
    for file, text in texts().items():
        if file.endswith(".py"):
            named |= {
                call.args[0].value
                for call in ast.walk(ast.parse(text))
                if isinstance(call, ast.Call)
                and getattr(call.func, "id", "") == "install_extra"
                and isinstance(call.args[0], ast.Constant)
            }
    assert {"spark", "openvino", "otel", "tensorboard", "postgres"} <= named
    assert named | set(EXTRAS.values()) <= set(OPTIONAL)


def test_the_version_is_written_once():
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.M)[1] == recsys.__version__
    images = [tag for text in texts().values() for tag in re.findall(r"/recsys:(\S+)", text)]
    assert images
    assert set(images) == {recsys.__version__}


@pytest.mark.parametrize("requirement", ALL)
def test_a_requirement_is_bounded_around_what_is_tested(requirement):
    match = REQUIREMENT.fullmatch(requirement)
    assert match, "name>=lowest,<next major"
    name, _, low, high = match.groups()
    version = pinned().get(normal(name))
    assert version, f"{name} is not in constraints.txt"
    assert numbers(low) <= numbers(version)
    assert int(high) == numbers(version)[0] + 1


def test_the_lowest_versions_are_constraints():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest.py"], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert any(line.startswith("duckdb==") for line in lines)
    assert not any(line.startswith("torch==") for line in lines)
    assert len(lines) == len({normal(REQUIREMENT.fullmatch(r)[1]) for r in ALL}) - 1
