"""The README's Python blocks run as written, and the commands it names exist."""

import re
from pathlib import Path

import pytest
import yaml

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.tables import RULES, TABLES, WARNINGS
from recsys.operations.cli.main import build_parser

README = Path(__file__).parents[1] / "README.md"
DATA = README.parent / "docs" / "data.md"


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


def test_the_page_on_tables_names_every_column_rule_and_warning():
    named = set(re.findall(r"`([^`\n]+)`", DATA.read_text(encoding="utf-8")))
    columns = {column for table in TABLES.values() for column in table.names}
    assert columns | set(RULES) | set(WARNINGS) <= named
