"""What each event of a history says alone is what the source says of a history of that event."""

import numpy as np

from recsys.features.interactions import History
from recsys.retrieval.collaborative.item_item import ItemItem
from recsys.retrieval.source_checks import N_ITEMS, fitted_in, small_world


def test_parts_are_scores_of_single_events():
    world = small_world()
    source = fitted_in(world, ItemItem)
    history = world.histories[0].joined(world.histories[1])
    items = np.array([4, 0, 7, N_ITEMS + 2, 9], np.int32)
    item = np.append(history.item, [N_ITEMS + 5, history.item[0]]).astype(np.int32)
    weight = np.append(history.weight, [1.0, -1.0]).astype(np.float32)
    found = source.parts(item, weight, items)
    assert found.shape == (len(item), len(items))
    assert (found > 0).any()
    assert not found[-2:].any()  # an item beyond the fit, and a dislike, say nothing
    for row in range(len(history.item)):
        one = History(*(column[row : row + 1] for column in history))
        expected = np.nan_to_num(source.score(one, items, world.now)[:, 0])
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)
