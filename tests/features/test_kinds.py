"""Each kind's arithmetic, worked out by hand."""

import inspect
from typing import get_args

import numpy as np
import pytest

from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY, HOUR, History
from recsys.features.kinds import KINDS
from recsys.features.kinds.age import Age
from recsys.features.kinds.attribute import Attribute
from recsys.features.kinds.kind import Family
from recsys.features.kinds.overlap import Overlap
from recsys.features.kinds.recency import Recency
from recsys.features.kinds.request_value import Context
from recsys.features.kinds.signals import (
    CollaborativeScore,
    CoOccurrence,
    InterestScore,
    RecallRank,
    Share,
    SourceScore,
    TextSimilarity,
    signal_feature,
)
from recsys.features.kinds.smoothed_rate import SmoothedRate
from recsys.features.kinds.stated_interest import StatedInterest
from recsys.features.kinds.time_of import TimeOf
from recsys.features.kinds.trend import Trend
from recsys.features.kinds.user_activity import UserActivity, UserDiversity
from recsys.features.kinds.user_attribute import UserAttribute
from recsys.features.kinds.window_count import WindowCount
from recsys.features.random_world import START, RandomWorld, item_table
from recsys.features.ranking_context import RankingContext
from recsys.retrieval.source_kinds import shipped

NAN = float("nan")
NOW = START + 10 * DAY


class Table:
    """Counts given by hand."""

    def __init__(self, known=(1, 1, 0), **counts):
        self.counts, self._known = counts, np.array(known)

    def of(self, count):
        name = "_".join((count.entity, *count.types, str(count.window_us // DAY)))
        return np.array(self.counts[name])

    def known(self, entity):
        return self._known


def history(items=(), days_ago=(), kinds=None, grades=None):
    n = len(items)
    return History(
        np.array(items, np.int32),
        np.array([0] * n if kinds is None else kinds, np.int16),
        NOW - (np.array(days_ago) * DAY).astype(np.int64),
        np.ones(n, np.float32),
        np.array([1] * n if grades is None else grades, np.int8),
    )


def moment(items=(0, 1, 2, 3), past=None, **more):
    catalogue = Catalogue.from_table(item_table(12))
    given = {"signals": {}, "state": None, "catalogue": catalogue, "kinds": ("view", "click")}
    return RankingContext(NOW, past or history(), np.array(items, np.int32), **(given | more))


def online(feature, *args, **more):
    at = moment(*args, **more)
    return np.broadcast_to(feature.online(at), len(at)).tolist()


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# -- counters -------------------------------------------------------------------------------------


def test_window_count_of_an_item_is_the_count():
    same(WindowCount("item", "click", DAY).read(Table(item_click_1=[3, 0, 5])), [3, 0, 5])


def test_window_count_of_a_category_is_unknown_without_one():
    same(WindowCount("category", "", 0).read(Table(category_0=[3, 0, 0])), [3, 0, NAN])


def test_window_count_of_tags_is_their_mean():
    found = WindowCount("tag", "", 0).read(Table(known=(2, 3, 0), tag_0=[3, 6, 0]))
    same(found, [1.5, 2, NAN])


def test_smoothed_rate_starts_at_the_prior():
    rate = SmoothedRate("click", "", 7 * DAY, prior=0.1, strength=10)
    found = rate.read(Table(item_click_7=[0, 4], shown_7=[0, 10]))
    same(found, [0.1, (4 + 0.1 * 10) / (10 + 10)])


def test_smoothed_rate_of_one_event_type_per_another():
    rate = SmoothedRate("click", "view", DAY, prior=0.5, strength=2)
    same(rate.read(Table(item_click_1=[1], item_view_1=[2])), [(1 + 1) / (2 + 2)])


def test_trend_is_nothing_for_the_steady_and_the_unseen():
    trend = Trend("", DAY, 10 * DAY)
    found = trend.read(Table(item_1=[0, 1, 3], item_10=[0, 10, 3]))
    same(found, [0.0, 0.0, np.log(31 / 4)])


# -- signals --------------------------------------------------------------------------------------


def test_scores_are_copied_and_the_unknown_stays_unknown():
    signals = {"als.score": np.array([0.5, NAN], np.float32)}
    same(online(CollaborativeScore("als", "score"), (0, 1), signals=signals), [0.5, NAN])


def test_rank_is_logarithmic():
    signals = {"als.rank": np.array([1, 3, NAN], np.float32)}
    found = online(RecallRank("als", "rank"), (0, 1, 2), signals=signals)
    same(found, [np.log(2), np.log(4), NAN])


def test_a_source_that_is_missing_is_unknown():
    same(online(Share("als", "share"), (0, 1)), [NAN, NAN])


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("text.score", InterestScore, "text"),
        ("text.last", TextSimilarity, "text"),
        ("als.score", CollaborativeScore, "collaborative"),
        ("item_item.score", CoOccurrence, "collaborative"),
        ("transitions.share", Share, "collaborative"),
        ("bm25.rank", RecallRank, "text"),
        ("fused.rank", RecallRank, "recall"),
        ("popular.score", SourceScore, "counters"),
        ("fused.score", SourceScore, "recall"),
    ],
)
def test_a_signals_name_decides_its_kind_and_family(name, kind, family):
    shipped()  # sources say their families
    feature = signal_feature(name)
    assert type(feature) is kind
    assert feature.group == family
    assert feature.signal == name


# -- history, item and moment ---------------------------------------------------------------------


def test_age_is_in_days_and_unknown_without_a_creation_time():
    same(online(Age()), [10, 11, 12, NAN])


def test_recency_of_the_user_is_the_last_event():
    same(online(Recency("user"), past=history([5, 6], [3, 0.5])), [0.5] * 4)


def test_recency_of_items_is_the_last_time_on_each():
    found = online(Recency("item"), past=history([0, 2, 0], [9, 4, 2]))
    same(found, [2, NAN, 4, NAN])


def test_recency_of_categories():
    # Items 0 and 3 are in categories 0 and 1, item 1 in 1; item 2 has none, nor has item 5.
    found = online(Recency("category"), past=history([6, 1, 5], [7, 3, 1]))
    same(found, [7, 3, NAN, 3])


def test_recency_without_history_is_unknown():
    same(online(Recency("item")), [NAN] * 4)


def test_activity_counts_events_in_the_window():
    past = history([1, 2, 3], [9, 1, 0.1], kinds=[0, 1, 1])
    assert online(UserActivity("", DAY), past=past)[0] == 2
    assert online(UserActivity("", 0), past=past)[0] == 3
    assert online(UserActivity("click", 0), past=past)[0] == 2
    assert online(UserActivity("purchase", 0), past=past)[0] == 0
    assert online(UserActivity("", DAY))[0] == 0


def test_diversity_is_distinct_per_event():
    past = history([0, 0, 1, 3], [4, 3, 2, 1], grades=[1, -1, 0, 2])
    assert online(UserDiversity("item"), past=past)[0] == 3 / 4
    assert online(UserDiversity("category"), past=past)[0] == 2 / 4
    assert online(UserDiversity("positive"), past=past)[0] == 2 / 4
    assert online(UserDiversity("item", reach=2), past=past)[0] == 1
    same(online(UserDiversity("item")), [NAN] * 4)


def test_overlap_of_tags_is_the_mean_share_of_their_items():
    # Tags: 0 → tag0, all; 1 → tag1, all; 2 → tag2, all; 3 → none.
    found = online(Overlap("tag"), past=history([0, 1], [2, 1]))
    same(found, [(1 / 2 + 2 / 2) / 2, (1 / 2 + 2 / 2) / 2, (0 + 2 / 2) / 2, NAN])


def test_overlap_of_categories_is_the_share_of_the_last_items():
    found = online(Overlap("category", last=3), past=history([9, 0, 1, 2], [4, 3, 2, 1]))
    same(found, [1 / 3, 1 / 3, NAN, 1 / 3])


def test_overlap_without_history_is_unknown():
    same(online(Overlap("tag")), [NAN] * 4)


def test_numeric_attributes_are_as_they_are():
    same(online(Attribute("price"), (1, 2, 4)), [1.5, 3.0, NAN])
    same(online(Attribute("weight"), (1,)), [NAN])


def test_categorical_attributes_are_places_among_the_declared_values():
    same(online(Attribute("colour", ("blue", "green", "red")), (0, 1, 2)), [2, 0, NAN])
    same(online(Attribute("colour", ("red",)), (0, 1)), [0, NAN])


def test_a_value_that_comes_later_is_not_declared():
    at, feature = moment((0, 12)), Attribute("colour", ("red",))
    at.catalogue.append({"item_id": "new", "colour": "mauve"})
    same(feature.online(at), [0, NAN])


def test_user_attributes():
    user = {"born": 1970.0, "country": "at"}
    assert online(UserAttribute("born"), user=user)[0] == 1970
    assert online(UserAttribute("country", ("ch", "at")), user=user)[0] == 1
    same(online(UserAttribute("country", ("ch",)), user=user), [NAN] * 4)
    same(online(UserAttribute("country"), user=user), [NAN] * 4)
    same(online(UserAttribute("height"), user=user), [NAN] * 4)


def test_a_stated_interest_is_met_by_a_tag_or_by_the_category():
    """Items 0 to 3 have tags tag0 tag1 tag2 and none, categories 0, 1, none and 1."""
    stated = StatedInterest(("likes", "studies"))
    same(online(stated, user={"likes": "tag1"}), [0, 1, 0, 0])
    same(online(stated, user={"likes": "category0", "studies": "tag2"}), [1, 0, 1, 0])
    same(online(stated, (2, 11), user={"likes": "category1"}), [0, NAN])
    same(online(stated, user={"country": "tag1", "born": 1970.0}), [NAN] * 4)
    same(online(stated, user={"likes": "elsewhere"}), [NAN] * 4)


def test_a_new_item_meets_a_stated_interest():
    at = moment((0, 12), user={"likes": "tag1"})
    at.catalogue.append({"item_id": "new", "tags": ["tag1"]})
    same(StatedInterest(("likes",)).online(at), [0, 1])


def test_context_is_what_the_request_says():
    context = {"screen": "tv", "slot": 3}
    assert online(Context("slot"), context=context)[0] == 3
    assert online(Context("screen", ("phone", "tv")), context=context)[0] == 1
    same(online(Context("screen"), context=context), [NAN] * 4)
    same(online(Context("mood"), context=context), [NAN] * 4)


def test_time_of_day_and_week():
    monday = 4 * DAY  # 1970-01-05
    at = RankingContext(monday + 6 * HOUR, history(), np.zeros(1, np.int32), {}, None, None)
    assert TimeOf("week").online(at)[0] == 0
    assert TimeOf("day").online(at)[0] == 6


# -- what every kind owes its reader --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_says_what_it_is(kind):
    doc = inspect.getdoc(kind)
    assert len(doc) > 40
    assert kind.family in get_args(Family)
    assert kind.cost


@pytest.mark.parametrize(
    "feature",
    [WindowCount("item", "click", DAY), Trend("", DAY, 7 * DAY), Overlap("tag"), Age()],
    ids=lambda feature: feature.column,
)
def test_no_candidates_give_no_values(feature, trial: RandomWorld):
    state = trial.state(50)
    at = RankingContext(NOW, history(), np.zeros(0, np.int32), {}, state, state.catalogue)
    assert feature.online(at).shape in {(0,), (1,)}
