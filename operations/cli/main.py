"""The `recsys` command: finds the room of a command, runs it, and turns errors into exit codes.

Exit codes: 0 done, 1 the job failed, 2 the call or the config is wrong, 3 the data is refused,
4 promotion refused, 130 interrupted, 143 terminated. A problem the user can fix is one message on
standard error; the trace of anything else is written to a file that the message names.
"""

import argparse
import contextlib
import difflib
import importlib
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, TextIO, cast

from recsys import __version__
from recsys.data_schemas.addresses import redacted
from recsys.data_schemas.errors import ExitCode, RecsysError
from recsys.operations.cli.fit_encoder import refuse_many_processes

ROOMS = (
    "jobs",
    "data_commands",
    "model_commands",
    "feature_commands",
    "serve_commands",
    "log_commands",
    "experiment_commands",
    "privacy_commands",
    "doctor",
    "completion",
)
"""Modules of recsys.operations.cli that register commands, in the order of the help page."""
DEFAULT_CONFIG = "recsys.yaml"
INTERRUPTED, TERMINATED = 130, 143

DESCRIPTION = """\
Content-aware recommendations: a language model fine-tuned on behaviour, collaborative features and
a LightGBM ranker, retrained every night and served over HTTP.
"""
EPILOG = """\
Start with `recsys demo`, or `recsys init DIR` for your own data.
Exit codes: 0 done, 1 failed, 2 call or config wrong, 3 data refused, 4 promotion refused.
"""

_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|(?<!^)\r(?!$)"
)
"""Control characters besides tab and line feed, and those that turn the direction of reading. A moving
line of ours begins or ends with a carriage return."""
Subparsers = Any
"""argparse._SubParsersAction, whose name is private."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are short and name what is nearest to a misspelt word."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            known = [word.strip(" '") for word in found[2].split(",")]
            near = difflib.get_close_matches(found[1], known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else "one of " + ", ".join(known)
            message = f"unknown word `{found[1]}`: {hint}"
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\nSee `{self.prog} --help`.\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands, with `-c` and `--debug` before or after the command's name."""
    parser = Parser(
        prog="recsys",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", dest="print_version", action="store_true", help="print the version and stop"
    )
    _add_common(parser, DEFAULT_CONFIG, False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for room in ROOMS:
        importlib.import_module(f"recsys.operations.cli.{room}").add_parsers(subparsers)
    for leaf in _leaves(subparsers):
        _add_common(leaf, argparse.SUPPRESS, argparse.SUPPRESS)
    return parser


def _leaves(subparsers: Subparsers) -> Iterator[argparse.ArgumentParser]:
    for parser in dict.fromkeys(subparsers.choices.values()):
        nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        yield parser
        for action in nested:
            yield from _leaves(action)


def _add_common(parser: argparse.ArgumentParser, config: Any, debug: Any) -> None:
    known = parser._option_string_actions
    if "-c" not in known and "--config" not in known:
        parser.add_argument(
            "-c", "--config", metavar="FILE", default=config, help="the workspace's recsys.yaml"
        )
    if "--debug" not in known:
        parser.add_argument("--debug", action="store_true", default=debug, help="show tracebacks")


class Plain:
    """A terminal or log that shows control characters of names and titles instead of obeying them.

    A title could otherwise clear the screen, write over the line before, or set the window's name.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; what the stream's encoding does not know is shown as escapes too."""
        shown = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        try:
            return self._stream.write(shown)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    with (
        contextlib.redirect_stdout(cast(TextIO, Plain(sys.stdout))),
        contextlib.redirect_stderr(cast(TextIO, Plain(sys.stderr))),
    ):
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    # Threads that wait must not spin: the other cores have work of their own (measured: two nights
    # side by side on two cores took ten times as long with spinning waits). GNU's may look up to a
    # thousand times first: LightGBM is a tenth faster by it alone, and no slower beside others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    if args.print_version:
        print(f"recsys {__version__}")
        return ExitCode.DONE
    run: Callable[[argparse.Namespace], int] | None = getattr(args, "run", None)
    if run is None:
        parser.print_help()
        return ExitCode.USAGE if args.command else ExitCode.DONE
    with _Terminable(), _private_files():
        return _guarded(run, args)


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    try:
        refuse_many_processes(args)
        code = run(args)
        sys.stdout.flush()
        return int(code or 0)
    except BrokenPipeError:
        # The reader of our output (`| head`) has seen enough; Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except KeyboardInterrupt:
        _tell("interrupted; what was finished is kept, the same command continues from there")
        return INTERRUPTED
    except _Terminated:
        _tell("terminated; what was finished is kept, the same command continues from there")
        return TERMINATED
    except Exception as error:
        if args.debug:
            sys.stderr.write(redacted(traceback.format_exc()))
        return _explain(error, args)


def _explain(error: Exception, args: argparse.Namespace) -> int:
    """Print what a person can act on; returns the exit code."""
    if isinstance(error, RecsysError):
        _tell(f"error: {error.render()}")
        return int(error.code)
    if isinstance(error, MemoryError):
        _tell(
            "error: there is not enough memory for this\n"
            "  do:       lower encoder.batch_size, sources.depth or ranker.max_groups in the config,"
            " or use a machine with more memory; `recsys doctor` shows what there is"
        )
        return ExitCode.FAILED
    from recsys.storage.files import DiskFull, is_disk_full

    if is_disk_full(error):
        _tell(f"error: {DiskFull.at(_place(args)).render()}")
        return ExitCode.FAILED
    if isinstance(error, PermissionError):
        _tell(
            f"error: this user may not do that: {error.strerror or 'permission denied'}\n"
            f"  where:    {error.filename or _place(args)}\n"
            "  do:       change the owner or the rights of the file, or run the command as its owner"
        )
        return ExitCode.FAILED
    trace = _write_trace(error, args)
    text = (redacted(str(error)).strip().splitlines() or [""])[0][:300]
    _tell(
        f"error: {args.command} failed unexpectedly: {type(error).__name__}: {text}\n"
        f"  where:    the full trace is in {trace}\n"
        "  do:       run it again with --debug; if it persists, report the trace"
    )
    return ExitCode.FAILED


def _place(args: argparse.Namespace) -> Path:
    """The workspace, as far as the config can be read; otherwise where we stand."""
    from recsys.data_schemas.config import load_config

    try:
        return load_config(args.config).workspace_path
    except (RecsysError, AttributeError, OSError):
        return Path.cwd()


def _write_trace(error: Exception, args: argparse.Namespace) -> str:
    text = redacted("".join(traceback.format_exception(error)))
    name = f"trace-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    logs = _place(args) / "log"
    for folder in (logs, Path(tempfile.gettempdir())):
        if folder.is_dir():
            try:
                (folder / name).write_text(text, encoding="utf-8")
                return str(folder / name)
            except OSError:
                continue
    sys.stderr.write(text)
    return "the lines above"


def _tell(text: str) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.write(redacted(text) + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        return


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """What a command writes holds ids of people: nobody but owner and group may read it."""
    former = os.umask(0o027)
    os.umask(former | 0o027)
    try:
        yield
    finally:
        os.umask(former)


class _Terminated(BaseException):
    """SIGTERM, so that locks are released and half-written folders removed on the way out."""


class _Terminable:
    """Turns SIGTERM into `_Terminated` within its block (in the main thread only)."""

    def __enter__(self) -> None:
        self._former: Any = None
        try:
            self._former = signal.signal(signal.SIGTERM, self._stop)
        except ValueError:
            return

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)

    @staticmethod
    def _stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
