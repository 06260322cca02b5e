"""What new items gain is carried from the ranker's practice to the lists that are asked for."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.ranker import Blend, Ranker
from recsys.ranker.linear import Design, LinearPart
from recsys.training.night.new_item_gain import fitting_gain
from recsys.training.ranking_groups import Groups

LISTS, SIZE = 400, 50


def _ranker(gain):
    """Ranks by the first column; the second counts events."""
    plain = Design(np.zeros(2, bool), np.zeros(2), np.ones(2), np.empty(0, np.int32))
    linear = LinearPart(plain, np.array([1.0, 0.0]))
    return Ranker(("good", "count.item.any.all"), linear, [], {}, Blend(1.0, 0.0, -1, gain, 1))


def _groups(behind, share=0.1, seed=0):
    """New items are `behind` the others by so many standard deviations."""
    draw = np.random.default_rng(seed)
    events = np.where(draw.random(LISTS * SIZE) < share, 0.0, 40.0)
    good = draw.normal(size=LISTS * SIZE) - behind * (events == 0)
    return Groups(
        np.column_stack([good, events]).astype(np.float32),
        np.zeros(LISTS * SIZE, np.int8),
        np.arange(0, LISTS * SIZE + 1, SIZE, dtype=np.int64),
        np.arange(LISTS),
        np.ones(LISTS, np.int32),
    )


def test_items_that_are_further_behind_gain_as_much_more():
    found = fitting_gain(_ranker(0.5), _groups(1.0), _groups(1.8, seed=1))
    assert found == pytest.approx(1.3, abs=0.15)


def test_the_same_lists_keep_the_gain():
    assert fitting_gain(_ranker(0.5), _groups(1.0), _groups(1.0)) == pytest.approx(0.5, abs=0.02)


def test_where_new_items_are_rarer_they_have_fewer_places():
    rare = fitting_gain(_ranker(0.5), _groups(1.0), _groups(1.0, share=0.02, seed=1))
    assert rare == pytest.approx(0.5, abs=0.2)


def test_without_new_items_nothing_is_said():
    assert fitting_gain(_ranker(0.5), _groups(1.0), _groups(1.0, share=0.0)) is None


def test_lists_count_as_often_as_people_like_them_are_asked_about():
    """Half of the practised lists favour new items; where nobody like them is asked, they do not count."""
    eager, usual = _groups(-2.0), _groups(1.0, seed=1)
    both = eager.joined(usual)
    both = replace(both, stands_for=np.repeat([0.0, 1.0], LISTS))
    found = fitting_gain(_ranker(0.5), both, _groups(1.0, seed=2))
    assert found == pytest.approx(0.5, abs=0.15)
