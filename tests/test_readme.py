"""The README's Python blocks run as written, and the commands it names exist."""

import re
from pathlib import Path

import pytest
import yaml

from data_schemas.config import parse_config
from recsys.cli.main import build_parser

README = Path(__file__).parents[1] / "README.md"


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("block", blocks("yaml"))
def test_config_block_is_accepted(block, tmp_path):
    assert parse_config(yaml.safe_load(block), tmp_path).data.items == "data/items.parquet"


def test_every_command_named_parses():
    parser = build_parser()
    lines = [
        line.split("#")[0].split()[1:]
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("recsys ")
    ]
    assert len(lines) >= 5
    for words in lines:
        assert parser.parse_args(words).run is not None
