"""The fusion that tuning evaluates is the fusion that recall serves."""

import numpy as np
import pytest

from recsys.retrieval.candidates import CandidateGenerator
from recsys.training.sources.fusion import (
    Lists,
    better,
    choose_weights,
    quality_of,
)

LISTS = {
    "a": [np.array([3, 1, 2], np.int32), np.array([5], np.int32)],
    "b": [np.array([1, 4], np.int32), np.array([], np.int32)],
}


def test_quality_by_hand():
    lists = Lists(LISTS, [np.array([4, 2], np.int32), np.array([9], np.int32)], limit=3)
    # weights 1 and 2: item 1 leads (1/62 + 2/61), then 4 (2/62), 3 (1/61), 2 (1/63)
    quality = lists.quality({"a": 1.0, "b": 2.0})
    ideal = 1 / np.log2(2) + 1 / np.log2(3)
    np.testing.assert_allclose(quality.ndcg, [(1 / np.log2(3) + 1 / np.log2(5)) / ideal, 0.0])
    np.testing.assert_allclose(quality.recall, [0.5, 0.0])


def test_a_source_without_weight_finds_nothing():
    lists = Lists(LISTS, [np.array([4], np.int32), np.array([5], np.int32)], limit=3)
    assert lists.quality({"a": 1.0}).recall.tolist() == [0.0, 1.0]


def test_ranks_are_those_of_the_recall_stage(fixed, nobody):
    draw = np.random.default_rng(2)
    listed = {name: draw.permutation(60)[:25].astype(np.int32) for name in "abc"}
    weights = {"a": 1.0, "b": 0.5, "c": 0.25}
    sources = {n: fixed(n, items, np.arange(25, 0, -1)) for n, items in listed.items()}
    stage = CandidateGenerator(sources, 25, 60, weights)
    served = stage.candidates(nobody, 0, np.zeros(60, np.uint8)).items
    for place, item in enumerate(served[:10]):
        one_group = Lists({n: [i] for n, i in listed.items()}, [np.array([item], np.int32)], 60)
        assert one_group.quality(weights).ndcg[0] == pytest.approx(1 / np.log2(place + 2))


def test_the_better_source_gets_the_weight():
    draw = np.random.default_rng(0)
    truth = [np.array([i], np.int32) for i in draw.integers(0, 500, 300)]
    good = [np.r_[draw.permutation(500)[:3], t, draw.permutation(500)[:20]] for t in truth]
    bad = [draw.permutation(500)[:20] for _ in truth]
    listed = {
        "good": [_distinct(g) for g in good],
        "bad": [b.astype(np.int32) for b in bad],
    }
    weights = choose_weights(Lists(listed, truth, 50), {"good": 1.0, "bad": 1.0})
    assert weights["good"] == 1.0
    assert weights["bad"] < 1.0


def _distinct(items):
    return np.array(list(dict.fromkeys(items.tolist())), np.int32)


def test_noise_is_not_better():
    draw = np.random.default_rng(1)
    old = draw.random(400)
    assert not better(old, old)
    assert not better(old + draw.normal(0, 1, 400) * 0.0, old)
    assert better(old + 0.1 + draw.normal(0, 0.01, 400), old)
    assert not better(np.array([1.0]), np.array([0.0]))


def test_ideal_counts_only_what_fits_into_ten():
    quality = quality_of(np.arange(1.0, 13.0), np.zeros(12, np.int64), np.array([12.0]), limit=10)
    assert quality.ndcg[0] == pytest.approx(1.0)
    assert quality.recall[0] == pytest.approx(10 / 12)
