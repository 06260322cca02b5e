"""Groups out of shown lists: what is a group, what it knows, and what a place is worth in it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.data_schemas.config import RankerConfig
from recsys.data_schemas.limits import LIST_LENGTH
from recsys.evaluation.lists import Truth
from recsys.evaluation.report_context import PositionBias
from recsys.features.impressions import Impressions
from recsys.features.interactions import DAY, Interactions
from recsys.features.ragged import offsets_of
from recsys.retrieval.candidates import CandidateGenerator
from recsys.training.groups import CandidateTable, collect_shown, history_reader
from recsys.training.impression_groups import best_grades, groups_of_lists
from recsys.training.night import position_weights
from recsys.training.night.products import RankingData
from recsys.training.ranker import _folds, fit_ranker
from recsys.training.ranking_groups import Groups, ndcg

N_ITEMS = 10
ALL_THERE = np.zeros(N_ITEMS, np.uint8)


def acts(*rows):
    """Events (user, item, time, grade), in order of time."""
    rows = sorted(rows, key=lambda row: row[2])
    user, item, time, grade = (list(column) for column in zip(*rows, strict=True))
    n = len(rows)
    return Interactions(
        np.array(user, np.int32), np.array(item, np.int32), np.zeros(n, np.int16),
        np.array(time, np.int64), np.full(n, np.nan, np.float32),
        np.where(np.array(grade) < 0, -1, 1).astype(np.float32), np.array(grade, np.int8),
        np.arange(n), np.array(["a", "b"], object), ("click",), N_ITEMS,
    )  # fmt: skip


def lists_of(*rows):
    """Lists (user, time, items)."""
    sizes = [len(items) for _, _, items in rows]
    items = np.array([item for _, _, items in rows for item in items], np.int32)
    return Impressions.of(
        offsets_of(sizes),
        items,
        np.array([time for _, time, _ in rows], np.int64),
        user=np.array([user for user, _, _ in rows], np.int32),
    )


def described(groups):
    """Per group: (user, now, candidates, what was acted on with its grade)."""
    found, moments = [], groups.moments
    for g in range(len(groups)):
        told = slice(moments.offsets[g], moments.offsets[g + 1])
        relevant = zip(moments.items[told].tolist(), moments.grades[told].tolist(), strict=True)
        rows = groups.items[groups.offsets[g] : groups.offsets[g + 1]]
        found.append((int(moments.user[g]), int(moments.time[g]), rows.tolist(), dict(relevant)))
    return found


def test_a_group_is_a_list_of_which_something_was_taken_and_something_left():
    lists = lists_of(
        (0, 100, [5, 2, 8]),  # 2 is taken
        (1, 100, [5, 2, 8]),  # nothing is taken: the other user took it
        (1, 200, [3]),  # all of it is taken
        (1, 300, [4, 6]),  # looked at only
        (0, 400, [7, 1]),  # disliked
    )
    events = acts((0, 2, 110, 1), (1, 3, 210, 1), (1, 4, 310, 0), (0, 7, 410, -1))
    assert described(groups_of_lists(lists, events, ALL_THERE)) == [(0, 100, [2, 5, 8], {2: 1})]


def test_of_a_list_of_thousands_a_sample_of_what_was_left_stands():
    many = np.arange(12_000)[::-1].tolist()
    few = [5, 2, 8]
    there = np.zeros(12_000, np.uint8)
    lists = lists_of((0, 100, many), (1, 100, few), (2, 100, many))
    taken = [(0, item, 110, 1) for item in (7, 11_999)]
    everything = [(2, item, 110, 1) for item in range(11_000)]
    events = acts(*taken, (1, 2, 110, 1), *everything)
    groups = groups_of_lists(lists, events, there)
    first, second, third = described(groups)
    assert np.diff(groups.offsets).tolist() == [LIST_LENGTH, 3, LIST_LENGTH]
    assert groups.sampled == 2
    assert first[3] == {7: 1, 11_999: 1}
    assert first[2] == sorted(set(first[2]))
    # A fair draw: as many of the first half as of the second, give or take four deviations.
    assert abs(sum(item < 6_000 for item in first[2]) - LIST_LENGTH / 2) < 90
    assert second == (1, 100, [2, 5, 8], {2: 1})
    assert len(third[3]) == LIST_LENGTH - 1
    alone = groups_of_lists(lists_of((0, 100, many)), acts(*taken), there)
    assert described(alone) == [first]


def test_the_place_in_the_list_is_gone():
    """The same items in another order are the same group."""
    events = acts((0, 2, 110, 1))
    found = [
        described(groups_of_lists(lists_of((0, 100, order)), events, ALL_THERE))
        for order in ([5, 2, 8], [2, 8, 5])
    ]
    assert found[0] == found[1]


def test_items_that_are_unknown_or_gone_are_no_candidates():
    gone = ALL_THERE.copy()
    gone[8] = 1
    lists = lists_of((0, 100, [-1, 5, 2, 8]), (0, 500, [2, 8]), (0, 900, [8, 5]))
    events = acts((0, 2, 110, 1), (0, 2, 510, 1), (0, 8, 910, 1))
    # Nothing is left of the second list but what was taken, of the third but what was not.
    assert described(groups_of_lists(lists, events, gone)) == [(0, 100, [2, 5], {2: 1})]


def test_an_item_that_stands_twice_is_one_candidate():
    lists = lists_of((0, 100, [2, 5, 2]))
    assert described(groups_of_lists(lists, acts((0, 2, 110, 1)), ALL_THERE)) == [
        (0, 100, [2, 5], {2: 1})
    ]


def test_a_click_that_led_to_a_purchase_is_a_purchase():
    lists = lists_of((0, 100, [2, 5]))
    events = acts((0, 2, 110, 1), (0, 2, 160, 3), (0, 5, 170, 1))
    assert best_grades(lists, events).tolist() == [3, 1]


def test_what_happens_in_the_lists_own_moment_follows_it_and_what_was_before_does_not():
    lists = lists_of((0, 100, [2, 5, 8]))
    events = acts((0, 8, 99, 1), (0, 2, 100, 1), (0, 5, 100 + DAY, 1))
    assert described(groups_of_lists(lists, events, ALL_THERE)) == [(0, 100, [2, 5, 8], {2: 1})]


def test_an_item_shown_again_takes_what_follows():
    lists = lists_of((0, 100, [2, 5]), (0, 200, [2, 5]))
    found = described(groups_of_lists(lists, acts((0, 2, 210, 1)), ALL_THERE))
    assert found == [(0, 200, [2, 5], {2: 1})]


def test_windows_and_samples_take_whole_groups():
    lists = lists_of(*[(0, t, [t // 100, 0]) for t in (100, 200, 300)])
    events = acts(*[(0, t // 100, t + 1, 1) for t in (100, 200, 300)])
    groups = groups_of_lists(lists, events, ALL_THERE)
    assert described(groups.between(200, 300)) == [(0, 200, [0, 2], {2: 1})]
    assert described(groups.between(400, 500)) == []
    some = described(groups.sample(2, np.array([0.9, 0.1, 0.5])[: len(groups)]))
    assert len(some) == 2
    assert all(group in described(groups) for group in some)
    assert described(groups.sample(9, np.zeros(len(groups)))) == described(groups)


class Recorder:
    """A stage that writes down which history it was asked with."""

    signal_columns = ("als.score",)

    def __init__(self):
        self.seen = {}

    def signals_for(self, history, items, now, blocked):
        self.seen[now] = (history.item.tolist(), int(blocked.sum()))
        return {"als.score": items.astype(np.float32)}


def test_a_list_knows_only_what_was_strictly_before_it():
    """Neither its own clicks, nor what happened in its very moment, nor what came later."""
    events = acts((0, 1, 50, 1), (0, 3, 100, 1), (0, 2, 110, 1), (0, 4, 500, 1))
    groups = groups_of_lists(lists_of((0, 100, [5, 2, 3])), events, ALL_THERE)
    stage = Recorder()
    read = history_reader(events.histories(), groups.moments)
    table = collect_shown(groups, read, stage, ALL_THERE, workers=1)
    assert stage.seen == {100: ([1], 0)}
    assert table.items.tolist() == [2, 3, 5]
    assert table.grade.tolist() == [1, 1, 0]
    assert table.signals["als.score"].tolist() == [2, 3, 5]


def test_signals_are_those_of_items_given_to_be_ranked(fixed):
    """Ranks are places in what recall would list, and what the user had before is not taken out."""
    stage = CandidateGenerator({"als": fixed("als", [7, 2, 5, 1], [9, 8, 7, 6])}, depth=3, limit=2)
    events = acts((0, 2, 50, 1), (0, 5, 110, 1))
    groups = groups_of_lists(lists_of((0, 100, [1, 5, 2])), events, ALL_THERE)
    read = history_reader(events.histories(), groups.moments)
    table = collect_shown(groups, read, stage, ALL_THERE, workers=1)
    assert table.items.tolist() == [1, 2, 5]
    np.testing.assert_array_equal(table.signals["als.score"], [6, 8, 7])
    # Item 1 lies beyond the depth.
    np.testing.assert_array_equal(table.signals["als.rank"], [np.nan, 2, 3])
    given = stage.signals_for(read(0), groups.items, 100, ALL_THERE)
    for name, values in given.items():
        np.testing.assert_array_equal(table.signals[name], values)


@pytest.fixture
def ranking():
    """A moment of recall at the cut 50, and two lists in its window with the same item taken."""
    items = np.array([2, 5, 2, 5, 2, 5], np.int32)
    grade = np.array([1, 0, 1, 0, 1, 0], np.int8)
    moments = Truth(
        np.arange(4), items[::2], grade[::2], np.zeros(3, np.int32), np.array([50, 100, 200])
    )
    table = CandidateTable(np.array([0, 2, 4, 6]), items, {}, grade)
    return RankingData(
        moments, moments.user.astype(np.uint64), table, None, None, np.array([False, True, True])
    )


def test_a_label_of_a_list_weighs_by_its_place_in_that_very_list(ranking):
    lists = lists_of((0, 100, [5, 2]), (0, 200, [2, 5]))
    events = acts((0, 2, 110, 1), (0, 2, 210, 1))
    bias = PositionBias([1.0, 0.5], [1.0, 0.5], [1.0, 0.5], "swaps")
    inputs = SimpleNamespace(windows=SimpleNamespace(label_end={50: 300}.__getitem__))
    weight = position_weights._of_rows(inputs, ranking, lists, events, bias)
    # The moment of recall takes the first list of its window in which the item was acted on.
    assert weight.tolist() == [2, 1, 2, 1, 1, 1]


def test_the_linear_part_learns_from_recalls_groups_only():
    """Shown lists that say the contrary change nothing in it."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60 * 4, 1)).astype(np.float32)
    grade = np.zeros(len(x), np.int8)
    for g in range(60):
        rows = slice(4 * g, 4 * g + 4)
        best = x[rows, 0].argmax() if g < 30 else x[rows, 0].argmin()
        grade[4 * g + best] = 1
    shown = np.arange(60) >= 30
    groups = Groups(
        x, grade, np.arange(0, 241, 4), np.arange(60, dtype=np.int32), np.ones(60, np.int32),
        shown=shown,
    )  # fmt: skip
    assert groups.take(np.array([29, 30])).shown.tolist() == [False, True]
    assert len(groups.of_recall()) == 30
    ranker = fit_ranker(groups, ["taste"], RankerConfig(), seed=1, workers=1)
    assert ranker.score(np.array([[1.0], [0.0]], np.float32)).argmax() == 0


def test_where_nothing_but_lists_is_left_the_linear_part_learns_from_them():
    groups = Groups(
        np.zeros((2, 1), np.float32), np.array([1, 0], np.int8), np.array([0, 2]),
        np.zeros(1, np.int32), np.ones(1, np.int32), shown=np.array([True]),
    )  # fmt: skip
    assert groups.of_recall() is groups


def test_a_ranker_is_validated_on_recalls_groups():
    groups = Groups(
        np.zeros((4, 1), np.float32), np.array([1, 0, 0, 1], np.int8), np.array([0, 2, 4]),
        np.arange(2, dtype=np.int32), np.ones(2, np.int32), shown=np.array([False, True]),
    )  # fmt: skip
    assert ndcg(groups, np.array([2.0, 1.0, 2.0, 1.0])) == 1
    assert ndcg(groups, np.array([1.0, 2.0, 1.0, 2.0])) == pytest.approx(1 / np.log2(3))
    assert ndcg(groups.take(np.array([1])), np.array([1.0, 2.0])) == 1


def test_shown_lists_do_not_change_who_validates_nor_the_linear_part():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80 * 3, 2)).astype(np.float32)
    grade = np.tile(np.array([1, 0, 0], np.int8), 80)
    user = np.r_[rng.integers(0, 20, 40), rng.integers(10, 40, 40)].astype(np.int32)
    both = Groups(
        x, grade, np.arange(0, 241, 3), user, np.ones(80, np.int32), shown=np.arange(80) >= 40
    )
    recall_only = replace(both.take(np.arange(40)), shown=None)
    folds = _folds(both, 1)
    assert folds[:40].tolist() == _folds(recall_only, 1).tolist()
    assert (folds[user >= 20] == -1).all()
    found = [
        fit_ranker(groups, ["a", "b"], RankerConfig(), seed=1, workers=1).linear.score(x)
        for groups in (both, recall_only)
    ]
    np.testing.assert_array_equal(*found)


def test_lists_that_say_the_contrary_are_not_kept():
    """The ranker is then the one of recall's groups, tree for tree."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300 * 4, 1)).astype(np.float32)
    rows = np.where(np.arange(300)[:, None] < 150, x.reshape(300, 4), -x.reshape(300, 4))
    grade = (rows == rows.max(axis=1, keepdims=True)).astype(np.int8).ravel()
    both = Groups(
        x, grade, np.arange(0, 1201, 4), np.arange(300, dtype=np.int32), np.ones(300, np.int32),
        shown=np.arange(300) >= 150,
    )  # fmt: skip
    recall_only = replace(both.take(np.arange(150)), shown=None)
    settings = RankerConfig(trees=5, seeds=1)
    found = [fit_ranker(g, ["taste"], settings, seed=1, workers=1) for g in (both, recall_only)]
    assert not found[0].facts["shown lists kept"]
    assert "shown lists" not in found[1].facts
    np.testing.assert_array_equal(found[0].score(x), found[1].score(x))
