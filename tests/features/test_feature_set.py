"""The set as a whole: what is in it, how it is kept, and what is refused."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.config import FeaturesConfig
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import LogRecord
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet, own_feature
from recsys.features.interactions import DAY, HOUR
from recsys.features.kinds.kind import Family
from recsys.features.kinds.recency import Recency
from recsys.features.kinds.time_of import TimeOf
from recsys.features.kinds.window_count import WindowCount
from recsys.features.random_world import (
    SIGNALS,
    START,
    TYPES,
    RandomWorld,
    item_table,
)
from recsys.features.user_table import UserTable


def default(resolution="seconds", **more):
    catalogue = Catalogue.from_table(item_table(12))
    config = more.pop("config", FeaturesConfig())
    return FeatureSet.default(catalogue, TYPES, SIGNALS, config, resolution=resolution, **more)


def test_every_column_has_a_family_and_occurs_once():
    features = default()
    assert len(set(features.columns)) == len(features)
    assert set(features.families) == set(features.columns)
    assert set(features.families.values()) <= set(get_args(Family))
    assert features.categorical == ("item.category", "item.colour")


def test_no_name_of_the_callers_is_that_of_another_feature():
    """Event types and attributes named as our columns name all types, windows and shares."""
    types = ("any", "=any", "events", "shown", "view", "item", "per")
    attributes = ["events.all", "any.7d", "item.share", "=events.all", "positive.share", "age"]
    users = UserTable.from_table(
        pa.table({"user_id": ["u"]} | {name: [1.0] for name in attributes})
    )
    for impressions in (False, True):
        features = FeatureSet.default(
            Catalogue.from_table(item_table(12)),
            types,
            SIGNALS,
            FeaturesConfig(),
            users=users,
            impressions=impressions,
        )
        assert {"user.age", "of_user.events.all", "user.=events.all"} <= set(features.columns)
        assert FeatureSet.from_json(features.to_json()).columns == features.columns


def test_made_up_dates_give_no_windows_ages_and_times():
    features = default("ordinal")
    bounded = [f for f in features.features if getattr(f, "window_us", 0)]
    assert bounded == []
    kinds = {type(f).__name__ for f in features.features}
    assert not kinds & {"Age", "Recency", "TimeOf", "Trend"}
    assert "count.item.any.all" in features.columns


def test_days_give_nothing_below_a_day():
    features = default("days", config=FeaturesConfig(windows=("6h", "7d")))
    widths = {getattr(f, "window_us", 0) for f in features.features}
    assert widths == {0, 7 * DAY}
    assert TimeOf("day") not in features.features
    assert TimeOf("week") in features.features


def test_a_set_is_its_declarations():
    features = default(impressions=True)
    again = FeatureSet.from_json(features.to_json())
    assert again.features == features.features


def test_an_unknown_kind_is_refused():
    content = {"format": 1, "features": [{"kind": "Horoscope"}]}
    with pytest.raises(UsageError, match=r"Horoscope(.|\n)*one of Age, Attribute"):
        FeatureSet.from_json(content)


def test_a_declaration_that_does_not_fit_is_refused():
    content = {"format": 1, "features": [{"kind": "Recency", "per": "item"}]}
    with pytest.raises(UsageError, match="Recency"):
        FeatureSet.from_json(content)


def test_another_format_is_refused():
    with pytest.raises(UsageError, match="another format"):
        FeatureSet.from_json({"format": 99, "features": []})


def test_a_window_shorter_than_a_bucket_is_refused():
    with pytest.raises(UsageError, match="not a whole number of buckets"):
        default(config=FeaturesConfig(bucket="day", windows=("6h",)))


def test_one_name_for_two_features_is_refused():
    with pytest.raises(UsageError, match=r"recency\.item"):
        FeatureSet([Recency("item", 10), Recency("item", 20)])


def test_an_unknown_resolution_is_refused():
    with pytest.raises(UsageError, match="unknown time resolution"):
        default("weeks")


@pytest.mark.parametrize(
    ("name", "why"),
    [("no_such_module:X", "ModuleNotFoundError"), ("json:nothing", "AttributeError")],
)
def test_a_class_that_cannot_be_loaded_is_refused(name, why):
    with pytest.raises(UsageError, match=why):
        own_feature(name)


def test_a_class_that_is_no_feature_is_refused():
    with pytest.raises(UsageError, match="is not a Feature"):
        own_feature("json:JSONDecoder")


# -- item-side columns that are kept ----------------------------------------------------------------


def kept_and_fresh(trial: RandomWorld, state, kept: FeatureSet, group: int):
    part = dict(trial.rows.groups())[group]
    moment = trial.moment(state, group, part)
    return kept.online(moment), FeatureSet(kept.features).online(moment)


def test_kept_columns_are_those_read_afresh(trial):
    state = trial.state(200)
    kept = default()
    for group in (0, 0, 0, 1, 0, 2, 0):
        np.testing.assert_array_equal(*kept_and_fresh(trial, state, kept, group))


def test_kept_columns_follow_late_events_and_changed_items(trial):
    state, kept = trial.state(200), default()
    part = dict(trial.rows.groups())[0]
    item = int(trial.rows.items[part][0])
    for _ in range(4):
        before, _ = kept_and_fresh(trial, state, kept, 0)
    late = {
        "user_id": "user-9",
        "item_id": f"item-{item}",
        "event_type": "view",
        "timestamp": int(trial.rows.now[0]) - 2 * HOUR,
    }
    state.apply([LogRecord(10_000, "event", late, 0)])
    after, fresh = kept_and_fresh(trial, state, kept, 0)
    np.testing.assert_array_equal(after, fresh)
    column = kept.columns.index("count.item.view.all")
    assert after[0, column] == before[0, column] + 1
    state.apply([LogRecord(10_001, "item", {"item_id": f"item-{item}", "price": 99}, 0)])
    after, fresh = kept_and_fresh(trial, state, kept, 0)
    np.testing.assert_array_equal(after, fresh)
    assert after[0, kept.columns.index("item.price")] == 99


def test_items_newer_than_the_kept_columns_are_read_singly(trial):
    state, kept = trial.state(200), FeatureSet([WindowCount("item", "", 0)])
    for _ in range(4):
        kept_and_fresh(trial, state, kept, 0)
    state.apply(
        [
            LogRecord(500, "item", {"item_id": "new"}, 0),
            LogRecord(
                501,
                "event",
                {"user_id": "u", "item_id": "new", "event_type": "view", "timestamp": START},
                0,
            ),
        ]
    )
    moment = trial.moment(state, 0, slice(0, 1))
    index = state.catalogue.index_of("new")
    found = kept.online(replace(moment, items=np.array([index, 0], np.int32), now=START + DAY))
    assert found[0, 0] == 1
