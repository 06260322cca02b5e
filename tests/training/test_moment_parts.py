"""What sources say at moments is the same bytes from threads and in any number of parts, on any engine."""

import numpy as np
import pytest

from recsys.data_schemas.config import SparkConfig, parse_config
from recsys.data_schemas.errors import RecsysError
from recsys.encoder.tower import Tower
from recsys.evaluation.lists import Truth
from recsys.features.interactions import DAY, EMPTY_HISTORY
from recsys.storage.engines import LocalEngine
from recsys.storage.engines.scratch_parts import (
    LISTS,
    RELEASES,
    PartsPlace,
    forget_scratch,
    unfinished,
)
from recsys.storage.scratch import ScratchFolder
from recsys.training import groups
from recsys.training.groups import history_reader
from recsys.training.impression_groups import ShownGroups
from recsys.training.lists_alone import ListsAlone, alone_elsewhere, lists_alone
from recsys.training.moment_parts import CandidatesAsked, MomentParts, Moments
from recsys.training.source_files import SourceFiles
from recsys.training.sources.fit_source import fit_one

NAMES = ("item_item", "popular", "bm25")
USERS, ITEMS, DEPTH = 30, 40, 12
ASK = CandidatesAsked(20, 15, {"popular": 0.5}, learn=False)


@pytest.fixture(scope="module")
def events(interactions_of):
    """Of 30 users; the first has 30 % of the events."""
    draw = np.random.default_rng(5)
    users = np.where(draw.random(300) < 0.3, 0, draw.integers(1, USERS, 300))
    users[-1] = USERS - 1
    return interactions_of(users.tolist(), draw.integers(0, 36, 300).tolist(), n_items=ITEMS)


@pytest.fixture(scope="module")
def files(events, inputs_of, tmp_path_factory):
    """Where three sources lie, and the encoder's."""
    folder, inputs = tmp_path_factory.mktemp("sources"), inputs_of(ITEMS)
    found = {}
    for name in NAMES:
        (folder / name).mkdir()
        fit_one(name, events, inputs, {}, seed=1, workers=1).save(folder / name)
        found[name] = SourceFiles(folder / name)
    (folder / "tower").mkdir()
    Tower.plain(16, 8, 1).save(folder / "tower")
    np.save(folder / "vectors.npy", inputs.vectors)
    return found | {"text": SourceFiles(folder, folder / "tower", 300 * DAY)}


@pytest.fixture(scope="module")
def moments(events):
    """40 moments of a cut; some users are new, and the first has a long past."""
    draw = np.random.default_rng(9)
    users = np.concatenate([np.arange(USERS), np.full(10, 3)]).astype(np.int32)
    group = np.repeat(np.arange(40), 3)
    wanted = draw.integers(0, ITEMS, len(group))
    truth = Truth.of(group, wanted, np.ones(len(group)), users, np.full(40, 200 * DAY))
    lengths = np.where(np.arange(40) % 4 == 1, 2, -1)
    return Moments(truth, history_reader(events.histories(), truth, lengths))


@pytest.fixture(scope="module")
def shown(moments):
    items = np.arange(200, dtype=np.int32) % ITEMS
    lists = ShownGroups(moments.truth, np.arange(0, 201, 5), items, np.arange(40))
    return moments._replace(shown=lists)


@pytest.fixture(scope="module")
def unavailable():
    return (np.arange(ITEMS) % 13 == 0).astype(np.uint8)


@pytest.fixture(scope="module")
def by_threads(files, moments, shown, unavailable):
    """What all questions are answered by threads of this process."""
    return answers(files, moments, shown, unavailable, None)


def answers(files, moments, shown, unavailable, asking):
    """The bytes of every question's answer."""
    sources = {name: one.open() for name, one in files.items()}
    bits = {}
    for name, ask, asked in (
        ("recall", ASK, moments),
        ("to learn from", ASK._replace(learn=True), moments),
        ("shown", ASK, shown),
        ("nobody", ASK, Moments(moments.truth.part(0, 0), None)),
    ):
        if asking is None:
            table = ask.collected(sources, asked, unavailable, 2)
        else:
            table = asking.candidates(files, asked, unavailable, ask)
        columns = {"o": table.offsets, "i": table.items, "g": table.grade, **table.signals}
        bits[name] = {n: (str(c.dtype), c.tobytes()) for n, c in columns.items()}
    if asking is None:
        now = moments.truth.time
        made = lists_alone(sources, now, moments.history_of, unavailable, k=DEPTH, workers=2)
        made = ListsAlone.joined([made], DEPTH)
    else:
        made = alone_elsewhere(asking, files, moments, unavailable, DEPTH)
    bits["failed"] = made.failed
    bits |= {n: (one.items.tobytes(), one.scores.tobytes()) for n, one in made.lists.items()}
    return bits


def elsewhere(engine, scratch, parts, *asked):
    place = PartsPlace(engine, ScratchFolder(str(scratch)), parts)
    with unfinished(place.scratch, "stage") as folder:
        return answers(*asked, MomentParts(place, folder))


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (1, 7), (1, 64), (1, None), (2, 7)])
def test_parts_and_processes_change_nothing(
    by_threads, files, moments, shown, unavailable, tmp_path, processes, parts
):
    asked = (files, moments, shown, unavailable)
    assert len(by_threads["recall"]["i"][1]) > 0
    assert len(by_threads["to learn from"]["i"][1]) < len(by_threads["recall"]["i"][1])
    assert elsewhere(LocalEngine(processes), tmp_path, parts, *asked) == by_threads
    assert ScratchFolder(str(tmp_path)).names() == set()


def asked_of(engine, scratch, files, moments, unavailable, ask=ASK, parts=5):
    place = PartsPlace(engine, ScratchFolder(str(scratch)), parts)
    with unfinished(place.scratch, "stage") as folder:
        return MomentParts(place, folder).candidates(files, moments, unavailable, ask)


def test_what_was_finished_before_a_kill_is_not_done_again(
    watched_engine, by_threads, files, moments, unavailable, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        asked_of(watched_engine(3), tmp_path, files, moments, unavailable)
    engine = watched_engine()
    table = asked_of(engine, tmp_path, files, moments, unavailable)
    assert engine.given == [3, 4]
    assert table.items.tobytes() == by_threads["recall"]["i"][1]


def test_another_question_takes_nothing_of_an_unfinished_one(
    watched_engine, files, moments, unavailable, tmp_path
):
    questions = [
        {"ask": ASK._replace(limit=9)},
        {"unavailable": np.zeros(ITEMS, np.uint8)},
        {"moments": Moments(moments.truth, lambda moment: EMPTY_HISTORY)},
        {"files": {name: files[name] for name in NAMES}},
    ]
    whole = {"files": files, "moments": moments, "unavailable": unavailable}
    for changed in questions:
        with pytest.raises(KeyboardInterrupt):
            asked_of(watched_engine(3), tmp_path, **whole)
        engine = watched_engine()
        asked_of(engine, tmp_path, **(whole | changed))
        assert engine.given == [0, 1, 2, 3, 4]


def test_a_killed_process_leaves_what_is_finished(
    watched_engine, process_killed_amid, by_threads, files, moments, unavailable, tmp_path
):
    asked, parts = (files, moments, unavailable), 300
    killed = process_killed_amid(tmp_path)
    with pytest.raises(RecsysError, match="ended from outside"):
        asked_of(LocalEngine(2), tmp_path, *asked, parts=parts)
    killed.join()
    engine = watched_engine()
    table = asked_of(engine, tmp_path, *asked, parts=parts)
    assert 0 < len(engine.given) <= parts - 3
    assert table.items.tobytes() == by_threads["recall"]["i"][1]


def test_forgetting_empties_what_is_unfinished_and_what_is_published(
    watched_engine, files, moments, unavailable, tmp_path, monkeypatch
):
    monkeypatch.setenv("RECSYS_NODE_CACHE", str(tmp_path / "node"))
    config = parse_config(
        {"data": {"items": "i", "events": "e"}, "engine": {"scratch": str(tmp_path / "scratch")}},
        tmp_path,
    )
    engine = watched_engine(3)
    engine.shares_disk = False
    with pytest.raises(KeyboardInterrupt):
        asked_of(engine, tmp_path / "scratch", files, moments, unavailable)
    scratch = ScratchFolder(str(tmp_path / "scratch"))
    assert {name.split("/")[0] for name in scratch.names()} == {LISTS, RELEASES}
    copies = [p for p in (tmp_path / "node").iterdir() if p.is_dir()]
    assert len(copies) == len(NAMES) + 2
    # the unfinished question, and what was published, here and in scratch
    assert forget_scratch(config) == 1 + 2 * len(copies)
    assert scratch.names() == set()


def test_a_source_that_fails_in_one_part_is_left_out_of_all(
    files, moments, unavailable, tmp_path, monkeypatch
):
    lists = groups.source_lists

    def breaks(source, now, history_of, *rest, **more):
        if source.name == "bm25" and len(history_of(0).item) == 2:
            raise ValueError("no such row")
        return lists(source, now, history_of, *rest, **more)

    monkeypatch.setattr("recsys.training.lists_alone.source_lists", breaks)
    place = PartsPlace(LocalEngine(1), ScratchFolder(str(tmp_path)), 40)
    made = alone_elsewhere(MomentParts(place, place.scratch), files, moments, unavailable, DEPTH)
    assert made.failed == {"bm25": "ValueError: no such row"}
    assert set(made.lists) == {"item_item", "popular", "text"}


@pytest.mark.spark
@pytest.mark.usefixtures("session_ends")
@pytest.mark.filterwarnings("ignore")
def test_spark_gives_the_same_bytes(
    by_threads, files, moments, shown, unavailable, tmp_path, monkeypatch
):
    from recsys.storage.engines.spark import SparkEngine

    monkeypatch.setenv("RECSYS_NODE_CACHE", str(tmp_path / "node"))
    engine = SparkEngine.open(SparkConfig(master="local[2]"))
    asked = (files, moments, shown, unavailable)
    assert elsewhere(engine, tmp_path / "scratch", 7, *asked) == by_threads
    engine.shares_disk = False  # as though on other machines: the sources are published
    assert elsewhere(engine, tmp_path / "scratch", 7, *asked) == by_threads
