import argparse
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.data_schemas.errors import (
    DataRefused,
    RecsysError,
    UsageError,
)
from recsys.operations.cli import main as module
from recsys.operations.cli.main import build_parser, main
from recsys.storage.progress import Reporter

COMMANDS = [
    "demo",
    "init",
    "import",
    "generate",
    "validate",
    "nightly",
    "train",
    "evaluate",
    "recommend",
    "models",
    "backtest",
    "features",
    "serve",
    "forget-user",
    "doctor",
]


@pytest.fixture
def failing(monkeypatch):
    """A command `models list` that raises what it is given."""

    def fail_with(error):
        def run(args):
            raise error

        monkeypatch.setattr("recsys.operations.cli.model_commands._list", run)

    return fail_with


def test_every_command_of_the_contract_is_there(recsys):
    code, out, _ = recsys("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n    {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(recsys, command):
    code, out, _ = recsys(command, "--help")
    assert code == 0
    assert "--config" in out or command in ("init", "import", "generate", "demo")


def test_the_config_is_named_before_or_after_the_command():
    parser = build_parser()
    for words in (["-c", "x.yaml", "models", "list"], ["models", "list", "-c", "x.yaml"]):
        assert parser.parse_args(words).config == "x.yaml"
    assert parser.parse_args(["models", "list"]).config == "recsys.yaml"
    assert parser.parse_args(["models", "list", "--debug"]).debug is True
    assert parser.parse_args(["--debug", "models", "list"]).debug is True


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["nigthly"], "did you mean `nightly`?"),
        (["models", "lst"], "did you mean `list`?"),
        (["train", "encodr"], "did you mean `encoder`?"),
        (["nightly", "--unitl", "x"], "--unitl"),
        (["xyz"], "one of "),
    ],
)
def test_a_misspelt_word_is_a_wrong_call(recsys, words, hint):
    code, out, err = recsys(*words)
    assert code == 2
    assert hint in err
    assert "Traceback" not in err
    assert out == ""


def test_without_a_command_the_help_is_shown(recsys):
    code, out, _ = recsys()
    assert code == 0
    assert "recsys demo" in out


def test_a_missing_right_is_one_message(recsys, failing):
    failing(PermissionError(13, "Permission denied", "/shop/work/reports"))
    code, _, err = recsys("models", "list")
    assert code == 1
    assert "Permission denied" in err
    assert "/shop/work/reports" in err
    assert "unexpectedly" not in err


@pytest.mark.parametrize(
    "evil", ["\x1b[2J\x1b[31m", "\x9b2J", "\x1b]0;title\x07", "\b\b\b", "\x7f", "\u202e", "a\rb"]
)
def test_names_of_data_do_not_command_the_terminal(recsys, failing, monkeypatch, evil):
    failing(RecsysError("a column is refused", found=f"<{evil}>"))
    code, _, err = recsys("models", "list")
    assert code == 1
    assert evil not in err
    assert all(ch.isprintable() or ch == "\n" for ch in err)

    def run(args):
        print(f"<{evil}>", json.dumps([evil], ensure_ascii=False), "商品 é\t.")
        Reporter().say(evil)

    monkeypatch.setattr("recsys.operations.cli.model_commands._list", run)
    code, out, err = recsys("models", "list")
    assert code == 0
    assert all(ch.isprintable() or ch in "\n\t" for ch in out + err)
    assert "商品 é\t." in out


def test_a_moving_line_of_ours_still_moves_and_what_has_no_encoding_is_shown():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    plain = module.Plain(stream)
    plain.write("\rhalf done   ")
    plain.write("\r")
    plain.write("é\ud800\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"\rhalf done   \r\\xe9\\ud800\n"


def test_the_version_is_printed(recsys):
    code, out, _ = recsys("--version")
    assert code == 0
    assert out.startswith("recsys ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecsysError("it failed", where="here", fix="do that"), 1),
        (UsageError("wrong call"), 2),
        (DataRefused("bad rows"), 3),
    ],
)
def test_a_problem_of_the_users_is_one_message(recsys, failing, folder, error, code):
    failing(error)
    found, out, err = recsys("models", "list")
    assert found == code
    assert err.strip() == f"error: {error.render()}"
    assert out == ""


def test_a_bug_is_one_paragraph_and_its_trace_lies_in_the_workspace(recsys, failing, folder):
    (folder / "work" / "log").mkdir(parents=True)
    failing(ZeroDivisionError("division by zero"))
    code, _, err = recsys("models", "list")
    assert code == 1
    assert "failed unexpectedly: ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err
    traces = list((folder / "work" / "log").glob("trace-*.txt"))
    assert str(traces[0]) in err
    assert "ZeroDivisionError" in traces[0].read_text()


def test_debug_shows_the_trace(recsys, failing, folder):
    failing(UsageError("wrong call"))
    code, _, err = recsys("models", "list", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_out_of_memory_and_a_full_disk_are_said_plainly(recsys, failing, folder):
    failing(MemoryError())
    code, _, err = recsys("models", "list")
    assert code == 1
    assert "not enough memory" in err
    failing(OSError(errno.ENOSPC, "No space left on device"))
    code, _, err = recsys("models", "list")
    assert code == 1
    assert "the disk is full" in err
    assert "free while writing" in err


def test_interruption_is_a_short_line(recsys, failing, folder):
    failing(KeyboardInterrupt())
    code, _, err = recsys("models", "list")
    assert code == 130
    assert err.startswith("interrupted")
    assert err.count("\n") == 1


def test_termination_unwinds_what_is_open(monkeypatch, folder, recsys):
    unwound = []

    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(True)

    monkeypatch.setattr("recsys.operations.cli.model_commands._list", run)
    code, _, err = recsys("models", "list")
    assert code == 143
    assert unwound == [True]
    assert "terminated" in err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_reader_that_leaves_is_no_error():
    script = (
        "import sys; from recsys.operations.cli import main, model_commands\n"
        "model_commands._list = lambda args: print('x' * 10_000_000)\n"
        "sys.exit(main.main(['models', 'list']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.read(10)
    child.stdout.close()
    error = child.stderr.read()
    child.stderr.close()
    assert child.wait(60) == 0
    assert error == b""


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from recsys.operations.cli.main import main; main(['--help'])\n"
        "heavy = {'numpy', 'torch', 'pandas', 'mlflow', 'pydantic', 'duckdb', 'ibis', 'numba'}\n"
        "found = heavy & {name.split('.')[0] for name in sys.modules}\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_it_is_also_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "recsys", "models"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "recsys models" in done.stderr


@pytest.mark.parametrize(
    "words", [["models", "list"], ["models", "rollback"], ["forget-user", "u"]]
)
def test_a_missing_config_is_a_wrong_call(recsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = recsys(*words)
    assert code == 2
    assert "there is no config file here" in err
    assert "recsys init" in err
    assert list(tmp_path.iterdir()) == []


def test_every_room_registers_functions_that_can_be_run():
    def leaves(parser, inherited=None):
        run = parser.get_default("run") or inherited
        nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not nested:
            yield parser, run
        for action in nested:
            for child in action.choices.values():
                yield from leaves(child, run)

    for leaf, run in leaves(build_parser()):
        assert callable(run), leaf.prog


def test_the_place_of_a_trace_is_temporary_without_a_workspace(
    recsys, failing, folder, monkeypatch
):
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(folder))
    failing(ZeroDivisionError())
    _, _, err = recsys("models", "list")
    assert list(Path(folder).glob("trace-*.txt"))
    assert str(folder) in err
    assert main is module.main
