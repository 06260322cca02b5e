"""What a night evaluates is what would be served, caps included."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.columns import CATEGORY, ITEM_ID, TITLE
from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.features.catalogue import Catalogue
from recsys.rules import Caps
from recsys.training.night import read_data
from recsys.training.night.test_lists import best_of, caps_of

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


@pytest.fixture
def night(tmp_path):
    def make(**caps):
        raw = {"data": {"items": "i", "events": "e"}, "serving": {"caps": caps}}
        data = SimpleNamespace(tables=SimpleNamespace(catalogue=CATALOGUE))
        tables = SimpleNamespace(product=tmp_path)
        return SimpleNamespace(config=parse_config(raw, tmp_path), data=data, tables=tables)

    return make


def test_a_nights_lists_hold_no_more_of_a_kind_than_the_service_shows(night):
    table = SimpleNamespace(
        items=np.tile(np.arange(ITEMS, dtype=np.int32), 2), offsets=np.array([0, ITEMS, 2 * ITEMS])
    )
    score = np.random.default_rng(1).random(2 * ITEMS)
    capped, ranking = caps_of(night(category=2)), SimpleNamespace(table=table)
    items, scores = best_of(score, ranking, capped)
    for group, listed in enumerate(items):
        own = score[group * ITEMS : (group + 1) * ITEMS]
        order = np.argsort(-own, kind="stable")
        served = Caps(CATALOGUE, {"category": 2}, table.items[:ITEMS]).first(order, 100)
        assert listed[listed >= 0].tolist() == served.tolist()
        np.testing.assert_allclose(scores[group, : len(served)], own[served], rtol=1e-6)
        assert len(served) == 6
    assert (best_of(score, ranking, caps_of(night()))[0] >= 0).sum() == 2 * ITEMS


def test_a_cap_that_cannot_be_counted_is_refused_before_the_work(night, monkeypatch):
    tables = SimpleNamespace(catalogue=CATALOGUE, interactions=None, users=None)
    monkeypatch.setattr(read_data, "load_tables", lambda *_: tables)
    asked = night(colour=1)
    with pytest.raises(UsageError, match="cannot be counted by") as refused:
        read_data.split(asked, read_data.load(asked.tables.product, asked.config))
    assert refused.value.where == "caps.colour"
