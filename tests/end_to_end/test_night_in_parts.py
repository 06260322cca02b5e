"""What a night counts and asks its sources is the same bytes in any number of parts, whatever engine does
them."""

import json
import shutil

import pytest

from recsys.data_schemas.config import load_config
from recsys.storage.engines import LocalEngine, scratch_parts
from recsys.storage.progress import Reporter
from recsys.training import nightly
from recsys.training.groups import CandidateTable

pytestmark = pytest.mark.filterwarnings("ignore")
ASKING = ("groups-ranker", "groups-test", "lists", "masked-items")
FITTED = ("source-item_item",)
"""Whose counts of pairs are made in parts."""


def outputs(folder):
    """Bytes of every file of these stages, but for what they cost."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for stage in (*ASKING, *FITTED)
        for file in sorted((folder / "work" / "stages" / stage).rglob("*"))
        if file.is_file() and file.name not in ("stage.json", "last.json")
    }


def copied(released, folder):
    """The same workspace elsewhere, without what these stages made."""
    shutil.copytree(released, folder, symlinks=True)
    for stage in (*ASKING, *FITTED):
        shutil.rmtree(folder / "work" / "stages" / stage)
    return folder


def made(folder, *engine):
    """What these stages make there, in a night up to its bundle."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine:
            patch.setenv(f"RECSYS__ENGINE__{name}", value)
        config = load_config(folder / "recsys.yaml")
        with nightly._begun(config, None, False, Reporter(quiet=True)) as night:
            nightly._make(night)
    scratch = folder / "work" / "scratch"
    assert [p for p in scratch.rglob("*") if p.is_file() and "releases" not in p.parts] == []
    return outputs(folder)


@pytest.fixture
def folder(released, tmp_path):
    return copied(released, tmp_path / "again")


@pytest.fixture(scope="module")
def by_threads(released, tmp_path_factory):
    found = made(copied(released, tmp_path_factory.mktemp("threads") / "night"))
    assert {name.split("/")[2] for name in found} == {*ASKING, *FITTED}
    assert sum(name.endswith("x.npy") for name in found) == 3
    return found


@pytest.mark.parametrize(("processes", "parts"), [(1, "1"), (1, "7"), (1, "64"), (2, "4")])
def test_parts_and_processes_change_nothing(by_threads, folder, monkeypatch, processes, parts):
    asked = []
    join = CandidateTable.join.__func__

    def counted(cls, tables):
        asked.append(len(tables))
        return join(cls, tables)

    monkeypatch.setattr(CandidateTable, "join", classmethod(counted))
    monkeypatch.setattr(scratch_parts, "open_engine", lambda _: LocalEngine(processes))
    assert made(folder, ("PARTS", parts)) == by_threads
    assert int(parts) in asked


class DiesAt:
    """An engine whose process is ended at a part, and that says how many it did."""

    shares_disk = True

    def __init__(self, calls):
        self.left, self.given = calls, 0

    def each_part(self, work, parts):
        for part in parts:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.given += 1
            yield work(part)


@pytest.mark.parametrize("amid", [3, 13], ids=["the release's source", "the ranker's groups"])
def test_a_killed_night_goes_on_with_what_is_not_finished(by_threads, folder, monkeypatch, amid):
    engine = DiesAt(amid)
    monkeypatch.setattr(scratch_parts, "open_engine", lambda _: engine)
    with pytest.raises(KeyboardInterrupt):
        made(folder, ("PARTS", "5"))
    engine.left, engine.given = -1, 0
    assert made(folder, ("PARTS", "5")) == by_threads
    # sources of the release and of a cut each of ranker, test and masked items; groups of ranker and test,
    # single sources' lists, masked items
    assert engine.given == (4 + 4) * 5 - amid


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.parametrize("parts", ["1", "7"])
def test_spark_makes_the_bytes_of_one_machine(by_threads, folder, parts):
    spark = (("KIND", "spark"), ("SCRATCH", "scratch"), ("SPARK__MASTER", "local[2]"))
    assert made(folder, *spark, ("PARTS", parts)) == by_threads


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
def test_executors_that_share_no_disk_make_the_same(by_threads, folder, tmp_path):
    conf = {
        "spark.executor.memory": "900m",
        "spark.executorEnv.RECSYS_NODE_CACHE": str(tmp_path / "node"),
    }
    spark = (
        ("KIND", "spark"),
        ("SCRATCH", str(tmp_path / "scratch")),
        ("SPARK__MASTER", "local-cluster[2,1,900]"),
        ("SPARK__CONF", json.dumps(conf)),
    )
    assert made(folder, *spark, ("PARTS", "64")) == by_threads
    copies = {p.name.split("-")[0] for p in (tmp_path / "node").iterdir() if p.is_dir()}
    assert copies == {"events", "source"}
