"""What a model is held against: the same for the night and for a release, and named where it cannot be
had."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.columns import CATEGORY, ITEM_ID, TITLE
from recsys.evaluation.lists import PastItems
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY
from recsys.features.protocols import Recalled
from recsys.rules import ListCaps
from recsys.storage.engines.engine import EngineFailed
from recsys.training.compared_lists import LIST_LENGTH, Compared, KnownAtMoments
from recsys.training.night.judge import _missing
from recsys.training.sources.fit_source import SourceFailed

ITEMS = 12
CATALOGUE = Catalogue.from_table(
    pa.table(
        {
            ITEM_ID: [f"i{i}" for i in range(ITEMS)],
            TITLE: ["t"] * ITEMS,
            CATEGORY: [f"c{i % 3}" for i in range(ITEMS)],
        }
    )
)


class Alone:
    """A source that proposes two items to whoever it knows."""

    def recall(self, history, k, now, blocked):
        items = np.array([9, 10] if len(history.item) else [], np.int32)
        return Recalled(items, np.ones(len(items), np.float32))


class Broken:
    def recall(self, *_):
        raise ValueError("no such row")


@pytest.fixture
def known(history, interactions_of):
    """Of two moments: a user who had acted on item 0, and a new one."""
    # item 1 is the most popular, then 0, 2 and 3 by their numbers
    events = interactions_of([0, 1, 2, 3, 4, 5], [1, 1, 0, 2, 1, 3], n_items=ITEMS)
    past = [history([0]), history([])]
    return lambda ordinal=False: KnownAtMoments(
        events, PastItems.of(past), np.full(2, 10 * DAY), past.__getitem__, CATALOGUE, ordinal
    )


def test_what_could_not_be_made_is_written_down_but_an_engine_that_is_lost_ends_it():
    found = Compared()
    for error in (ValueError("no such row"), SourceFailed("als", ValueError("no such row"))):
        assert found.attempt(type(error).__name__, partial(fails_with, error)) is None
    assert set(found.failed) == {"ValueError", "SourceFailed"}
    with pytest.raises(EngineFailed):
        found.attempt("item_item", partial(fails_with, EngineFailed("a process was ended")))


def fails_with(error):
    raise error


def listed(found):
    return {made.name: [row[row >= 0].tolist() for row in made.items] for made in found.lists}


def add_lists(found, known, sources, caps):
    depth = caps.depth(LIST_LENGTH)
    found.add_lists(known, found.each_alone(known, sources, depth, workers=1), caps)


def test_a_source_alone_is_filled_up_and_one_that_breaks_is_named(known):
    found = Compared()
    caps = ListCaps(CATALOGUE, {}, ITEMS)
    add_lists(found, known(), {"text alone": Alone(), "als": Broken()}, caps)
    lists = listed(found)
    assert list(lists) == ["popularity", "recent popularity", "most recent", "text alone"]
    assert lists["popularity"] == [[1, 2, 3], [1, 0, 2, 3]]
    assert lists["text alone"] == [[9, 10, 1, 2, 3], [1, 0, 2, 3]]
    assert found.failed == {"als": "ValueError: no such row"}


def test_nothing_is_recent_where_times_only_order(known):
    found = Compared()
    add_lists(found, known(ordinal=True), {}, ListCaps(CATALOGUE, {}, ITEMS))
    assert list(listed(found)) == ["popularity"]
    assert set(found.absent) == {"recent popularity", "most recent"}


def test_all_of_them_are_cut_as_they_would_be_served(known):
    found = Compared()
    caps = ListCaps(CATALOGUE, {"category": 1}, ITEMS)
    add_lists(found, known(), {"text alone": Alone()}, caps)
    # 0, 3 and 9 are of one category, 1 and 10 of another
    assert listed(found)["popularity"] == [[1, 2, 3], [1, 0, 2]]
    assert listed(found)["text alone"] == [[9, 10, 2], [1, 0, 2]]


def test_a_baseline_that_fails_is_named_and_the_others_go_on(world):
    events, extra = world
    found = Compared()

    def fit(name):
        if name == "als":
            raise MemoryError("no room for the matrix")
        return name

    found.add_references(events, extra, fit, {"item_item": "at hand"})
    assert found.sources == {"bm25": "bm25"}
    assert found.failed == {"als": "MemoryError: no room for the matrix"}
    silent = SimpleNamespace(**{**vars(extra), "texts": [""] * len(extra.texts)})
    found.add_references(events, silent, fit, {"item_item": 0, "als": 0})
    assert found.absent == {"bm25": "the items have no text"}
    said = _missing(found.failed)
    assert said == ["the baseline “als” could not be fitted: MemoryError: no room for the matrix"]
    assert _missing({}) == []
