"""An evaluation is the same bytes, whatever engine makes its lists in however many parts."""

import json
import os
import shutil
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.operations.cli.main import main
from recsys.retrieval.collaborative.item_item import ItemItem
from recsys.storage.engines import LocalEngine, scratch_parts

pytestmark = pytest.mark.filterwarnings("ignore")
PROTOCOLS = ("window", "leave-last-out")


@pytest.fixture(scope="module")
def later(released, tmp_path_factory):
    """Events after the data: everybody goes on, one user with 30 % of them, and one is new."""
    events = pq.read_table(released / "data" / "events.parquet")
    items = sorted(set(events["item_id"].to_pylist()))
    # A day on: the release knows all of the hour in which its data end.
    end = max(events["timestamp"].to_pylist()) + timedelta(days=1)
    users = [*sorted(set(events["user_id"].to_pylist())), "nobody-knows"]
    acts = [(user, 3) for user in users] + [(users[0], len(users))]
    rows = [
        (user, items[(7 * n + 11 * k) % len(items)], end + timedelta(minutes=60 * n + k + 1))
        for n, (user, count) in enumerate(acts)
        for k in range(count)
    ]
    table = {
        "user_id": [user for user, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
        "event_type": ["rating"] * len(rows),
        "value": [5.0] * len(rows),
        "timestamp": pa.array([time for _, _, time in rows], pa.timestamp("us", "UTC")),
    }
    file = tmp_path_factory.mktemp("later") / "later.parquet"
    pq.write_table(pa.table(table), file)
    return file


def exit_code(released, later, out, *engine, protocol="window"):
    """How `recsys evaluate` ends."""
    words = ["-c", str(released / "recsys.yaml"), "--events", str(later), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine:
            patch.setenv(f"RECSYS__ENGINE__{name}", value)
        return main(["evaluate", *words, "--protocol", protocol])


def evaluated(released, later, out, *engine, protocol="window"):
    """What `recsys evaluate` says, but for when: its tables' bytes and its tree."""
    assert exit_code(released, later, out, *engine, protocol=protocol) == 0
    tree = json.loads((out / "report.json").read_text())
    del tree["context"]["created_at"]
    return (out / "report.parquet").read_bytes(), json.dumps(tree)


@pytest.fixture(scope="module")
def in_one_part(released, later, tmp_path_factory):
    def of(protocol):
        if protocol not in kept:
            out = tmp_path_factory.mktemp("one")
            kept[protocol] = evaluated(released, later, out, ("PARTS", "1"), protocol=protocol)
        return kept[protocol]

    kept = {}
    return of


def left(released):
    """Files in the workspace's scratch."""
    return [p for p in (released / "work" / "scratch").rglob("*") if p.is_file()]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("parts", ["7", "64"])
def test_the_number_of_parts_changes_nothing(
    released, later, in_one_part, tmp_path, protocol, parts, monkeypatch
):
    monkeypatch.setattr(scratch_parts, "open_engine", lambda _: LocalEngine(1))
    found = evaluated(released, later, tmp_path, ("PARTS", parts), protocol=protocol)
    assert found == in_one_part(protocol)
    assert left(released) == []


def test_processes_change_nothing(released, later, in_one_part, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch_parts, "open_engine", lambda _: LocalEngine(2))
    found = evaluated(released, later, tmp_path, ("PARTS", "4"), protocol="leave-last-out")
    assert found == in_one_part("leave-last-out")


def test_what_was_finished_before_a_kill_is_not_done_again(
    watched_engine, released, later, in_one_part, tmp_path, monkeypatch
):
    """The references are fitted once, too."""
    fits = []
    learned = ItemItem.__dict__["learned"].__func__

    def counted(cls, fit):
        fits.append(cls.name)
        return learned(cls, fit)

    engine = watched_engine(4)
    monkeypatch.setattr(scratch_parts, "open_engine", lambda _: engine)
    assert exit_code(released, later, tmp_path, ("PARTS", "6")) == 130
    monkeypatch.setattr(ItemItem, "learned", classmethod(counted))
    engine.dies_at = None
    found = evaluated(released, later, tmp_path, ("PARTS", "6"))
    assert engine.given == [0, 1, 2, 3, 4, 5]
    assert fits == []
    assert found == in_one_part("window")
    assert left(released) == []


def test_a_source_that_fails_in_one_part_is_named_and_left_out(
    released, later, tmp_path, monkeypatch
):
    recall = ItemItem.recall

    def breaks(self, history, limit, now, blocked):
        if not len(history.item):
            raise ValueError("no such row")
        return recall(self, history, limit, now, blocked)

    monkeypatch.setattr(scratch_parts, "open_engine", lambda _: LocalEngine(1))
    monkeypatch.setattr(ItemItem, "recall", breaks)
    words = ["-c", str(released / "recsys.yaml"), "--events", str(later), "--out", str(tmp_path)]
    monkeypatch.setenv("RECSYS__ENGINE__PARTS", "5")
    assert main(["evaluate", *words]) == 1
    tree = json.loads((tmp_path / "report.json").read_text())
    assert tree["context"]["failed_systems"]["item_item"] == "ValueError: no such row"
    assert "item_item" not in tree["evaluation"]["systems"]
    assert "als" in tree["evaluation"]["systems"]


@pytest.fixture
def session_ends():
    pytest.importorskip("pyspark", reason="the [spark] extra is not installed")
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        pytest.skip("there is no JDK on this machine")
    yield
    from pyspark.sql import SparkSession

    if (session := SparkSession.getActiveSession()) is not None:
        session.stop()


SPARK = (("KIND", "spark"), ("SCRATCH", "scratch"))


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.parametrize("parts", ["1", "7"])
def test_spark_measures_the_bytes_of_one_machine(released, later, in_one_part, tmp_path, parts):
    spark = (*SPARK, ("SPARK__MASTER", "local[2]"), ("PARTS", parts))
    found = evaluated(released, later, tmp_path, *spark, protocol="leave-last-out")
    assert found == in_one_part("leave-last-out")


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.parametrize(("protocol", "parts"), [("window", "64"), ("leave-last-out", "7")])
def test_executors_that_share_no_disk_measure_the_same(
    released, later, in_one_part, tmp_path, protocol, parts
):
    conf = {
        "spark.executor.memory": "900m",
        "spark.executorEnv.RECSYS_NODE_CACHE": str(tmp_path / "node"),
    }
    memory = ("SPARK__CONF", json.dumps(conf))
    spark = (*SPARK, ("SPARK__MASTER", "local-cluster[2,1,900]"), ("PARTS", parts), memory)
    found = evaluated(released, later, tmp_path / "out", *spark, protocol=protocol)
    assert found == in_one_part(protocol)
    copies = {p.name.split("-")[0] for p in (tmp_path / "node").iterdir() if p.is_dir()}
    assert copies == {"bundle", "state", "references", "frozen"}
