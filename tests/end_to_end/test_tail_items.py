"""A release that makes lists of some items only: the others are scored where they are asked for."""

import numpy as np
import pytest

from recsys.data_schemas.config import load_config
from recsys.operations.open_release import find_release
from recsys.query import RankingQuery
from recsys.storage.bundle import Bundle

pytestmark = pytest.mark.filterwarnings("ignore")


def test_lists_hold_searched_items_and_others_are_ranked_by_id(released, monkeypatch):
    release = find_release(load_config(released / "recsys.yaml"))
    whole = release.open_whole()
    user = next(iter(whole.state.user_ids()))
    everything = whole.answer(RankingQuery(user, whole.moment, k=30))
    left_out = set(everything.item_ids[::2])
    searched = np.ones(whole.bundle.n_items, np.uint8)
    searched[whole.state.catalogue.indices_of(sorted(left_out))] = 0
    monkeypatch.setattr(Bundle, "searched", lambda self: searched)
    some = release.open_whole()
    listed = some.answer(RankingQuery(user, some.moment, k=30)).item_ids
    assert len(listed) == 30
    assert not left_out & set(listed)
    assert set(everything.item_ids) - left_out <= set(listed)
    asked = sorted(left_out)
    ranked = some.answer(RankingQuery(user, some.moment, items=tuple(asked)))
    assert sorted(ranked.item_ids) == asked
    assert np.isfinite(ranked.scores).all()
    assert ranked.unknown == []
