"""What a release is asked when it is evaluated on later events."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from recsys.data_schemas.columns import CATEGORY, ITEM_ID, TITLE
from recsys.evaluation.lists import PastItems
from recsys.features.catalogue import Catalogue
from recsys.operations import release_queries
from recsys.query import RankingResult
from recsys.rules import ListCaps

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


def test_evaluate_asks_and_compares_under_the_same_caps(monkeypatch, history, interactions_of):
    asked = []

    class Release:
        state = SimpleNamespace(catalogue=CATALOGUE, user_ids=list, history=lambda *_: history([]))
        recall = SimpleNamespace(proposing={})
        bundle = SimpleNamespace(facts={"windows": {"scheme": "ordinal"}})

        def answer(self, query):
            asked.append(query)
            return RankingResult(["i4"], [1.0])

    queries = release_queries.Queries(
        "window", ["u"], np.array([5]), None, PastItems.of([history([])])
    )
    made = release_queries.lists_of(Release(), queries, "recsys", {"category": 2})
    assert [(q.user_id, q.now, q.caps, q.items) for q in asked] == [("u", 5, {"category": 2}, None)]
    assert made.items[0, :2].tolist() == [4, -1]

    # every item once, so that they are listed by their numbers
    events = interactions_of(list(range(ITEMS)), list(range(ITEMS)), n_items=ITEMS)
    monkeypatch.setattr(release_queries, "_joined", lambda *_: events)
    monkeypatch.setattr(release_queries, "_add_references", lambda *_: None)
    caps = ListCaps(CATALOGUE, {"category": 2}, ITEMS)
    (popular,) = release_queries.compared_with(Release(), queries, None, caps).lists
    assert popular.items[0][popular.items[0] >= 0].tolist() == [0, 1, 2, 3, 4, 5]
