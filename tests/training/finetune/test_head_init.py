"""The head's closed-form start."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.training.finetune import head_init
from recsys.training.finetune.head_init import co_actions, linear_starts


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

    heads = dict(linear_starts(vectors, np.arange(64), behaviour.histories()))
    assert list(heads) == ["pairs", "information", "both"]
    for head in heads.values():
        assert head.dtype == np.float32
        assert margin(vectors @ head.T) > 1.5 * margin(vectors)


def test_information_is_what_pairs_tell_beyond_their_frequency(interactions_of):
    # 0 and 1 come together thrice, 0 and 2 once: 2 never comes with anything else.
    events = interactions_of([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 1, 0, 1, 0, 1, 0, 2, 3, 1])
    told = head_init._information(co_actions(events.histories(), 4)).toarray()
    degree = np.array([4, 4, 1, 1])  # of 10 in all
    assert told[0, 1] == pytest.approx(np.log(3 * 10 / (degree[0] * degree[1])))
    assert told[0, 2] == pytest.approx(np.log(1 * 10 / (degree[0] * degree[2])))
    assert told[1, 2] == 0.0
    np.testing.assert_allclose(told, told.T)


def test_both_targets_together_are_the_sum_of_their_similarities(behaviour):
    vectors = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    heads = dict(linear_starts(vectors, np.arange(64), behaviour.histories()))
    summed = sum(heads[n].T @ heads[n] for n in ("pairs", "information"))
    both = heads["both"].T @ heads["both"]
    np.testing.assert_allclose(both / np.trace(both), summed / np.trace(summed), atol=1e-5)


def test_without_pairs_there_is_no_start(interactions_of):
    events = interactions_of([0, 1], [5, 2])
    eye = np.eye(10, dtype=np.float32)
    assert list(linear_starts(eye, np.arange(10), events.histories())) == []


def test_items_without_an_event_make_no_difference(behaviour, monkeypatch):
    """Only items with events are given, and in chunks: the same start as over the whole catalogue."""
    histories = behaviour.histories()
    items = np.unique(histories.events.item).astype(np.int64)
    wide = np.random.default_rng(0).normal(size=(len(items) + 50, 12)).astype(np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    whole = dict(linear_starts(wide, np.arange(len(wide)), histories))
    monkeypatch.setattr(head_init, "CHUNK", 7)
    for name, head in linear_starts(wide[items], items, histories):
        np.testing.assert_allclose(head, whole[name], rtol=1e-4, atol=1e-5)
