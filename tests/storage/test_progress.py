import io
import json
import threading

import pytest

from recsys.storage import progress
from recsys.storage.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    monkeypatch.setattr(progress, "TERMINAL_EVERY", 0.0)


def test_a_log_has_plain_dated_lines(always):
    said = io.StringIO()
    reporter = Reporter(said)
    reporter.say("hello")
    with reporter.task("fit", 2) as task:
        task.advance()
        task.advance()
    lines = said.getvalue().splitlines()
    assert [line.split("Z ", 1)[1].split(",")[0] for line in lines] == [
        "hello",
        "fit: 1 of 2",
        "fit: 2 of 2",
    ]
    assert "\r" not in said.getvalue()


def test_a_terminal_has_one_moving_line_that_goes_away(always):
    said = Terminal()
    reporter = Reporter(said)
    with reporter.task("fit") as task:
        task.advance(1000, "loss 0.5")
        task.advance(1)
    reporter.say("done")
    text = said.getvalue()
    assert "\rfit: 1,000, 0 s, loss 0.5" in text
    last = text.rsplit("\r", 1)[1]
    assert last == "done\n"


def test_a_log_is_not_flooded():
    said = io.StringIO()
    with Reporter(said).task("fit", 10_000) as task:
        for _ in range(10_000):
            task.advance()
    assert said.getvalue() == ""


def test_quiet_says_warnings_only():
    said = io.StringIO()
    reporter = Reporter(said, quiet=True)
    reporter.say("hello")
    reporter.warn("careful")
    assert said.getvalue().endswith("warning: careful\n")
    assert said.getvalue().count("\n") == 1
    assert reporter.warnings == ["careful"]


def test_a_reader_that_left_stops_nothing():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    reporter = Reporter(Gone())
    reporter.say("hello")
    reporter.warn("careful")
    assert reporter.warnings == ["careful"]


def test_json_lines_for_a_log_that_programs_read(monkeypatch):
    stream = io.StringIO()
    reporter = Reporter(stream, moving=True, as_json=True)
    reporter.say("“one”")
    reporter.warn("two with postgresql://me:secret@host/db")
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    with reporter.task("encoder", 4) as task:
        task.advance(2)
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in said] == ["info", "warning", "info"]
    assert said[0]["message"] == "“one”"
    assert said[0]["time"].endswith("Z")
    assert "secret" not in stream.getvalue()
    assert (said[2]["task"], said[2]["done"], said[2]["total"]) == ("encoder", 2, 4)


def test_a_terminal_draws_a_bar_that_never_wraps(always, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    said = Terminal()
    with Reporter(said).task("encoding items") as task:
        task.reach(500, 2000)
        task.reach(2000, 2000)
    first, second = said.getvalue().split("\r")[1:3]
    assert first.startswith("encoding items: |█████               | 25% 500 of 2,000, ")
    assert "| 100% 2,000 of 2,000" in second
    assert all(len(line) <= 60 for line in said.getvalue().split("\r"))


def test_silent_work_has_a_clock_on_a_terminal_only(monkeypatch):
    monkeypatch.setattr(progress, "CLOCK_EVERY", 0.01)
    terminal, log, quiet = Terminal(), io.StringIO(), Terminal()
    for reporter in (Reporter(terminal), Reporter(log), Reporter(quiet, quiet=True)):
        with reporter.working("source-als"):
            seen = threading.Event()
            while (
                reporter._terminal
                and not reporter._quiet
                and "source-als" not in terminal.getvalue()
            ):
                seen.wait(0.01)
    assert "\rsource-als: 0 s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")
    assert (log.getvalue(), quiet.getvalue()) == ("", "")


def test_a_failure_inside_stops_the_clock():
    before = threading.active_count()
    with pytest.raises(OSError, match="broken"), Reporter(Terminal()).working("source-als"):
        raise OSError("broken")
    assert threading.active_count() == before
