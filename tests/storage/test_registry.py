import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.storage.bundle import BundleRefused, open_bundle
from recsys.storage.registry import Registry, RegistryError
from recsys.storage.registry.version_tags import DIGEST_TAG, OWNER_TAG
from recsys.storage.shared_bytes import LEAST_BYTES
from recsys.storage.workspace_id import workspace_id

# MLflow and what it stands on warn of each other's deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::mlflow"),
    pytest.mark.filterwarnings("ignore:::sqlalchemy"),
    pytest.mark.filterwarnings("ignore:::alembic"),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """MLflow is to be silent: any connection is a failure of the test."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def three(registry, make_bundle):
    """Versions 1, 2, 3; each was promoted in turn."""
    for value in (1.0, 2.0, 3.0):
        version = registry.register(make_bundle(value), {"gate": "better"}, {"ndcg@10": value / 10})
        registry.promote(version, f"night {version}")
    return registry


def aliases(registry):
    return {alias: v.version for v in registry.list() for alias in v.aliases}


def test_an_empty_registry_answers(registry):
    assert registry.champion() is None
    assert registry.list() == []
    assert registry.history() == []
    assert registry.check() == "embedded SQLite, 0 versions"
    with pytest.raises(UsageError, match="recsys nightly"):
        registry.resolve(None)


def test_the_life_of_releases(registry, make_bundle, config):
    first = registry.register(make_bundle(1.0), {"gate": "first"}, {"ndcg@10": 0.1})
    assert (first, registry.champion()) == (1, None)
    assert aliases(registry) == {"challenger": 1}
    registry.promote(1, "first model")
    assert aliases(registry) == {"champion": 1}

    second = registry.register(make_bundle(2.0), {}, {"ndcg@10": 0.2})
    assert aliases(registry) == {"champion": 1, "challenger": 2}
    registry.promote(second, "better")
    assert aliases(registry) == {"champion": 2, "previous": 1}

    # Repeating changes nothing.
    registry.promote(second, "better")
    assert registry.register(make_bundle(2.0, config.path("again"))) == 2
    assert aliases(registry) == {"champion": 2, "previous": 1}

    assert registry.rollback("it was bad") == 1
    assert registry.rollback() == 1
    assert aliases(registry) == {"champion": 1}

    assert [(c.action, c.version, c.before, c.reason) for c in registry.history()] == [
        ("promote", 1, None, "first model"),
        ("promote", 2, 1, "better"),
        ("rollback", 1, 2, "it was bad"),
    ]
    # A promotion after a rollback has the rolled-back-to version as its way back.
    registry.promote(2, "fixed")
    assert aliases(registry) == {"champion": 2, "previous": 1}


def test_both_ways_of_reading_agree(three):
    direct = three.list()
    three.__dict__["_direct"] = False
    assert three.list() == direct
    assert three.champion() == 3
    assert len(three.history()) == 3


CHANGING = (
    "set_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)


@contextmanager
def cut_after(client, monkeypatch, calls):
    """What happens inside is killed when it has made so many calls that change something."""
    left = [calls]

    def counted(call):
        def made(*args):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return call(*args)

        return made

    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(client, name, counted(getattr(client, name)))
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_a_change_cut_short_leaves_a_champion_and_is_finished_by_repeating(
    three, make_bundle, monkeypatch, calls
):
    four = three.register(make_bundle(4.0))
    with cut_after(three._client, monkeypatch, calls):
        three.promote(four, "better")
    assert three.champion() in (3, four)
    three.promote(four, "better")
    assert aliases(three) == {"champion": four, "previous": 3}
    with cut_after(three._client, monkeypatch, min(calls, 2)):
        three.rollback("worse")
    assert three.champion() in (3, four)
    assert three.rollback("worse") == 3
    assert three.alias("previous") in (None, 3)
    assert three.rollback() == 3
    told = [(c.action, c.version, c.before) for c in three.history()[3:]]
    assert told == [("promote", four, 3), ("rollback", 3, four)]


def test_promotions_at_the_same_time_come_one_after_the_other(three, config):
    """Each notes the champion that it replaced, whichever comes first."""
    others = [Registry(config) for _ in range(2)]
    threads = [
        threading.Thread(target=other.promote, args=(version, "at once"))
        for other, version in zip(others, (1, 2), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, first, before), (_, second, then) = [
        (c.action, c.version, c.before) for c in three.history()[3:]
    ]
    assert {first, second} == {1, 2}
    assert (before, then) == (3, first)
    assert aliases(three) == {"champion": second, "previous": first}


def test_tables_of_several_workspaces_are_read_by_mlflow(three, config):
    """Their keys have a further column: another workspace may have a model of the same name."""
    assert three._direct
    with sqlite3.connect(three._store.path) as database:
        columns = [row[1] for row in database.execute("pragma table_info(registered_models)")]
        if "workspace" not in columns:
            pytest.skip("this MLflow knows no workspaces")
        for table in ("registered_models", "registered_model_aliases", "registered_model_tags"):
            names = [row[1] for row in database.execute(f"pragma table_info({table})")]
            taken = ", ".join("'other'" if name == "workspace" else name for name in names)
            database.execute(f"insert into {table} select {taken} from {table}")
        database.execute(
            "update registered_model_aliases set version = 1 where workspace = 'other'"
        )
    database.close()
    again = Registry(config)
    assert not again._direct
    assert again.champion() == 3
    assert again.rollback() == 2
    assert again.champion() == 2
    with sqlite3.connect(three._store.path) as database:
        elsewhere = database.execute(
            "select alias, version from registered_model_aliases where workspace = 'other'"
        ).fetchall()
    database.close()
    assert dict(elsewhere) == {"champion": 1, "previous": 1}


def test_an_unknown_schema_falls_back_to_mlflow(three, config):
    store = three._store.path
    with sqlite3.connect(store) as database:
        database.execute("alter table registered_model_tags rename column key to word")
    database.close()
    assert not Registry(config)._direct


def test_versions_are_found_by_any_of_their_names(three):
    for name in (None, "champion", 3, "3", "models:/recsys/3", "models:/recsys@champion"):
        assert three.resolve(name) == 3
    assert three.resolve("previous") == 2
    with pytest.raises(UsageError, match="3, 2, 1"):
        three.resolve(9)
    with pytest.raises(UsageError, match="another model"):
        three.resolve("models:/other/1")
    with pytest.raises(UsageError, match="champion"):
        three.resolve("best")


def test_the_local_copy_is_one_and_verified(three, make_bundle):
    path = three.local_path(3)
    assert path == three.local_path(3)
    assert path.name == three.show(3).digest == open_bundle(path).digest
    # The copy survives the loss of the stage output it came from.
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    assert open_bundle(three.local_path(3)).item_ids == ["a", "bé", "c"]


def test_a_damaged_local_copy_is_fetched_again(three):
    path = three.local_path(2)
    file = path / "features.json"
    file.unlink()
    assert open_bundle(three.local_path(2)).features == {"families": ["text"]}
    assert file.exists()


def test_a_damaged_stored_bundle_is_never_promoted(three):
    stored = three._store.path.parent
    for copy in [*stored.rglob("features.json"), *three.workspace.bundles.rglob("features.json")]:
        copy.unlink()
        copy.write_text("{}")
    with pytest.raises(BundleRefused):
        three.promote(1, "by mistake")
    assert three.champion() == 3
    shutil.rmtree(stored / "artifacts")
    with pytest.raises(BundleRefused, match="lost its files"):
        three.local_path(1)


def test_a_registration_cut_short_leaves_no_version(registry, make_bundle, monkeypatch):
    client = registry._client

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "create_model_version", cut)
    with pytest.raises(KeyboardInterrupt):
        registry.register(make_bundle(1.0))
    monkeypatch.undo()
    assert registry.list() == []
    assert registry.register(make_bundle(1.0)) == 1
    assert len(list(registry._store.path.parent.rglob("MLmodel"))) == 1


def test_what_a_killed_registration_left_is_buried(registry, make_bundle):
    registry.register(make_bundle(1.0))
    run = registry._client.create_run(
        registry._experiment_id,
        tags={
            "recsys.kind": "registration",
            OWNER_TAG: workspace_id(registry.workspace),
        },
    )
    registry._client.log_text(run.info.run_id, "half", "model/data/half")
    assert list(registry._store.path.parent.rglob("half"))
    registry.register(make_bundle(2.0))
    assert not list(registry._store.path.parent.rglob("half"))
    assert registry._client.get_run(run.info.run_id).info.status == "KILLED"


def test_a_version_without_its_tags_is_not_one(registry, make_bundle):
    registry.register(make_bundle(1.0))
    registry._client.create_model_version("recsys", source=str(registry.workspace.path))
    assert [v.version for v in registry.list()] == [1]


def test_old_versions_are_collected_but_never_one_in_use(three, make_bundle):
    three.promote(1, "back to the start")
    three.register(make_bundle(4.0), report_dir="reports/20260104T030000")
    assert three.collect(keep=1) == [2]
    assert [v.version for v in three.list()] == [4, 3, 1]
    assert three.digests_in_use() == {v.digest for v in three.list()}
    assert three.reports_in_use() == {"20260104T030000"}
    assert len(list(three._store.path.parent.rglob("MLmodel"))) == 3


def test_metrics_and_config_reach_mlflow(three):
    run = three._client.get_run(three.show(3).run_id)
    assert run.data.metrics == {"ndcg_at_10": pytest.approx(0.3)}
    assert run.data.params == {"seed": "7"}
    assert run.info.status == "FINISHED"


def test_a_report_is_kept_with_the_version(registry, make_bundle, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>")
    version = registry.register(make_bundle(1.0), report_dir=tmp_path / "report")
    assert registry.show(version).report == str(tmp_path / "report")
    assert list(registry._store.path.parent.rglob("report/report.html"))


def test_tags_can_be_added(three):
    three.tag(2, {"recsys.retrain": "a person was forgotten"})
    assert three.show(2).retrain == "a person was forgotten"
    assert DIGEST_TAG in three.show(2).tags


def test_a_damaged_database_is_said_to_be_so(three):
    three._store.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(RegistryError, match="is damaged"):
        three.champion()


def test_a_registry_that_does_not_answer(tmp_path, make_bundle, monkeypatch):
    from recsys.data_schemas.config import parse_config

    config = parse_config(
        {
            "data": {"items": "i", "events": "e"},
            "tracking": {"uri": "postgresql://me:secret@127.0.0.1:1/x"},
        },
        tmp_path,
    )
    monkeypatch.undo()
    with pytest.raises(RegistryError) as caught:
        Registry(config).champion()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_reading_the_champion_imports_no_mlflow(three, config):
    script = f"""
import sys
from recsys.data_schemas.config import parse_config
from recsys.storage.registry import Registry
from pathlib import Path
config = parse_config({{"data": {{"items": "i", "events": "e"}}}}, Path({str(config.path("."))!r}))
registry = Registry(config)
assert registry.champion() == 3
assert registry.local_path(3).is_dir()
assert not any(m.split(".")[0] in ("mlflow", "torch", "pandas", "sqlalchemy") for m in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_the_model_is_a_plain_pyfunc(three, monkeypatch):
    from types import ModuleType

    import mlflow
    import pandas as pd

    class Counts:
        def __init__(self, path):
            self.count = len(open_bundle(path).item_ids)

        def scores(self, frame):
            return [self.count] * len(frame)

    ranking = ModuleType("recsys.frame_ranking")
    ranking.FrameRanker = Counts
    monkeypatch.setitem(sys.modules, "recsys.frame_ranking", ranking)
    stored = next(three._store.path.parent.rglob("MLmodel")).parent
    model = mlflow.pyfunc.load_model(str(stored))
    frame = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "c"]})
    assert model.predict(frame).tolist() == [3.0, 3.0]
    assert json.loads((three.local_path(1) / "manifest.json").read_text())["n_items"] == 3


def test_a_database_is_whole_or_absent(tmp_path, monkeypatch):
    import mlflow.tracking

    from recsys.storage.registry import registry as module

    class Cut:
        def __init__(self, tracking_uri):
            with open(tracking_uri.removeprefix("sqlite:///"), "w") as file:
                file.write("half a database")
            raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.tracking, "MlflowClient", Cut)
    with pytest.raises(KeyboardInterrupt):
        module._make_database(tmp_path / "mlflow" / "mlflow.db")
    assert list((tmp_path / "mlflow").iterdir()) == []


def test_a_writer_killed_in_a_transaction_keeps_no_reader_out(three):
    """The journal it leaves must be rolled back, which a read-only connection cannot do."""
    script = f"""
import os, sqlite3
base = sqlite3.connect({str(three._store.path)!r}, isolation_level=None)
base.execute("pragma cache_size = 1")
base.execute("begin immediate")
base.execute("create table junk (x)")
for i in range(2000):
    base.execute("insert into junk values (?)", ("x" * 1000,))
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=300)
    assert three._store.path.with_name("mlflow.db-journal").exists()
    assert three.champion() == 3
    assert three.rollback() == 2


@pytest.mark.parametrize("name", ["мой shop #1 [2] &'q\" ", "My%20Shop", "why?", "%41"])
def test_a_workspace_may_be_named_as_one_likes(tmp_path, name, make_bundle, empty_database):
    """Nothing is written beside it under a decoded or cut name."""
    folder = tmp_path / "shops" / name
    (folder / "work" / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "work" / "mlflow" / "mlflow.db")
    registry = Registry(config_in(folder))
    for value in (1.0, 2.0):
        version = registry.register(make_bundle(value), {"gate": "better"}, {"ndcg@10": value})
        registry.promote(version, "better")
    # As a night does after one that was killed.
    registry._bury_killed()
    other = Registry(config_in(folder))
    assert other.champion() == 2
    assert (other.local_path(1) / "manifest.json").is_file()
    shutil.rmtree(other.workspace.bundles)
    assert (Registry(config_in(folder)).local_path(2) / "manifest.json").is_file()
    assert other.rollback() == 1
    assert other.collect(keep=0) == [2]
    assert len(list(folder.rglob("MLmodel"))) == 1
    assert [p.name for p in (tmp_path / "shops").iterdir()] == [name]


def config_in(folder):
    return parse_config({"data": {"items": "i", "events": "e"}}, folder)


def test_curves_of_a_fit_are_a_run_of_their_own(registry):
    registry.log_curves("encoder", {"encoder_loss": [(1, 0.5), (2, 0.25)]})
    client = registry._client
    (run,) = client.search_runs([registry._experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["recsys.kind"] == "encoder"
    history = client.get_metric_history(run.info.run_id, "encoder_loss")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 0.25)]
    assert registry.list() == []


def array_of(registry, version):
    """The two files of a version's source: (registered, local copy)."""
    local = registry.local_path(version)
    stored = registry._stored(registry.show(version)) / "data" / "bundle"
    name = "sources/als/array.npy"
    return stored / name, local / name


def flip(file):
    """One bit of the last byte, with the time of writing as it was: a disk says nothing of its rot."""
    at = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    with file.open("r+b") as writing:
        writing.write(content)
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


@pytest.mark.parametrize("damaged", ["registered", "local"])
def test_one_copy_of_the_champion_mends_the_other(three, damaged):
    places = dict(zip(("registered", "local"), array_of(three, 3), strict=True))
    good = places[damaged].read_bytes()
    flip(places[damaged])
    assert places[damaged].read_bytes() != good
    other = next(place for name, place in places.items() if name != damaged)
    assert other.read_bytes() == good, "the copies share no byte"
    assert "is whole" in "".join(told := three.repair(look_only=True))
    assert len(told) == 1
    assert places[damaged].read_bytes() != good, "looking writes nothing"
    assert "repaired from" in "".join(three.repair())
    assert places[damaged].read_bytes() == good
    assert three.repair() == []
    assert open_bundle(three.local_path(3), afresh=True).digest == three.show(3).digest


def test_where_both_copies_are_damaged_it_is_said(three):
    for place in array_of(three, 3):
        flip(place)
    told = three.repair()
    assert len(told) == 2
    assert all("no other copy of it is whole" in line for line in told)


def test_stage_outputs_that_equal_the_artifact_are_further_names_of_it(registry, make_bundle):
    bundle = make_bundle(7.0)
    big = bundle / "sources/als/array.npy"
    assert big.stat().st_size < LEAST_BYTES
    out = registry.workspace.stages / "source-als" / "key" / "als"
    state = registry.workspace.stages / "state" / "key"
    for folder in (out, state):
        folder.mkdir(parents=True)
    version = registry.register(bundle)
    registry.promote(version, "first")
    stored, local = array_of(registry, version)
    for folder in (out, state):
        shutil.copyfile(stored, folder / "array.npy")
    (out / "other.npy").write_bytes(bytes(stored.stat().st_size))
    assert registry.share_stage_outputs() == 0, "small files are left alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.storage.shared_bytes.LEAST_BYTES", 1)
        assert registry.share_stage_outputs() == stored.stat().st_size
        assert registry.share_stage_outputs() == 0
    assert (out / "array.npy").samefile(stored)
    assert not (out / "other.npy").samefile(stored)
    assert not (state / "array.npy").samefile(stored), "it is rewritten when somebody is forgotten"
    assert not local.samefile(stored)
    flip(stored)
    registry.repair()
    assert (out / "array.npy").read_bytes() == local.read_bytes(), "all names are mended at once"
