"""Batch equals online, on random streams of events, for every kind of feature at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recsys.data_schemas.config import FeaturesConfig
from recsys.features import batch_counts
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import DAY, HOUR
from recsys.features.kinds import KINDS
from recsys.features.kinds.request_value import Context
from recsys.features.kinds.signals import CoOccurrence
from recsys.features.kinds.window_count import WindowCount
from recsys.features.parity import (
    LIMIT,
    KnownHistories,
    Served,
    broken,
    compare_served,
    relative,
    served_rows,
)
from recsys.features.random_world import SIGNALS, TYPES, RandomWorld
from recsys.features.rows import ANY_POSITION, Rows

pytestmark = pytest.mark.parity


def every_kind(trial: RandomWorld, bucket: str = "hour") -> FeatureSet:
    """A set in which each kind occurs."""
    config = FeaturesConfig(bucket=bucket, windows=("1d", "3d", "7d"))
    catalogue = Catalogue.from_table(trial.table)
    default = FeatureSet.default(
        catalogue, TYPES, SIGNALS, config, users=trial.users, impressions=True
    )
    more = [
        WindowCount("tag", "click", 3 * DAY),
        WindowCount("item", "never", DAY),
        Context("slot"),
        CoOccurrence("item_item", "score"),
    ]
    together = FeatureSet([*default.features, *more])
    assert {type(feature).__name__ for feature in together.features} == set(KINDS)
    return together


# A failing world is small already; shrinking it would take minutes.
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.integers(0, 10_000),
    st.integers(0, 400),
    st.sampled_from(["minute", "hour", "day"]),
)
def test_both_readings_agree_on_any_stream(seed, n_events, bucket):
    trial = RandomWorld.make(seed, n_events=n_events, bucket=bucket, n_lists=10)
    features = every_kind(trial, bucket)
    differences = compare_served(trial.online(features), trial.batch(features), features.columns)
    assert broken(differences) == []


def test_counts_agree_to_the_last_one(trial):
    counts = FeatureSet(
        [
            WindowCount(of, t, w)
            for of in ("item", "category")
            for t in ("", *TYPES)
            for w in (DAY, 0)
        ]
    )
    online, batch = trial.online(counts), trial.batch(counts)
    np.testing.assert_array_equal(online, batch)
    assert (online > 0).mean() > 0.3, "the world is not empty"


def test_what_was_known_decides_and_not_the_time_of_the_event(trial):
    """The same rows without their positions see late events, so some values must differ."""
    features = FeatureSet([WindowCount("item", "", 0), WindowCount("shown", "", 0)])
    unbounded = replace(trial.rows, position=np.full(trial.rows.n_groups, ANY_POSITION))
    late = features.batch(unbounded, trial.inputs())
    known = trial.batch(features)
    assert (late >= known).all()
    assert (late > known).any(axis=0).all()


@pytest.mark.parametrize(("seed", "bucket"), [(4, "minute"), (5, "hour"), (6, "day")])
def test_counts_by_sql_are_those_of_arrays(seed, bucket):
    trial = RandomWorld.make(seed, bucket=bucket)
    features = every_kind(trial, bucket)
    np.testing.assert_array_equal(trial.batch(features, "duckdb"), trial.batch(features))


def test_rows_cut_into_parts_are_the_same_rows(trial, monkeypatch):
    features = every_kind(trial)
    whole = trial.batch(features)
    inputs = replace(trial.inputs("duckdb"), memory_mb=0)
    monkeypatch.setattr("recsys.features.batch_counts.LEAST_PART", 40)
    np.testing.assert_array_equal(features.batch(trial.rows, inputs), whole)


def test_rows_of_one_bucket_that_share_items_are_counted_once(trial, monkeypatch):
    features, asked = every_kind(trial), []
    count = batch_counts.count_windows

    def counted(events, pairs, columns, n_rows):
        asked.append(n_rows)
        return count(events, pairs, columns, n_rows)

    monkeypatch.setattr(batch_counts, "count_windows", counted)
    position = np.full(trial.rows.n_groups, ANY_POSITION)
    rows = replace(
        trial.rows, position=position, now=np.full(trial.rows.n_groups, trial.rows.now[0])
    )
    shared = features.batch(rows, trial.inputs())
    assert len(rows) > trial.inputs().catalogue.n_items >= max(asked)
    asked.clear()
    monkeypatch.setattr(batch_counts, "SHARED", np.inf)
    np.testing.assert_array_equal(features.batch(rows, trial.inputs()), shared)
    # each row is counted, but of its tags
    assert sorted(set(asked))[-1] == len(rows)


def test_one_row_reads_the_same_alone_as_among_others(trial):
    features = every_kind(trial)
    whole = trial.batch(features)
    rows = trial.rows
    for group, part in list(rows.groups())[:4]:
        one_row = Rows(
            np.array([0, 1]),
            rows.user[group : group + 1],
            rows.now[group : group + 1],
            rows.position[group : group + 1],
            rows.items[part][-1:],
            {name: values[part][-1:] for name, values in rows.signals.items()},
            lambda _, g=group: rows.history(g),
            {name: values[group : group + 1] for name, values in rows.context.items()},
        )
        np.testing.assert_array_equal(
            features.batch(one_row, trial.inputs()), whole[part.stop - 1 : part.stop]
        )


def test_served_lists_are_recomputed_from_what_was_known(trial):
    """The parity job's own path: lists as logged, then rows made of them."""
    features, rows = every_kind(trial), trial.rows
    online = trial.online(features)
    ids = trial.table["item_id"].to_pylist()
    served = [
        Served(
            f"user-{rows.user[g]}" if rows.user[g] >= 0 else "nobody",
            int(rows.now[g]),
            int(rows.position[g]),
            [ids[i] for i in rows.items[part]],
            online[part],
            {"slot": rows.context["slot"][g]},
        )
        for g, part in rows.groups()
    ]
    again, logged = served_rows(
        served, trial.interactions, Catalogue.from_table(trial.table), rows.signals
    )
    recomputed = features.batch(again, trial.inputs())
    assert max(compare_served(logged, recomputed, features.columns).values()) <= LIMIT


def test_a_difference_is_found_and_named():
    logged = np.array([[1, 5], [2, np.nan]], np.float32)
    assert compare_served(logged, logged.copy(), ["a", "b"]) == {"a": 0.0, "b": 0.0}
    recomputed = np.array([[1, 5], [4, 0]], np.float32)
    found = compare_served(logged, recomputed, ["a", "b"])
    assert list(found.items()) == [("b", np.inf), ("a", 0.5)]
    assert broken(found) == ["b", "a"]


def test_small_numbers_are_compared_absolutely():
    tiny = relative(np.array([1e-9], np.float32), np.array([0], np.float32))
    assert tiny[0] < LIMIT


def test_no_served_rows_differ_by_nothing():
    none = np.zeros((0, 1), np.float32)
    assert compare_served(none, none, ["a"]) == {"a": 0.0}


def test_known_histories_leave_out_what_came_later(trial):
    known = KnownHistories(trial.interactions)
    now = int(trial.interactions.time.max())
    everything = known.of(0, now, ANY_POSITION)
    middle = len(trial.log) // 2
    events = trial.interactions
    kept = (events.user == 0) & (events.time < now) & (events.position < middle)
    assert known.of(0, now, middle).item.tolist() == events.item[kept].tolist()
    assert len(everything.item) > kept.sum()
    assert len(known.of(-1, now, middle).item) == 0


def test_the_bucket_of_now_is_never_seen(trial):
    """Moving now inside its bucket changes no counter."""
    counts = FeatureSet([WindowCount("item", "", DAY), WindowCount("item", "", 0)])
    rows = replace(trial.rows, now=trial.rows.now // HOUR * HOUR)
    later = replace(rows, now=rows.now + HOUR - 1)
    inputs = trial.inputs()
    np.testing.assert_array_equal(counts.batch(rows, inputs), counts.batch(later, inputs))
