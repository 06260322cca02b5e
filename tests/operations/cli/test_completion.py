"""Completion: what the shell offers after what was typed."""

import shutil
import subprocess

import pytest

from recsys.operations.cli.completion import SHELLS, commands, known, script
from recsys.operations.cli.main import build_parser

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_recsys
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "recsys.bash"
    file.write_text(script(build_parser(), "bash"))

    def offered(words):
        asked = ASK.format(script=file, words=words)
        done = subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, check=True, cwd=file.parent
        )
        return done.stdout.split()

    return offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "among"),
    [
        ('recsys night""', ["nightly"]),
        ('recsys models ""', ["list", "promote", "rollback"]),
        ("recsys nightly --", ["--until", "--log-format", "--config"]),
        ('recsys -c shop.yaml import ""', ["movielens", "mind"]),
        ("recsys models list --", ["--json"]),
    ],
)
def test_bash_offers_what_may_follow(bash, words, among):
    assert set(among) <= set(bash(words))


def test_files_are_offered_where_nothing_else_is(bash):
    assert bash("recsys serve -c rec") == ["recsys.bash"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_option_is_there(shell):
    text = script(build_parser(), shell)
    for path, node in commands(build_parser()):
        assert all(name in text for name in path)
        assert all(word.removeprefix("--") in text for word in known(node))
