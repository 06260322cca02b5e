"""What a served row's recomputation takes for known."""

from types import SimpleNamespace

import numpy as np

from recsys.features.impressions import Impressions
from recsys.training.night.served_parity import _World


def test_lists_of_the_tables_are_known_to_every_served_row():
    """Also when nothing was shown since the snapshot, and however the tables number them."""
    one = np.array([0, 1], np.int64)
    tables = Impressions.of(one, np.array([3], np.int32), np.array([5]), position=np.array([10**6]))
    world = SimpleNamespace(base=SimpleNamespace(inputs=SimpleNamespace(impressions=tables)))
    world._shown = ()
    assert _World._impressions(world).position.tolist() == [-1]
    world.base.inputs.impressions = None
    assert _World._impressions(world) is None
