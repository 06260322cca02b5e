"""Without a GPU: every module, optimiser and tensor of a fit follows the device it is told.

`pretended_device.py` is a device that is not there; an operation on a tensor that was left behind fails.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.encoder.device import on_device
from recsys.encoder.tokens import TextTokenizer
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.retrieval.sequence.source import SequenceSource
from recsys.retrieval.source_params import resolved
from recsys.training.finetune.distil import distil
from recsys.training.finetune.low_rank import add_low_rank
from recsys.training.sources import sequence
from recsys.training.sources.sequence import HeldOut, Negatives
from recsys.training.sources.sequence_model import SequenceModel


def _beside(name):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pretended = _beside("pretended_device")


@pytest.fixture
def there(monkeypatch):
    """The pretended device; matrix products in bfloat16 are left to a real one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with on_device("cuda"), pretended.pretended_device(monkeypatch) as device:
        yield device


def test_a_tensor_left_behind_is_caught(there):
    linear = torch.nn.Linear(4, 2).to(there)
    assert linear.weight.device.type == "cuda"
    assert linear(torch.ones(3, 4).to(there)).shape == (3, 2)
    with pytest.raises(AssertionError, match="not on the device"):
        linear(torch.ones(3, 4))
    with pytest.raises(TypeError, match="no numpy array"):
        torch.ones(3, device=there).numpy()


@pytest.mark.parametrize("negatives", [16, 0])
def test_the_sequence_model_follows(world, there, negatives):
    events, inputs = world
    params = resolved(
        "sequence", SequenceSource.Params, {"width": 8, "negatives": negatives, "id_dropout": 0.2}
    )
    draw = np.random.default_rng(0)
    counts = np.bincount(events.item, minlength=40).astype(np.int32)
    model = SequenceModel(counts, inputs.vectors, params, 40).to(there)
    assert all(tensor.device.type == "cuda" for tensor in model.state_dict().values())
    before = model.exported()["targets"]
    rows = sequence.Sequences.of(sequence.positive(events), 20, 5.0)
    held = HeldOut(events.item[:8].reshape(2, 4), np.array([3, 5]))
    sequence.train(model, rows, Negatives(counts, negatives, draw), 0.1, params, draw, held)
    after = model.exported()["targets"]
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)


def test_encoding_and_distillation_follow(tiny_model, texts, there):
    tokenizer = TextTokenizer.open(tiny_model, 16)
    tokens, _ = tokenizer.all_of(texts)
    student = ItemEncoder.open(tiny_model)
    add_low_rank(student)
    rows = [tokens[row] for row in range(len(tokens))]
    wanted = encode_with_torch(ItemEncoder.open(tiny_model), rows, tokenizer.pad, there)
    assert np.isfinite(wanted).all()
    found = distil(student, tokens, tokenizer.pad, wanted, there, seconds=None, seed=1)
    assert found.steps > 0
    assert all(tensor.device.type == "cuda" for tensor in found.encoder.state_dict().values())
