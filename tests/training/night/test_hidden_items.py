"""The items that a night treats as new: one lot for the ranker, the test of masked items and the encoder."""

from types import SimpleNamespace

import numpy as np
import pytest

from recsys.features.draws import hash_ids
from recsys.features.interactions import Interactions
from recsys.training.night import hidden_items, tune_encoder

N_ITEMS = 400


def _inputs(items_with_events, floor=0.02):
    n = len(items_with_events)
    events = Interactions(
        user=np.arange(n, dtype=np.int32) % 7,
        item=np.asarray(items_with_events, np.int32),
        kind=np.zeros(n, np.int16),
        time=np.arange(n, dtype=np.int64),
        value=np.full(n, np.nan, np.float32),
        weight=np.ones(n, np.float32),
        grade=np.ones(n, np.int8),
        position=np.arange(n, dtype=np.int64),
        user_ids=np.array([f"u{u}" for u in range(7)], object),
        kinds=("click",),
        n_items=N_ITEMS,
    )
    return SimpleNamespace(
        interactions=events,
        n_items=N_ITEMS,
        item_hashes=hash_ids([f"i{n}" for n in range(N_ITEMS)]),
        windows=SimpleNamespace(test=(10**9,)),
        config=SimpleNamespace(seed=7, windows=SimpleNamespace(floor_share=floor)),
    )


def test_the_encoder_sees_no_event_on_an_item_that_the_night_treats_as_new():
    inputs = _inputs(list(range(N_ITEMS)) * 3)
    taught = tune_encoder.to_learn_from(inputs, 10**9)
    masked = hidden_items.hidden(inputs, hidden_items.TESTED_SHARE)
    practised = hidden_items.hidden(inputs, hidden_items.practised_share(inputs))
    assert masked.any()
    assert practised.any()
    assert not np.isin(taught.item, np.flatnonzero(masked | practised)).any()
    assert len(taught) == 3 * int((~(masked | practised)).sum())


@pytest.mark.parametrize(("without", "share"), [(0, 0.02), (40, 0.1), (200, 0.15)])
def test_as_many_items_are_practised_as_there_are_new_ones(without, share):
    inputs = _inputs(range(without, N_ITEMS))
    assert hidden_items.practised_share(inputs) == pytest.approx(share)


def test_a_smaller_share_is_among_a_larger_one():
    inputs = _inputs(range(N_ITEMS))
    few, many = (hidden_items.hidden(inputs, share) for share in (0.05, 0.15))
    assert few.sum() < many.sum()
    assert not (few & ~many).any()


def test_with_the_masked_items_new_ones_are_as_many_as_in_life():
    """100 of 400 items never had an event; those masked take the places of as many of them."""
    inputs = _inputs(range(100, N_ITEMS))
    masked = hidden_items.hidden(inputs, hidden_items.practised_share(inputs))
    beyond = hidden_items.surplus(inputs)
    idle = np.arange(N_ITEMS) < 100
    assert not (beyond & ~idle).any()
    assert int(((masked | idle) & ~beyond).sum()) == pytest.approx(100, abs=12)
