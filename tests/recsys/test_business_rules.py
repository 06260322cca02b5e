"""Boost, bury, pin and slot on a catalogue small enough to see."""

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from recsys.business_rules import ListRules
from recsys.data_schemas.api import Rules
from recsys.data_schemas.config import read_rules
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue

CATALOGUE = Catalogue.from_table(
    pa.table(
        {
            "item_id": list("abcdefgh"),
            "title": ["t"] * 8,
            "category": ["film", "film", "book", "book", "film", "book", "toy", "toy"],
        }
    )
)
CANDIDATES = np.arange(6, dtype=np.int32)
SCORE = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
FREE = np.zeros(8, np.uint8)


def listed(rules, k=6, further=(), score=SCORE):
    """(ids of the list, the rules that moved them) of the six candidates and further ones."""
    read = ListRules(CATALOGUE, msgspec.convert(rules, Rules))
    items = np.concatenate([CANDIDATES, np.array(further, np.int32)])
    score = np.concatenate([score, np.zeros(len(further))])
    by = read.moved(items, score)
    order = np.argsort(-by, kind="stable")[:k]
    rows, movers = read.placed(items, order, by, k)
    return "".join("abcdefgh"[items[row]] for row in rows), movers


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"do": "boost", "filters": {"category": "book"}, "by": 10}, "cdfabe"),
        # one standard deviation, 1.7, lifts each book over those that stand less above it
        ({"do": "boost", "filters": {"category": "book"}}, "acbdfe"),
        ({"do": "boost", "items": ["e"], "by": -10}, "abcdfe"),
        ({"do": "bury", "filters": {"category": "film"}}, "cdfabe"),
        ({"do": "bury", "items": ["a", "c"], "filters": {"category": "film"}}, "bcdefa"),
        ({"do": "pin", "item_id": "f", "place": 2}, "afbcde"),
        ({"do": "pin", "item_id": "nobody", "place": 2}, "abcdef"),
        ({"do": "slot", "filters": {"category": "book"}, "places": [1, 4]}, "cabdef"),
    ],
)
def test_a_rule_moves_what_it_names_and_nothing_else(rule, kept):
    found, movers = listed([{"name": "r", **rule}])
    assert found == kept
    if rule["do"] == "pin":
        assert movers == ["r" if item == "f" and kept != "abcdef" else "" for item in found]


def test_the_first_rule_holds_of_two_for_one_place():
    rules = [
        {"do": "pin", "name": "mine", "item_id": "d", "place": 1},
        {"do": "pin", "name": "theirs", "item_id": "e", "place": 1},
        {"do": "slot", "name": "promo", "filters": {"category": "book"}, "places": [2]},
    ]
    found, movers = listed(rules, k=4)
    assert found == "dcab"
    assert movers == ["mine", "promo", "", ""]


def test_a_place_beyond_a_short_list_is_its_end():
    assert listed([{"do": "pin", "name": "r", "item_id": "a", "place": 6}], k=6)[0] == "bcdefa"
    assert listed([{"do": "pin", "name": "r", "item_id": "a", "place": 9}], k=6)[0] == "abcdef"


def test_what_has_a_place_is_fetched_where_recall_did_not_find_it():
    rules = [
        {"do": "pin", "name": "p", "item_id": "h", "place": 1},
        {"do": "slot", "name": "s", "filters": {"category": "book"}, "places": [2]},
    ]
    read = ListRules(CATALOGUE, msgspec.convert(rules, Rules))
    asked = []

    def recall(mask):
        asked.append("".join("abcdefgh"[i] for i in np.flatnonzero(mask == 0)))
        return np.array([3, 2], np.int32)

    assert read.further(recall, FREE).tolist() == [7, 3]
    assert asked == ["cdf"]
    taken = FREE.copy()
    taken[7] = 1
    assert read.further(recall, taken).tolist() == [3]
    assert listed(rules, k=3, further=[7]) == ("hca", ["p", "s", ""])


def test_a_wrong_rule_is_named():
    with pytest.raises(UsageError) as refused:
        listed([{"do": "bury", "name": "r", "filters": {"colour": 1}}])
    assert refused.value.where == "rules[0].filters.colour"
    with pytest.raises(ValueError, match=r"place.*\$\[1\]"):
        read_rules([{"do": "bury", "name": "a"}, {"do": "pin", "name": "b", "item_id": "c"}])
    with pytest.raises(ValueError, match="lift"):
        read_rules([{"do": "lift", "name": "a"}])
