"""The head's closed-form start."""

from dataclasses import replace

import numpy as np

from training.finetune.start import co_actions, linear_start


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

    head = linear_start(vectors, behaviour.histories())
    assert head.dtype == np.float32
    assert margin(vectors @ head.T) > 1.5 * margin(vectors)


def test_without_pairs_there_is_no_start(interactions_of):
    events = interactions_of([0, 1], [5, 2])
    assert linear_start(np.eye(10, dtype=np.float32), events.histories()) is None
