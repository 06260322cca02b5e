"""Counts of pairs are the same bytes from threads and in any number of parts, on any engine."""

import numpy as np
import pytest

from recsys.data_schemas.config import SparkConfig, parse_config
from recsys.retrieval.collaborative import pair_counts
from recsys.retrieval.collaborative.pair_counts import PairEvents, stretches_of_items
from recsys.storage.engines import LocalEngine
from recsys.storage.engines.engine import EngineFailed
from recsys.storage.engines.scratch_parts import (
    LISTS,
    PartsPlace,
    UnfinishedWork,
    forget_scratch,
    unfinished,
)
from recsys.storage.scratch import ScratchFolder
from recsys.training.sources.fit_source import failing_as, fit_one

NAMES = ("item_item", "transitions")
USERS, ITEMS, EVENTS = 60, 40, 900


@pytest.fixture(scope="module")
def events(interactions_of):
    """The first of 60 users has 30 % of the events; some are dislikes, and four items have none."""
    draw = np.random.default_rng(5)
    users = np.where(draw.random(EVENTS) < 0.3, 0, draw.integers(1, USERS, EVENTS))
    items = (36 * draw.random(EVENTS) ** 2).astype(int)
    weights = draw.choice([1.0, 3.0, 5.0, -1.0], EVENTS)
    return interactions_of(users.tolist(), items.tolist(), weights, n_items=ITEMS)


def bytes_of(source):
    return [c.tobytes() for c in (source.offsets, source.neighbour, source.value, source.known)]


@pytest.fixture(scope="module")
def fit(events, inputs_of):
    """(name, where, events) → bytes of the source."""

    def made(name, elsewhere=None, over=events, **params):
        inputs = inputs_of(ITEMS)
        source = fit_one(name, over, inputs, params, seed=1, workers=2, elsewhere=elsewhere)
        return bytes_of(source)

    return made


@pytest.fixture(scope="module")
def by_threads(fit):
    return {name: fit(name) for name in NAMES}


def fitted(fit, engine, scratch, parts, name="item_item", **more):
    place = PartsPlace(engine, ScratchFolder(str(scratch)), parts)
    with unfinished(place.scratch, "stage") as folder:
        return fit(name, UnfinishedWork(place, folder), **more)


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (1, 7), (1, 64), (2, 7)])
@pytest.mark.parametrize("name", NAMES)
def test_parts_and_processes_change_nothing(by_threads, fit, tmp_path, name, processes, parts):
    assert len(by_threads[name][1]) > 4 * ITEMS
    assert fitted(fit, LocalEngine(processes), tmp_path, parts, name) == by_threads[name]
    assert ScratchFolder(str(tmp_path)).names() == set()


def test_a_part_may_be_empty_and_all_items_are_in_one(events, watched_engine, fit, tmp_path):
    """64 parts of 40 items: every part is asked for, some hold no item."""
    given = PairEvents.of(events)
    offsets = np.append(0, np.bincount(given.item, minlength=ITEMS).cumsum())
    split = stretches_of_items(offsets, 64)
    assert sum(first == end for first, end in split) >= 64 - ITEMS
    assert [n for first, end in split for n in range(first, end)] == list(range(ITEMS))
    engine = watched_engine()
    fitted(fit, engine, tmp_path, 64)
    assert engine.given == list(range(64))


def test_parts_hold_about_as_many_events():
    offsets = np.append(0, np.arange(1000, 0, -1).cumsum())
    held = [offsets[end] - offsets[first] for first, end in stretches_of_items(offsets, 10)]
    assert max(held) < 1.1 * offsets[-1] / 10


def test_a_count_goes_elsewhere_where_it_is_large_or_parts_are_asked_for(
    by_threads, watched_engine, fit, tmp_path, monkeypatch
):
    engine = watched_engine()
    assert fitted(fit, engine, tmp_path, None) == by_threads["item_item"]
    assert engine.given == []
    monkeypatch.setattr(pair_counts, "EVENTS_OF_A_PART", 100)
    assert fitted(fit, engine, tmp_path, None) == by_threads["item_item"]
    assert engine.given == list(range(7))  # of 675 positive events


def test_what_was_finished_before_a_kill_is_not_done_again(
    by_threads, watched_engine, fit, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        fitted(fit, watched_engine(3), tmp_path, 5)
    engine = watched_engine()
    assert fitted(fit, engine, tmp_path, 5) == by_threads["item_item"]
    assert engine.given == [3, 4]


def test_another_count_takes_nothing_of_an_unfinished_one(events, watched_engine, fit, tmp_path):
    for changed in (
        {"right": 0.5},
        {"shrink": 2.0},
        {"name": "transitions"},
        {"over": events.before(int(events.time[-1]))},
    ):
        with pytest.raises(KeyboardInterrupt):
            fitted(fit, watched_engine(3), tmp_path, 5)
        engine = watched_engine()
        found = fitted(fit, engine, tmp_path, 5, **changed)
        assert engine.given == [0, 1, 2, 3, 4]
        assert found == fit(**{"name": "item_item", **changed})


def test_the_same_count_for_other_params_reads_the_events_that_are_there(
    watched_engine, fit, tmp_path, monkeypatch
):
    written = []
    write = PairEvents.write
    monkeypatch.setattr(
        PairEvents, "write", lambda self, folder: (written.append(folder), write(self, folder))
    )
    place = PartsPlace(watched_engine(), ScratchFolder(str(tmp_path)), 5)
    work = UnfinishedWork(place, place.scratch)
    for name, params in (("item_item", {}), ("item_item", {"right": 0.5}), ("transitions", {})):
        assert fit(name, work, **params) == fit(name, **params)
    assert len(written) == 1
    assert {name.split("-")[0] for name in place.scratch.names()} == {"events"}


def test_a_killed_process_ends_the_night_and_leaves_what_is_finished(
    by_threads, watched_engine, process_killed_amid, fit, tmp_path
):
    parts = 300
    killed = process_killed_amid(tmp_path)
    # not a source that could not be fitted, which the night would go on without
    with pytest.raises(EngineFailed, match="ended from outside"), failing_as("item_item"):
        fitted(fit, LocalEngine(2), tmp_path, parts)
    killed.join()
    engine = watched_engine()
    assert fitted(fit, engine, tmp_path, parts) == by_threads["item_item"]
    assert 0 < len(engine.given) <= parts - 3


def test_forgetting_empties_what_is_unfinished_and_copied(
    by_threads, watched_engine, fit, tmp_path, monkeypatch
):
    monkeypatch.setenv("RECSYS_NODE_CACHE", str(tmp_path / "node"))
    config = parse_config(
        {"data": {"items": "i", "events": "e"}, "engine": {"scratch": str(tmp_path / "scratch")}},
        tmp_path,
    )
    engine = watched_engine(3)
    engine.shares_disk = False
    with pytest.raises(KeyboardInterrupt):
        fitted(fit, engine, tmp_path / "scratch", 5)
    scratch = ScratchFolder(str(tmp_path / "scratch"))
    assert {name.split("/")[0] for name in scratch.names()} == {LISTS}
    assert sum(p.is_dir() for p in (tmp_path / "node").iterdir()) == 1
    # what is unfinished, with its events; and this machine's copy of these
    assert forget_scratch(config) == 2
    assert scratch.names() == set()
    assert not [p for p in (tmp_path / "node").iterdir() if p.is_dir()]
    engine.dies_at = None
    assert fitted(fit, engine, tmp_path / "scratch", 5) == by_threads["item_item"]


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.filterwarnings("ignore")
def test_spark_gives_the_same_bytes(by_threads, fit, tmp_path, monkeypatch):
    from recsys.storage.engines.spark import SparkEngine

    # In the session too: a JVM that an earlier test began hands its workers the environment of then.
    cache = str(tmp_path / "node")
    monkeypatch.setenv("RECSYS_NODE_CACHE", cache)
    conf = {"spark.executorEnv.RECSYS_NODE_CACHE": cache}
    engine = SparkEngine.open(SparkConfig(master="local[2]", conf=conf))
    for name in NAMES:
        assert fitted(fit, engine, tmp_path / "scratch", 7, name) == by_threads[name]
    engine.shares_disk = False  # as though on other machines: each copies the events
    assert fitted(fit, engine, tmp_path / "scratch", 7) == by_threads["item_item"]
    assert sum(p.is_dir() for p in (tmp_path / "node").iterdir()) == 1
