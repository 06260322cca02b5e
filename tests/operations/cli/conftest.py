"""A workspace whose config is read, and commands that are called in this process."""

import pytest

from recsys.operations.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recsys.yaml, where the commands run."""
    (tmp_path / "recsys.yaml").write_text("data: {items: items.parquet, events: events.parquet}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recsys(capsys):
    """Calls a command; gives exit code, standard output and standard error."""

    def call(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
