"""The head's closed-form start."""

from dataclasses import replace

import numpy as np

from recsys.training.finetune import head_init
from recsys.training.finetune.head_init import co_actions, linear_start


def test_pairs_are_weighted_by_distance(interactions_of):
    histories = interactions_of([0, 0, 0], [5, 2, 7]).histories()
    pairs = co_actions(histories, 10).toarray()
    assert pairs[5, 2] == pairs[2, 5] == pairs[2, 7] == 1.0
    np.testing.assert_allclose(pairs[5, 7], 0.8)
    assert pairs.sum() == 2 * (1 + 1 + 0.8)


def test_users_and_dislikes_do_not_mix(interactions_of):
    events = interactions_of([0, 1, 0, 1], [5, 2, 7, 3])
    grade = np.array([1, 1, -1, 1], np.int8)
    pairs = co_actions(replace(events, grade=grade).histories(), 10).toarray()
    assert set(zip(*np.nonzero(pairs), strict=True)) == {(2, 3), (3, 2)}


def test_items_acted_on_together_lie_together(behaviour):
    """Kind is a faint part of random vectors; the start makes it the strongest."""
    rng = np.random.default_rng(0)
    kind = np.arange(64) % 8
    vectors = rng.normal(size=(64, 12)) + 0.7 * rng.normal(size=(8, 12))[kind]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def margin(points):
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
        near = points @ points.T
        same = (kind[:, None] == kind) & ~np.eye(64, dtype=bool)
        return near[same].mean() - near[kind[:, None] != kind].mean()

    head = linear_start(vectors, np.arange(64), behaviour.histories())
    assert head.dtype == np.float32
    assert margin(vectors @ head.T) > 1.5 * margin(vectors)


def test_without_pairs_there_is_no_start(interactions_of):
    events = interactions_of([0, 1], [5, 2])
    assert linear_start(np.eye(10, dtype=np.float32), np.arange(10), events.histories()) is None


def test_items_without_an_event_make_no_difference(behaviour, monkeypatch):
    """Only items with events are given, and in chunks: the same start as over the whole catalogue."""
    histories = behaviour.histories()
    items = np.unique(histories.events.item).astype(np.int64)
    wide = np.random.default_rng(0).normal(size=(len(items) + 50, 12)).astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    whole = linear_start(wide, np.arange(len(wide)), histories)
    monkeypatch.setattr(head_init, "CHUNK", 7)
    np.testing.assert_allclose(
        linear_start(wide[items], items, histories), whole, rtol=1e-4, atol=1e-5
    )
