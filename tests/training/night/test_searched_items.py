"""Which items recall searches, as of each moment of a night."""

from types import SimpleNamespace

import numpy as np
import pytest

from recsys.features.interactions import DAY
from recsys.retrieval.ann import InvertedLists
from recsys.training.night.inputs import NOT_YET, Inputs
from recsys.training.night.searched_items import (
    searched_at,
    searched_ever,
    searched_key,
    unavailable_at,
)

FIRST = np.array([10, 95, NOT_YET, NOT_YET, NOT_YET, 120]) * 1
CREATED = np.array([0, 0, 0, 70, 99, 0]) * DAY


def inputs(days):
    first = np.where(FIRST == NOT_YET, NOT_YET, FIRST * DAY)
    blocked = np.array([0, 0, 0, 0, 1, 0], np.uint8)
    return SimpleNamespace(
        first_acted_on=first,
        tables=SimpleNamespace(catalogue=SimpleNamespace(created_at=CREATED, blocked=blocked)),
        windows=SimpleNamespace(encoder_until=60 * DAY),
        config=SimpleNamespace(sources=SimpleNamespace(recall_days=days)),
    )


def test_without_the_setting_all_items_are_searched():
    assert searched_at(inputs(None), 100 * DAY) is None
    assert searched_ever(inputs(None)) is None
    assert searched_key(inputs(None)) is None
    assert unavailable_at(inputs(None), 100 * DAY).tolist() == [0, 0, 0, 0, 1, 0]


def test_items_with_events_before_the_moment_and_recent_ones_are_searched():
    found = searched_at(inputs(30.0), 100 * DAY)
    assert found.tolist() == [True, True, False, True, True, False]
    # At the time of an event nobody had acted on it yet.
    assert searched_at(inputs(30.0), 95 * DAY)[1] == np.False_
    assert unavailable_at(inputs(30.0), 100 * DAY).tolist() == [0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize("days", [0.0, 20.0, 1000.0])
def test_what_any_moment_searches_is_in_the_index(days):
    ever = searched_ever(inputs(days))
    for day in range(60, 130):
        assert not (searched_at(inputs(days), day * DAY) & ~ever).any()


def test_the_first_event_of_an_item_is_its_earliest():
    events = SimpleNamespace(
        item=np.array([2, 0, 2, 0], np.int32), time=np.array([5, 6, 7, 8]), n_items=4
    )
    found = Inputs.first_acted_on.func(SimpleNamespace(interactions=events, n_items=4))
    assert found.tolist() == [6, NOT_YET, 5, NOT_YET]


def test_an_index_of_some_items_finds_only_those():
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(4000, 8)).astype("f4")
    only = np.flatnonzero(draw.random(4000) < 0.3).astype(np.int32)
    lists = InvertedLists.build(vectors, 1, only)
    assert sorted(lists.member.tolist()) == only.tolist()
    assert len(lists.codes) == len(only)
