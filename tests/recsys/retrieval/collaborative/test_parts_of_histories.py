"""What each event of a history says alone is what the source says of a history of that event."""

import numpy as np

from recsys.retrieval.collaborative.item_item import ItemItem
from recsys.retrieval.fitted_source import FittableSource
from recsys.retrieval.source_checks import N_ITEMS, fitted_in, small_world


def test_parts_are_scores_of_single_events():
    world = small_world()
    source = fitted_in(world, ItemItem)
    events = world.histories[0].joined(world.histories[1]).joined(world.histories[0].last(2))
    events.item[-2] = N_ITEMS + 5
    events.weight[-1] = -1.0
    items = np.array([4, 0, 7, N_ITEMS + 2, 9], np.int32)
    found = source.parts(events, items, world.now)
    assert found.shape == (len(events.item), len(items))
    assert (found > 0).any()
    assert not found[-2:].any()  # an item beyond the fit, and a dislike, say nothing
    by_score = FittableSource.parts(source, events, items, world.now)
    np.testing.assert_allclose(found, by_score, rtol=1e-6)
