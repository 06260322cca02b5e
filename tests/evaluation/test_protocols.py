"""Leave-last-out and impressions, by hand."""

from dataclasses import replace

import numpy as np

from recsys.evaluation import metrics
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.query_sets import (
    grades_of_shown,
    leave_last_out,
    of_impressions,
    ranked_candidates,
)
from recsys.evaluation.segments import by_event_type
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions


def events(*rows: tuple[int, int, int, int]) -> Interactions:
    """(user, item, time, grade) in order of time."""
    user, item, time, grade = (np.array(c) for c in zip(*rows, strict=True))
    n = len(rows)
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.zeros(n, np.int16),
        time.astype(np.int64),
        np.full(n, np.nan, np.float32),
        np.ones(n, np.float32),
        grade.astype(np.int8),
        np.arange(n),
        np.array(["a", "b", "c", "d", "e"], object),
        ("click",),
        9,
    )


def test_leave_last_out_asks_for_the_last_relevant_item() -> None:
    found = leave_last_out(
        events(
            (0, 1, 10, 1), (0, 2, 20, 0), (0, 3, 30, 2), (0, 4, 40, 0),
            (1, 5, 10, 1),  # no past
            (2, 6, 10, 1), (2, 6, 20, 1),  # acted on before
            (3, 7, 30, 1), (3, 8, 30, 1),  # nothing strictly before
            (4, 1, 5, 0), (4, 1, 6, 0), (4, 2, 9, 1),
        )
    )  # fmt: skip
    assert found.truth.user.tolist() == [0, 4]
    assert found.truth.items.tolist() == [3, 2]
    assert found.truth.grades.tolist() == [2, 1]
    assert found.truth.time.tolist() == [30, 9]
    assert found.past.offsets.tolist() == [0, 2, 3]
    assert found.past.items.tolist() == [1, 2, 1]


def test_no_relevant_event_asks_nothing() -> None:
    assert leave_last_out(events((0, 1, 10, 0))).truth.n_groups == 0


def test_impressions_are_ranked_among_what_was_shown() -> None:
    offsets, items = np.array([0, 3, 5]), np.array([4, 5, 6, 4, 7], np.int32)
    lists = Impressions.of(offsets, items, np.array([1, 2]), user=np.array([8, 9]))
    truth = of_impressions(lists, np.array([0, 0, 1, 2, 0]))
    assert truth.offsets.tolist() == [0, 1, 2]
    assert truth.items.tolist() == [6, 4]
    ours = ranked_candidates("ours", lists, np.array([0.1, 0.5, 0.5, 0.2, 0.9]), 3)
    assert ours.items.tolist() == [[5, 6, 4], [7, 4, -1]]
    assert isinstance(ours, RankedLists)
    np.testing.assert_allclose(metrics.mrr(metrics.match(truth, ours)), [1 / 2, 1 / 2])
    np.testing.assert_allclose(metrics.auc(metrics.match(truth, ours)), [(0.5 + 1) / 2, 0])
    assert ranked_candidates("ours", lists, np.arange(5.0), 1).items.tolist() == [[6], [7]]


def test_what_followed_a_shown_item() -> None:
    past = events(
        (0, 4, 5, 3), (0, 4, 10, 1), (0, 5, 12, 0), (0, 6, 29, 2), (0, 7, 30, 1), (1, 4, 15, 2)
    )  # fmt: skip
    offsets = np.array([0, 5, 6, 7])
    items = np.array([4, 5, 6, 7, 8, 4, 4], np.int32)
    lists = Impressions.of(offsets, items, np.array([10, 10, 16]), user=np.array([0, 1, 1]))
    found = grades_of_shown(lists, past, within=20)
    # At the moment itself counts, the end of the window does not; grade 0 is no action.
    assert found.tolist() == [1, 0, 2, 0, 0, 2, 0]


def test_what_followed_equals_a_search_row_by_row() -> None:
    rng = np.random.default_rng(1)
    rows = sorted(
        (
            (int(u), int(i), int(t), int(g))
            for u, i, t, g in rng.integers(0, [5, 9, 50, 3], (200, 4))
        ),
        key=lambda row: row[2],
    )
    past, lists = events(*rows), 30
    user, time = rng.integers(0, 5, lists), rng.integers(0, 50, lists)
    items = rng.integers(0, 9, 4 * lists).astype(np.int32)
    shown = Impressions.of(np.arange(0, 4 * lists + 1, 4), items, time, user=user)
    found = grades_of_shown(shown, past, within=7)
    for n, item in enumerate(items):
        who, at = user[n // 4], time[n // 4]
        others = [m for m in range(len(items)) if (user[m // 4], items[m]) == (who, item)]
        later = [time[m // 4] for m in others if time[m // 4] > at]
        end = min([at + 7, *later])
        if any(time[m // 4] == at and m < n for m in others):
            end = at  # shown twice at once: the first place takes what follows
        hits = [g for u, i, t, g in rows if (u, i) == (who, item) and at <= t < end and g > 0]
        assert bool(found[n]) == bool(hits)


def test_relevant_items_by_the_type_of_their_event() -> None:
    past = events((0, 4, 1, 1), (0, 4, 2, 3), (1, 4, 3, 1), (1, 5, 4, 1))
    mixed = replace(past, kind=np.array([0, 1, 0, 0], np.int16), kinds=("click", "purchase"))
    truth = Truth.of(
        np.array([0, 1, 1]), np.array([4, 4, 9]), np.ones(3, int), np.array([0, 1]), np.zeros(2)
    )
    found = by_event_type(truth, mixed)
    assert found is not None
    # The purchase counts for more than the click; item 9 has no event.
    names = [None if c < 0 else found.labels[c] for c in found.code]
    assert names == ["purchase", "click", None]
    assert by_event_type(truth, past) is None
