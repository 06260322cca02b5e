"""Lists of many users are the same bytes, whatever engine makes them in however many parts."""

import json
import os
import shutil

import pyarrow.parquet as pq
import pytest

import recsys
from recsys.data_schemas.config import SparkConfig, load_config
from recsys.data_schemas.errors import RecsysError
from recsys.operations import batch_lists
from recsys.operations.cli.main import main
from recsys.operations.library.lists_out import require_k
from recsys.operations.open_release import find_release
from recsys.query import RankingQuery
from recsys.storage.engines import LocalEngine
from recsys.storage.engines.scratch_parts import PartsPlace
from recsys.storage.eventlog import log_address, open_log
from recsys.storage.eventlog.log import forget_write, opt_out_write
from recsys.storage.files import atomic_write
from recsys.storage.scratch import ScratchFolder

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def release(released):
    return find_release(load_config(released / "recsys.yaml"))


@pytest.fixture(scope="module")
def question(release):
    loaded = release.open_whole()
    return loaded, RankingQuery("", loaded.moment, k=7)


@pytest.fixture(scope="module")
def users(question):
    return [*question[0].state.user_ids()[:13], "nobody-knows"]


@pytest.fixture(scope="module")
def in_one_part(release, question, users, tmp_path_factory):
    place = PartsPlace(LocalEngine(1), ScratchFolder(str(tmp_path_factory.mktemp("one"))), 1)
    return rows_of(place, release, question, users)


def rows_of(place, release, question, users):
    tables = list(batch_lists.ranked(place, release, *question, users))
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize(("processes", "parts"), [(1, 7), (2, 4), (1, 64), (1, None)])
def test_parts_and_processes_change_nothing(
    release, question, users, in_one_part, tmp_path, processes, parts
):
    place = PartsPlace(LocalEngine(processes), ScratchFolder(str(tmp_path)), parts)
    assert [row["user_id"] for row in in_one_part] == users
    assert rows_of(place, release, question, users) == in_one_part
    assert ScratchFolder(str(tmp_path)).names() == set()


def test_a_state_that_was_written_anew_takes_nothing_of_the_one_before(
    watched_engine, release, question, users, in_one_part, tmp_path
):
    """Its marker says the same: of a snapshot without a log it tells no events."""
    state = tmp_path / "state" / release.state.name
    shutil.copytree(release.state, state)
    release = release._replace(state=state)
    scratch = ScratchFolder(str(tmp_path / "scratch"))
    with pytest.raises(KeyboardInterrupt):
        rows_of(PartsPlace(watched_engine(3), scratch, 5), release, question, users)
    marker = state / "state.json"
    atomic_write(marker, marker.read_bytes())
    engine = watched_engine()
    assert rows_of(PartsPlace(engine, scratch, 5), release, question, users) == in_one_part
    assert engine.given == [0, 1, 2, 3, 4]


def test_what_was_finished_before_a_kill_is_not_done_again(
    watched_engine, release, question, users, in_one_part, tmp_path
):
    scratch = ScratchFolder(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        rows_of(PartsPlace(watched_engine(3), scratch, 5), release, question, users)
    engine = watched_engine()
    assert rows_of(PartsPlace(engine, scratch, 5), release, question, users) == in_one_part
    assert engine.given == [3, 4]


def test_another_question_takes_nothing_of_an_unfinished_one(
    watched_engine, release, question, users, tmp_path
):
    loaded = question[0]
    scratch = ScratchFolder(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        rows_of(PartsPlace(watched_engine(3), scratch, 5), release, question, users)
    other = (loaded, RankingQuery("", loaded.moment, k=3))
    rows = rows_of(PartsPlace(watched_engine(), scratch, 5), release, other, users)
    assert {len(row["item_ids"]) for row in rows} == {3}


def test_a_process_that_is_ended_is_one_message():
    with pytest.raises(RecsysError, match="ended from outside"):
        list(LocalEngine(2).each_part(os._exit, [0, 1]))


def test_an_error_of_a_part_keeps_its_words_and_its_code():
    with pytest.raises(RecsysError) as raised:
        list(LocalEngine(2).each_part(require_k, [0]))
    assert (raised.value.found, raised.value.code) == (0, 2)


def recommend(released, out, *engine):
    """`recsys recommend` with settings of the engine in the environment; the file's bytes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine:
            patch.setenv(f"RECSYS__ENGINE__{name}", value)
        code = main(
            ["recommend", "-c", str(released / "recsys.yaml"), "--out", str(out), "--k", "7"]
        )
    assert code == 0
    return out.read_bytes()


def test_the_command_writes_the_same_bytes_in_any_number_of_parts(released, tmp_path):
    files = [
        recommend(released, tmp_path / f"{parts}.parquet", ("PARTS", parts))
        for parts in ("1", "7", "64")
    ]
    assert files[0] == files[1] == files[2]
    assert pq.read_table(tmp_path / "1.parquet").num_rows == 40


SPARK = (("KIND", "spark"), ("SCRATCH", "scratch"))


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.parametrize("parts", ["1", "7"])
def test_spark_writes_the_bytes_of_one_machine(released, tmp_path, parts):
    here = recommend(released, tmp_path / "here.parquet")
    spark = (*SPARK, ("SPARK__MASTER", "local[2]"), ("PARTS", parts))
    assert recommend(released, tmp_path / "there.parquet", *spark) == here


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
def test_executors_that_share_no_disk_copy_the_release(released, tmp_path):
    here = recommend(released, tmp_path / "here.parquet")
    conf = {
        "spark.executor.memory": "900m",
        "spark.executorEnv.RECSYS_NODE_CACHE": str(tmp_path / "node"),
    }
    memory = ("SPARK__CONF", json.dumps(conf))
    spark = (*SPARK, ("SPARK__MASTER", "local-cluster[2,1,900]"), ("PARTS", "7"), memory)
    assert recommend(released, tmp_path / "there.parquet", *spark) == here
    copies = {p.name.split("-")[0] for p in (tmp_path / "node").iterdir() if p.is_dir()}
    assert copies == {"bundle", "state"}


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
def test_an_error_on_spark_is_the_part_s_own(java):
    from recsys.storage.engines.spark import SparkEngine

    engine = SparkEngine.open(SparkConfig(master="local[2]"))
    with pytest.raises(RecsysError) as raised:
        list(engine.each_part(require_k, [0]))
    assert (raised.value.found, raised.value.code) == (0, 2)
    with pytest.raises(RecsysError, match="Spark gave up on a part"):
        list(engine.each_part(os._exit, [3]))


def test_users_whom_nobody_knows_are_counted(released, users, tmp_path, capsys):
    file, out = tmp_path / "users.txt", tmp_path / "out.parquet"
    config = ["-c", str(released / "recsys.yaml"), "--out", str(out)]
    file.write_text("\n".join([users[0], "nobody-knows", "nor-this-one"]))
    assert main(["recommend", "--users", str(file), *config]) == 0
    assert "2 of these users are unknown" in capsys.readouterr().out
    file.write_text(users[0])
    assert main(["recommend", "--users", str(file), *config]) == 0
    assert "unknown" not in capsys.readouterr().out


def test_who_opted_out_or_was_forgotten_since_the_night_is_answered_as_somebody_new(
    released, users, tmp_path, capsys
):
    shutil.copytree(released, tmp_path / "shop")
    words = ["-c", str(tmp_path / "shop" / "recsys.yaml")]
    config, out, file = load_config(words[1]), tmp_path / "out.parquet", tmp_path / "users.txt"
    told, called, gone, other = users[:4]
    file.write_text("\n".join([told, called, gone, other, "nobody-knows"]))
    recommending = ["recommend", *words, "--users", str(file), "--out", str(out)]
    assert main(recommending) == 0
    before = dict(zip(*pq.read_table(out, columns=["user_id", "item_ids"]).to_pydict().values(), strict=True))  # fmt: skip
    assert main(["opt-out", told, *words]) == 0
    with open_log(log_address(config)) as log:
        log.submit([opt_out_write(called, True, 1), forget_write(gone, 1)]).result()
    capsys.readouterr()
    assert main(recommending) == 0
    said = capsys.readouterr().out
    assert "1 of these users are unknown" in said
    assert "3 of these users opted out or were forgotten" in said
    after = dict(zip(*pq.read_table(out, columns=["user_id", "item_ids"]).to_pydict().values(), strict=True))  # fmt: skip
    assert after[other] == before[other]
    new = before["nobody-knows"]
    for person in (told, called, gone):
        assert before[person] != new
        assert after[person] == new
    assert main(["recommend", *words, "--out", str(out)]) == 0
    assert not {told, called, gone} & set(pq.read_table(out)["user_id"].to_pylist())
    item = new[0]
    assert main(["recommend", *words, "--out", str(out), "--for-items", item, "--k", "99"]) == 0
    assert not {told, called, gone} & set(pq.read_table(out)["user_id"].to_pylist())
    model = recsys.load(f"models:/{config.name}@champion", config=words[1])
    frame = model.recommend([told, gone, other, "nobody-knows"], k=5)
    lists = frame.groupby("user_id")["item_id"].agg(list)
    assert lists[told] == lists[gone] == lists["nobody-knows"] != lists[other]
    assert told not in set(model.recommend(k=1)["user_id"])
    for user, same in ((told, True), (other, False)):
        ranks = [model.rank([(who, i) for i in new])["item_id"].tolist() for who in (user, "nobody-knows")]  # fmt: skip
        assert (ranks[0] == ranks[1]) is same


def refused(capsys, released, tmp_path, *settings):
    """What the command says when it will not work with these settings of Spark."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (*SPARK, *settings):
            patch.setenv(f"RECSYS__ENGINE__{name}", value)
        out = tmp_path / "o.parquet"
        code = main(["recommend", "-c", str(released / "recsys.yaml"), "--out", str(out)])
    assert code == 2
    assert not out.exists()
    return capsys.readouterr().err


def test_a_master_that_is_away_is_said_before_any_work(java, released, tmp_path, capsys):
    told = refused(capsys, released, tmp_path, ("SPARK__MASTER", "spark://127.0.0.1:9"))
    assert "does not answer" in told


def test_no_jdk_is_said_before_any_work(java, released, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    told = refused(capsys, released, tmp_path, ("SPARK__MASTER", "local[2]"))
    assert "no JDK" in told


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
def test_a_wrong_master_is_one_message(released, tmp_path, capsys):
    told = refused(capsys, released, tmp_path, ("SPARK__MASTER", "nonsense"))
    assert "no Spark session" in told
    assert "nonsense" in told


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
def test_workers_without_this_package_are_one_message(released, tmp_path, capsys, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\nunset PYTHONPATH\nexec /usr/bin/env -i /usr/bin/python3 -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(bare))
    told = refused(capsys, released, tmp_path, ("SPARK__MASTER", "local[2]"))
    assert "workers cannot run this package" in told
