"""What a release is asked when it is evaluated on later events."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from recsys.data_schemas.columns import CATEGORY, ITEM_ID, TITLE
from recsys.data_schemas.limits import LIST_LENGTH
from recsys.evaluation.lists import PastItems
from recsys.features.catalogue import Catalogue
from recsys.query import RankingResult
from recsys.rules import ListCaps
from recsys.training.compared_lists import Compared, KnownAtMoments
from recsys.training.released_lists import lists_of_release

ITEMS = 40
CATALOGUE = Catalogue.from_table(
    pa.table(
        {
            ITEM_ID: [f"i{i}" for i in range(ITEMS)],
            TITLE: ["t"] * ITEMS,
            CATEGORY: [f"c{i % 3}" for i in range(ITEMS)],
        }
    )
)


def test_evaluate_asks_and_compares_under_the_same_caps(history, interactions_of):
    asked = []

    class Release:
        state = SimpleNamespace(catalogue=CATALOGUE, user_ids=list, history=lambda *_: history([]))
        recall = SimpleNamespace(proposing={})
        bundle = SimpleNamespace(facts={"windows": {"scheme": "ordinal"}})

        def answer(self, query):
            asked.append(query)
            return RankingResult(["i4"], [1.0])

    made = lists_of_release(
        Release(), ["u"], np.array([5]), LIST_LENGTH, name="recsys", caps={"category": 2}
    )
    assert [(q.user_id, q.now, q.caps, q.items) for q in asked] == [("u", 5, {"category": 2}, None)]
    assert made.items[0, :2].tolist() == [4, -1]

    # every item once, so that they are listed by their numbers
    events = interactions_of(list(range(ITEMS)), list(range(ITEMS)), n_items=ITEMS)
    nothing = history([])
    moments = KnownAtMoments(
        events, PastItems.of([nothing]), np.array([5]), lambda _: nothing, CATALOGUE, True
    )
    found = Compared()
    found.add_simple(moments, ListCaps(CATALOGUE, {"category": 2}, ITEMS))
    (popular,) = found.lists
    assert popular.items[0][popular.items[0] >= 0].tolist() == [0, 1, 2, 3, 4, 5]
