"""Every kind of leak is found with its outcome, and a sound log has none."""

import numpy as np
import pytest

from recsys.evaluation.data_leaks import logged_data
from recsys.evaluation.data_leaks.examine import examine
from recsys.evaluation.data_leaks.later_counts import LaterCounts, below_chance
from recsys.evaluation.data_leaks.leaky_columns import SuspectColumn
from recsys.evaluation.report_context import DROP, REFUSE, WARN

LEFT_OUT = {
    "sales_later": ("items", "stock"),
    "positives_later": ("items", "stock"),
    "sales_later_noisy": ("items", "stock"),
    "later_class": ("items", "shelf"),
    "later_best": ("items", "star"),
    "sales_all": ("items", "stock"),
    "positives_all": ("items", "stock"),
    "text_tells_sales": ("items", "description"),
    "last_sold": ("items", "idle"),
    "created_first": ("items", "created_at"),
    "created_last": ("items", "created_at"),
    "tags_name_raters": ("items", "tags"),
    "tags_name_later_raters": ("items", "tags"),
    "text_names_raters": ("items", "description"),
    "user_later_count": ("users", "loyalty"),
    "user_later_favourite": ("users", "segment"),
    "user_next_item": ("users", "interest"),
    "last_seen": ("users", "idle"),
}
"""Kind → the column that a night leaves out."""
REFUSED = (
    "twins",
    "rough_twins",
    "duplicates",
    "permuted_by_month",
    "permuted_late",
    "renumbered_late",
    "users_permuted_late",
    "positives_shifted",
    "positives_shifted_late",
    "clicked_first",
)
WARNED = {
    "event_ids_encode": "event_id",
    "event_ids_sorted": "event_id",
    "seconds_encode": "second",
    "file_order_encodes": "one moment",
    "items_in_order_of_sales": "order of the items",
    "available_if_sold": "available",
    "texts_permuted": "words",
    "propensities_tell": "off-policy",
}
"""Kind → a word of the finding."""


@pytest.fixture
def examined(planted, logged):
    """(failed findings, all findings) of a log with a leak planted."""

    def ask(log, kind, seed=3):
        made = planted.PLANTS[kind](log, np.random.default_rng(seed))
        assert made is not None, "the log has no place for it"
        found = examine(logged(made))
        return [f for f in found if not f.check.passed], found

    return ask


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_column_that_knows_what_comes_is_left_out(shop, examined, kind):
    failed, found = examined(shop, kind)
    assert LEFT_OUT[kind] in {(f.table, f.column) for f in failed if f.leaves_out}
    assert not [f.check for f in failed if f.check.outcome == REFUSE]
    assert all(f.check.detail for f in found)


@pytest.mark.parametrize("kind", REFUSED)
def test_mixed_up_events_refuse(shop, examined, kind):
    failed, _ = examined(shop, kind)
    assert REFUSE in {f.check.outcome for f in failed}
    assert all(f.check.refuses == (f.check.outcome == REFUSE) for f in failed)


@pytest.fixture
def some_looked_at(monkeypatch, shop):
    """Two thirds of a log's events are as many as checks look at."""
    monkeypatch.setattr(logged_data, "MOST_EVENTS", len(shop.events) * 2 // 3)
    monkeypatch.setattr(logged_data, "LEAST_USERS", 1)


@pytest.mark.parametrize(
    "kind", ["duplicates", "permuted_late", "users_permuted_late", "positives_shifted"]
)
def test_mixed_up_events_refuse_where_some_users_are_looked_at(
    some_looked_at, shop, examined, kind
):
    failed, _ = examined(shop, kind)
    assert REFUSE in {f.check.outcome for f in failed}


def test_of_some_users_all_is_looked_at(some_looked_at, shop, logged):
    log = logged(shop)
    some = log.of_some_users
    assert 0.5 < len(some.events) / len(log.events) < 0.85
    whole, drawn = (np.bincount(x.events.user, minlength=log.events.n_users) for x in (log, some))
    assert np.array_equal(drawn[drawn > 0], whole[drawn > 0])
    assert not [f for f in examine(log) if not f.check.passed]


def test_few_events_or_users_are_all_looked_at(monkeypatch, shop, logged):
    log = logged(shop)
    assert log.of_some_users is log
    monkeypatch.setattr(logged_data, "MOST_EVENTS", 10)
    log = logged(shop)
    assert log.of_some_users is log


@pytest.mark.parametrize("kind", WARNED)
def test_what_no_feature_reads_warns(shop, examined, kind):
    failed, _ = examined(shop, kind)
    said = [f.check for f in failed if WARNED[kind] in f"{f.check.name} {f.check.detail}"]
    assert [check.outcome for check in said] == [WARN] * len(said)
    assert said


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("stars_all", DROP),
        ("user_later_favourite", DROP),
        ("positives_shifted", REFUSE),
        ("stars_turned_round", REFUSE),
        ("twins", REFUSE),
    ],
)
def test_among_stars_too(films, examined, kind, outcome):
    failed, _ = examined(films, kind)
    assert outcome in {f.check.outcome for f in failed}


@pytest.mark.parametrize("name", ["shop", "films"])
@pytest.mark.parametrize("columns", [False, True])
def test_a_sound_log_is_not_accused(request, planted, logged, name, columns):
    log = request.getfixturevalue(name)
    if columns:
        log = planted.sound_columns(log, np.random.default_rng(8))
    found = examine(logged(log))
    assert [f.check for f in found if not f.check.passed] == []
    undated = [f.check.detail for f in found if f.check.name == "what cannot be checked is said"]
    assert columns is any("sold_so_far" in detail for detail in undated)


def test_a_log_of_a_few_events_is_not_accused(shop, planted, logged):
    few = planted.replace(
        shop, events=shop.events.iloc[:40], impressions=shop.impressions.iloc[:40]
    )
    assert [f.check for f in examine(logged(few)) if not f.check.passed] == []


def test_every_kind_is_asked_for(planted):
    assert {*LEFT_OUT, *REFUSED, *WARNED} == {*planted.PLANTS} - {
        "stars_all",
        "stars_turned_round",
        "price_follows_sales",
    }


def test_equal_counts_are_nothing_to_know():
    """Every history ends with one event in the last stretch: no column knows that, though every one
    foretells it."""
    users, slices = 1000, 20
    draw = np.random.default_rng(0)
    by_slice = draw.poisson(1.0, (users, slices)).astype(float)
    by_slice[:, 15:] = 0
    by_slice[:, 19] = 1
    counted = LaterCounts("events", by_slice, np.full(slices, users), 1.0)
    ages = SuspectColumn("users", "age", draw.integers(18, 80, users).astype(float))
    assert below_chance(ages, counted) is None
    by_slice[: users // 2, 19] = 0
    halves = SuspectColumn("users", "stays", (np.arange(users) >= users // 2).astype(float))
    assert below_chance(halves, LaterCounts("events", by_slice, np.full(slices, users), 1.0))
