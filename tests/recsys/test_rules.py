"""Caps and diversity on lists small enough to see."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.rules import Caps, ListCaps, diversify

CATALOGUE = Catalogue.from_table(
    pa.table(
        {
            "item_id": list("abcdef"),
            "title": ["t"] * 6,
            "tags": [["x"], ["x", "y"], [], ["y"], None, ["z"]],
            "category": ["film", "film", "film", "book", None, "book"],
            "price": [1.0, 2.0, 2.0, None, 5.0, 1.0],
            "maker": ["m", "n", "m", "m", "m", None],
        }
    )
)
ITEMS = np.arange(6, dtype=np.int32)
SCORE = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
NO_VECTORS = np.full((6, 2), np.nan, np.float32)


def names(order):
    return "".join("abcdef"[i] for i in order)


def test_a_column_that_items_do_not_have_is_named():
    with pytest.raises(UsageError, match="names a column") as refused:
        Caps(CATALOGUE, {"price": 1}, ITEMS)
    assert "maker" in str(refused.value.expected)


@pytest.mark.parametrize(
    ("caps", "k", "kept"),
    [
        ({"category": 1}, 6, "ade"),
        ({"category": 2}, 6, "abdef"),
        ({"category": 2}, 3, "abd"),
        ({"maker": 1}, 6, "abf"),
        ({"category": 2, "maker": 1}, 6, "abf"),
    ],
)
def test_no_value_takes_more_than_its_cap(caps, k, kept):
    order = np.argsort(-SCORE, kind="stable")
    assert names(Caps(CATALOGUE, caps, ITEMS).first(order, k)) == kept
    # Diversity over items that are like nothing is the plain order, and keeps the same caps.
    spread = diversify(SCORE, NO_VECTORS, k, 0.5, Caps(CATALOGUE, caps, ITEMS))
    assert names(spread) == kept


def test_lists_in_bulk_are_capped_as_one_answer_is():
    caps = ListCaps(CATALOGUE, {"category": 1}, candidates=6)
    assert (caps.depth(3), caps.depth(9)) == (6, 9)
    orders = [ITEMS, ITEMS[::-1], np.array([1, 3, -1, -1, -1, -1], np.int32)]
    items, scores = caps.cut(np.stack(orders), np.tile(SCORE.astype("f4"), (3, 1)), 3)
    for order, listed in zip(orders, items, strict=True):
        held = order[order >= 0]
        kept = held[Caps(CATALOGUE, {"category": 1}, held).first(np.arange(len(held)), 3)]
        assert names(listed[listed >= 0]) == names(kept)
    assert items.tolist() == [[0, 3, 4], [5, 4, 2], [1, 3, -1]]
    assert scores[:2].tolist() == [[6, 3, 2], [6, 5, 3]]
    assert scores[2].tolist() == [6, 5, -np.inf]
    assert caps.in_words() == "at most 1 of one category"


def test_without_caps_lists_stay_as_they_are():
    caps = ListCaps(CATALOGUE, {}, candidates=6)
    assert caps.depth(3) == 3
    assert caps.cut(np.stack([ITEMS]), np.stack([SCORE]), 3)[0].tolist() == [[0, 1, 2]]
    assert caps.in_words() == "none"


def test_diversity_holds_likeness_against_the_next():
    # a and b point the same way, c elsewhere. Standardised scores are 1.22, 0, -1.22.
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    score = np.array([3.0, 2.0, 1.0])
    assert names(diversify(score, vectors, 3, 0.0)) == "abc"
    # b: 0.4 × 0 - 0.6 × 1 = -0.6; c: 0.4 × -1.22 - 0.6 × 0 = -0.49.
    assert names(diversify(score, vectors, 3, 0.6)) == "acb"
    # b: 0.6 × 0 - 0.4 × 1 = -0.4; c: 0.6 × -1.22 = -0.73.
    assert names(diversify(score, vectors, 3, 0.4)) == "abc"
