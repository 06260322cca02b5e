"""What was planted is named: a source fitted too late, its test events, a feature of the future."""

from types import SimpleNamespace

import numpy as np
import pytest

from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.future_check import FutureUse
from recsys.features.interactions import Interactions
from recsys.features.random_world import item_table
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.training.groups import CandidateTable, history_reader
from recsys.training.night import leakage
from recsys.training.night.products import RankingData
from recsys.training.windows import moments_at

CUT, END = 100, 200


@pytest.fixture
def events():
    """Three users with a past before the cut, who then act on items new to them."""
    user = [0, 1, 2, 0, 1, 2]
    item = [1, 2, 3, 4, 5, 4]
    time = [10, 20, 30, 110, 150, 190]
    return Interactions(
        np.array(user, np.int32), np.array(item, np.int32), np.zeros(6, np.int16),
        np.array(time, np.int64), np.full(6, np.nan, np.float32), np.ones(6, np.float32),
        np.ones(6, np.int8), np.arange(6), np.array(["a", "b", "c"], object), ("click",), 8,
    )  # fmt: skip


def measured_with(events, feature):
    """The test moments, every item a candidate, with one feature as a night would measure it."""
    moments = moments_at(events, CUT, END)
    items = np.tile(np.arange(8, dtype=np.int32), len(moments))
    offsets = np.arange(0, len(items) + 1, 8)
    features = FeatureSet([feature])
    inputs = BatchInputs(events, Catalogue.from_table(item_table(8)))
    rows = Rows(
        offsets, moments.user, moments.time, np.full(len(moments), ANY_POSITION, np.int64), items,
        {}, history_reader(events.histories(), moments),
    )  # fmt: skip
    table = CandidateTable(offsets, items, {}, np.zeros(len(items), np.int8))
    shown = np.zeros(len(moments), bool)
    return RankingData(
        moments,
        moments.user.astype(np.uint64),
        table,
        features.batch(rows, inputs),
        features,
        shown,
    ), inputs


def test_a_source_that_saw_the_window_is_named_with_its_test_events(events):
    tested, _ = measured_with(events, FutureUse())
    inputs = SimpleNamespace(interactions=events)
    honest = {str(CUT): {"als": 30, "text": -(2**62)}}
    assert all(check.passed for check in leakage._sources(inputs, tested, honest))
    late = {str(CUT): {"als": 150, "bm25": 30}}
    fits, seen = leakage._sources(inputs, tested, late)
    assert not fits.passed
    assert fits.detail.startswith("als saw")
    assert "bm25" not in fits.detail
    assert not seen.passed
    assert seen.detail.startswith("2 of 3 test events are among")


def test_a_feature_of_the_future_is_named(events, monkeypatch):
    tested, whole = measured_with(events, FutureUse())
    monkeypatch.setattr(leakage, "batch_inputs", lambda night, view: whole)
    night = SimpleNamespace(
        data=SimpleNamespace(interactions=events), tested=SimpleNamespace(product=tested)
    )
    check = leakage._blind_to_the_future(night)
    assert not check.passed
    assert "planted.future (1 with later events, 0 without)" in check.detail
