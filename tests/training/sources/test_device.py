"""The sequence model follows its device: nothing is left on the processor's side.

A GPU is not needed to see it (`elsewhere`).
"""

import numpy as np
import pytest
import torch

from recsys.training.sources import sequence
from recsys.training.sources.sequence import HeldOut, Negatives, Sequences
from recsys.training.sources.sequence_model import SequenceModel

N_ITEMS, LENGTH = 30, 8
PARAMS = {
    "width": 16, "length": LENGTH, "heads": 2, "blocks": 1, "dropout": 0.1, "id_dropout": 0.2,
    "learning_rate": 0.01, "weight_decay": 0.01, "negatives": 20, "epochs": 2.0,
}  # fmt: skip


@pytest.fixture
def parts(interactions_of):
    users = np.repeat(np.arange(300), 4)
    events = interactions_of(users.tolist(), (np.arange(len(users)) * 7 % N_ITEMS).tolist())
    counts = np.bincount(events.item, minlength=N_ITEMS).astype(np.int32)
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(N_ITEMS, 12)).astype(np.float32)
    torch.manual_seed(0)
    model = SequenceModel(counts, vectors, PARAMS, N_ITEMS)
    held = HeldOut(events.item[:8].reshape(2, 4), np.array([3, 5]))
    return model, Sequences.of(events, LENGTH, 1.0), Negatives(counts, 20, draw), draw, held


def test_every_tensor_of_the_training_follows_the_models_device(parts, elsewhere):
    model, sequences, negatives, draw, held = parts
    before = model.id.weight.detach().clone()
    with elsewhere():
        sequence.train(model, sequences, negatives, 1.0, PARAMS, draw, held)
        exported = model.exported()
    assert not torch.equal(before, model.id.weight)
    assert np.isfinite(exported["targets"]).all()


def test_an_operation_on_what_was_not_moved_is_seen(elsewhere):
    weights = torch.ones(3)
    with elsewhere():
        there = torch.from_numpy(np.ones(3, np.float32))
        with pytest.raises(AssertionError, match="not on the model's device"):
            there * weights
        with pytest.raises(AssertionError, match="not on the model's device"):
            there.float() + weights
        with pytest.raises(AssertionError, match="not on the model's device"):
            there.to(torch.float32) + weights
        with pytest.raises(RuntimeError, match="meta"):
            weights + torch.zeros(3)
        assert ((there + there).to("cpu") * weights).sum() == 6
        with pytest.raises(AssertionError, match="not on the model's device"):
            weights + weights.cpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_processor_finds(parts):
    model, sequences, negatives, draw, held = parts
    model.to("cuda")
    sequence.train(model, sequences, negatives, 4.0, PARAMS, draw, held)
    there = model.found(held.item, held.target)
    assert model.to("cpu").found(held.item, held.target) == pytest.approx(there, abs=1e-4)
