"""Simple baselines: as of a cut, never what the user has, ties by item."""

import numpy as np

from recsys.evaluation import baselines
from recsys.evaluation.lists import PastItems
from recsys.features.interactions import DAY, Interactions


def events(*rows: tuple[int, int, int, float]) -> Interactions:
    """(user, item, day, weight) in time order."""
    user, item, day, weight = (np.array(c) for c in zip(*rows, strict=True))
    n = len(rows)
    return Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.zeros(n, np.int16),
        day.astype(np.int64) * DAY,
        np.full(n, np.nan, np.float32),
        weight.astype(np.float32),
        np.sign(weight).astype(np.int8),
        np.arange(n),
        np.array([f"u{i}" for i in range(user.max() + 1)], object),
        ("click",),
        6,
    )


PAST = events(
    (0, 1, 1, 1),
    (0, 1, 2, 1),
    (1, 1, 3, 1),
    (1, 2, 4, 1),
    (2, 2, 5, 1),
    (2, 3, 9, 1),
    (0, 4, 9, -1),
)
NOBODY = PastItems(np.array([0, 0]), np.empty(0, np.int32))
SEEN = PastItems(np.array([0, 1, 1]), np.array([1], np.int32))


def test_popularity_counts_users_who_did_not_dislike() -> None:
    assert baselines.popularity_of(PAST, 6).tolist() == [0, 2, 2, 1, 0, 0]


def test_popular_ties_by_item_and_leaves_out_the_seen_and_the_unknown() -> None:
    found = baselines.listed("popularity", baselines.popularity_of(PAST, 6), SEEN, 4)
    assert found.items.tolist() == [[2, 3, -1, -1], [1, 2, 3, -1]]
    assert found.scores[1, :3].tolist() == [2, 2, 1]
    assert np.isneginf(found.scores[0, 2:]).all()


def test_only_offered_items_are_listed() -> None:
    offered = np.array([1, 0, 1, 1, 1, 1], bool)
    found = baselines.listed("popularity", baselines.popularity_of(PAST, 6), NOBODY, 3, offered)
    assert found.items.tolist() == [[2, 3, -1]]


def test_recent_popularity_halves_with_age() -> None:
    score = baselines.recent_popularity(PAST, 6, 10 * DAY, half_life_days=1.0)
    found = baselines.listed("recent popularity", score, NOBODY, 3)
    assert found.items.tolist() == [[3, 2, 1]]
    np.testing.assert_allclose(
        found.scores[0], [2.0**-1, 2.0**-6 + 2.0**-5, 2.0**-9 + 2.0**-8 + 2.0**-7], rtol=1e-6
    )


def test_newest_by_first_event_or_told_date_never_from_the_future() -> None:
    now = 10 * DAY
    by_event = baselines.listed("most recent", baselines.newness(PAST, 6, now), NOBODY, 4)
    assert by_event.items.tolist() == [[3, 4, 2, 1]]
    told = np.array([8, 0, 0, 0, 0, 11], np.int64) * DAY
    by_date = baselines.listed("most recent", baselines.newness(PAST, 6, now, told), NOBODY, 5)
    assert by_date.items.tolist() == [[3, 4, 0, 2, 1]]
