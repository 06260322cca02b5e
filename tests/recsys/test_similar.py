"""Similar items: the blend of sources by rank, the text alone, behaviour alone."""

import numpy as np
import pytest

from recsys.encoder.tower import UNFITTED, InterestSource, Tower
from recsys.query import BLEND, BOUGHT_TOGETHER, BY_TEXT
from recsys.retrieval.candidates import RRF_OFFSET
from recsys.similar import WEIGHTS, similar_items

NOW = 2**50
FREE = np.zeros(6, np.uint8)
ANCHOR = np.array([0], np.int32)


@pytest.fixture
def sources(fixed):
    """Behaviour says 1, 2; words say 2, 3; everything else is silent. The text source is real."""
    vectors = np.eye(6, dtype=np.float32)
    vectors[4] = vectors[5] = [0.8, 0, 0, 0, 0.6, 0]
    text = InterestSource.of(Tower.plain(6, 5, 1), vectors, UNFITTED)
    return {
        "als": fixed("als", [0, 1, 2], [9, 8, 7]),
        "bm25": fixed("bm25", [2, 3], [1, 1]),
        "popular": fixed("popular", [5, 4, 3], [9, 9, 9]),
        "text": text,
    }


def found(sources, by, limit=10, blocked=FREE, anchors=ANCHOR):
    return similar_items(sources, anchors, by, limit, NOW, blocked)


def test_the_blend_is_the_reciprocal_ranks_of_what_the_sources_find(sources):
    weight = WEIGHTS[BLEND]
    listed = found(sources, BLEND)
    near = {4: 1, 5: 2, 1: 3, 2: 4, 3: 5}  # the text's places: cosines .8, .8, then none
    votes = {
        item: (
            weight["als"] / (RRF_OFFSET + {1: 1, 2: 2}.get(item, np.inf))
            + weight["bm25"] / (RRF_OFFSET + {2: 1, 3: 2}.get(item, np.inf))
            + weight["text"] / (RRF_OFFSET + near[item])
        )
        for item in near
    }
    best = (weight["als"] + weight["bm25"] + weight["text"]) / (RRF_OFFSET + 1)
    order = sorted(votes, key=lambda item: (-votes[item], item))
    assert listed.items.tolist() == order
    assert listed.scores == pytest.approx([votes[item] / best for item in order], rel=1e-5)


def test_behaviour_alone_and_text_alone(sources):
    assert found(sources, BOUGHT_TOGETHER).items.tolist() == [1, 2]
    text = found(sources, BY_TEXT, 2)
    assert text.items.tolist() == [4, 5]
    assert text.scores == pytest.approx([0.8, 0.8])
    assert not len(found({"als": sources["als"]}, BY_TEXT).items)


def test_what_is_blocked_and_the_anchors_are_in_no_list(sources):
    blocked = FREE.copy()
    blocked[2] = 1
    anchors = np.array([0, 1], np.int32)
    for by in WEIGHTS:
        assert {0, 1, 2}.isdisjoint(found(sources, by, blocked=blocked, anchors=anchors).items)
    assert len(found(sources, BLEND, 1).items) == 1


def test_real_sources_agree_with_the_taste_that_made_the_events(fitted):
    near = similar_items(fitted, np.array([10], np.int32), BLEND, 5, NOW, np.zeros(40, np.uint8))
    assert (near.items % 2 == 0).all()
    assert len(near.items) == 5
