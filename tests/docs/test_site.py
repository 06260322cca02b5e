"""The docs site is built without a warning, from what is there, and asks nobody for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.data_schemas.config import RecsysConfig
from recsys.operations.cli.completion import commands
from recsys.operations.cli.main import build_parser
from recsys.serving.routes import OPERATIONS

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env=os.environ | proxies | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def page(site, name):
    return (site / f"{name}.html").read_text(encoding="utf-8")


def test_reference_pages_name_everything(site):
    said = page(site, "reference/commands")
    for path, parser in list(commands(build_parser()))[1:]:
        assert f"recsys {' '.join(path)}" in said
        for action in parser._actions:
            if {"-h", "-c", "--debug"} & set(action.option_strings):
                continue
            assert all(word in said for word in action.option_strings)
    assert all(
        f"<code>{o.method} {o.path}</code>" in page(site, "reference/calls") for o in OPERATIONS
    )
    settings = page(site, "reference/settings")
    assert all(name in settings for name in RecsysConfig.model_fields)
    assert "Recommender.recommend" in page(site, "reference/python-names")


def test_a_page_asks_no_other_server_for_anything(site):
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+"', text), file
        links = re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|icon)"[^>]*>', text)
        assert not [link for link in links if re.search(r'href="(?:https?:)?//', link)], file
