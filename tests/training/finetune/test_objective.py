"""Losses by visible arithmetic, the tower against its compiled twin, and calibration."""

import math

import numpy as np
import pytest
import torch

from recsys.encoder.tower import InterestSource, Tower
from recsys.training.finetune.calibrate import platt
from recsys.training.finetune.examples import make_examples
from recsys.training.finetune.loop import _mask_seen
from recsys.training.finetune.objective import (
    binary,
    candidate_logits,
    own_softmax,
    sampled_softmax,
)
from recsys.training.finetune.tower_model import TensorBatch, UserTower


def test_log_q_takes_popularity_out():
    users, items = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    q = torch.log(torch.tensor([0.8, 0.2]))
    logits = candidate_logits(users, items, torch.tensor(math.log(2.0)), q, 1.0)
    np.testing.assert_allclose(logits.numpy(), [[2 - math.log(0.8), -math.log(0.2)]], rtol=1e-6)
    plain = candidate_logits(users, items, torch.tensor(math.log(2.0)), q, 0.0)
    np.testing.assert_allclose(plain.numpy(), [[2, 0]], rtol=1e-6)


def test_sampled_softmax_is_weighted_cross_entropy():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    loss = sampled_softmax(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    assert float(loss) == pytest.approx((math.log(2) + 3 * math.log(4)) / 4, rel=1e-6)


def test_binary_weighs_negatives_like_the_positive():
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    loss = binary(logits, torch.tensor([0]), torch.tensor([2.0]))
    assert float(loss) == pytest.approx(2 * math.log(2), rel=1e-6)


def test_own_negatives_are_a_choice_of_one_list():
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    vectors = torch.eye(2)
    own = torch.tensor([[1, 1], [0, -1], [-1, -1]])
    loss = own_softmax(
        users,
        vectors,
        torch.tensor([0, 0, 1]),
        own,
        own >= 0,
        torch.tensor(math.log(2.0)),
        torch.tensor([1.0, 3.0, 9.0]),
    )
    # Two negatives at 0 against 2; one at 0 against 0; the third has none and takes no part.
    first, second = math.log(1 + 2 * math.exp(-2)), math.log(2)
    assert float(loss) == pytest.approx((first + 3 * second) / 4, rel=1e-6)


def test_items_of_the_history_are_not_offered():
    candidates = torch.tensor([2, 5, 9])
    history = torch.tensor([[-1, 5, 3], [9, 9, 2]])
    cut = _mask_seen(torch.zeros(2, 3), history, candidates, torch.tensor([0, 2]))
    assert torch.isinf(cut).tolist() == [[False, True, False], [True, False, False]]


def test_the_trained_tower_is_the_served_tower(behaviour):
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(64, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    torch.manual_seed(0)
    model = UserTower(Tower.plain(8, 5, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    batch = split.train.batch(np.arange(20))
    device = torch.device("cpu")
    tensors = TensorBatch(
        batch, torch.from_numpy(batch.item), torch.from_numpy(batch.target), device
    )
    past = torch.from_numpy(vectors)[tensors.item.clamp(min=0)] * (tensors.item >= 0)[..., None]
    users = model(past, tensors).detach().numpy()
    source = InterestSource.of(model.freeze_to((1.0, 0.0)), vectors, 0)
    histories, every = split.train.histories, np.arange(64, dtype=np.int32)
    for i in range(20):
        user = int(np.searchsorted(histories.offsets, split.train.row[i], "right") - 1)
        now = int(histories.events.time[split.train.row[i]])
        scores = source.score(histories.of(user), every, now)[:, 0]
        np.testing.assert_allclose(scores, vectors @ users[i], atol=2e-6)


def test_calibration_recovers_a_sigmoid():
    rng = np.random.default_rng(0)
    score = rng.uniform(-1, 1, 20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-(3 * score - 1)))).astype(float)
    slope, offset = platt(score, label, np.full(20_000, 1 / 20_000))
    assert slope == pytest.approx(3, abs=0.15)
    assert offset == pytest.approx(-1, abs=0.1)


def test_a_score_that_contradicts_the_labels_gets_no_slope():
    score = np.array([0.0, 1.0])
    assert platt(score, np.array([1.0, 0.0]), np.array([0.5, 0.5])) == (0.0, 0.0)
