"""Lists of many users from several processes are those of one."""

import os
import signal

import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import RecsysError
from recsys.operations import batch_lists
from recsys.operations.open_release import find_release
from recsys.query import RankingQuery

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def release(released):
    return find_release(load_config(released / "recsys.yaml"))


@pytest.fixture(scope="module")
def question(release):
    loaded = release.open_whole()
    return loaded, RankingQuery("", loaded.moment, k=7)


def test_processes_give_the_rows_of_one_in_the_same_order(release, question, monkeypatch):
    loaded, ask = question
    monkeypatch.setattr(batch_lists, "CHUNK", 4)
    users = [*loaded.state.user_ids()[:13], "nobody-knows"]
    in_one_process = list(batch_lists.ranked(release, loaded, ask, users, processes=1))
    assert [len(rows) for rows in in_one_process] == [4, 4, 4, 2]
    assert [row["user_id"] for rows in in_one_process for row in rows] == users
    assert list(batch_lists.ranked(release, loaded, ask, users, processes=2)) == in_one_process


def test_a_process_that_is_ended_is_one_message(release, question, monkeypatch):
    loaded, ask = question
    monkeypatch.setattr(batch_lists, "_rows_here", end_this_process)
    with pytest.raises(RecsysError, match="ended from outside"):
        list(batch_lists.ranked(release, loaded, ask, ["a", "b"], processes=2))


def end_this_process(*_):
    os.kill(os.getpid(), signal.SIGKILL)
