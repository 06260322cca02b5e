"""What a release is asked when it is evaluated on later events."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from recsys.data_schemas.columns import CATEGORY, ITEM_ID, TITLE
from recsys.evaluation.lists import RankedLists
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


def test_evaluate_asks_and_compares_under_the_same_caps(monkeypatch):
    asked = []

    class Release:
        state = SimpleNamespace(catalogue=CATALOGUE, user_ids=list)
        recall = SimpleNamespace(proposing={})
        bundle = SimpleNamespace(facts={"candidates": ITEMS})

        def answer(self, query):
            asked.append(query)
            return RankingResult(["i4"], [1.0])

    queries = release_queries.Queries("window", ["u"], np.array([5]), None, None)
    release_queries.lists_of_release(Release(), queries, "recsys", {"category": 2})
    assert [query.caps for query in asked] == [{"category": 2}]
    every = np.arange(ITEMS, dtype=np.int32)[None]

    def popular(found, loaded, queries, before, start, length):
        assert length == release_queries.LIST_LENGTH
        found.lists.append(RankedLists("popularity", every, -every.astype(np.float32)))

    monkeypatch.setattr(release_queries, "_joined", lambda *_: SimpleNamespace(n_items=ITEMS))
    monkeypatch.setattr(release_queries.baselines, "popularity_of", lambda *_: np.zeros(ITEMS))
    monkeypatch.setattr(release_queries, "_from_events", popular)
    monkeypatch.setattr(release_queries, "_fitted", lambda *_: None)
    caps = ListCaps(CATALOGUE, {"category": 2}, ITEMS)
    (made,) = release_queries.baseline_lists_of(Release(), queries, None, caps).lists
    assert made.items[0][made.items[0] >= 0].tolist() == [0, 1, 2, 3, 4, 5]
