"""Logs of both kinds."""

import time

import pytest

from recsys.storage.eventlog import open_log


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def uri(request, tmp_path):
    """URI of an empty log, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    return request.getfixturevalue("postgres").empty()


@pytest.fixture
def log(uri):
    with open_log(uri) as opened:
        yield opened


@pytest.fixture
def wait_until():
    """Poll a condition for some seconds."""

    def wait(condition, seconds=120.0):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "did not happen in time"
            time.sleep(0.02)

    return wait
