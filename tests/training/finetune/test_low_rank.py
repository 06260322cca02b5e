"""LoRA: begins as the model was, moves its updates alone, and leaves whole weights behind."""

import pytest
import torch
from torch import nn

from recsys.encoder.pretrained import resolve_model
from recsys.encoder.torch_model import ItemEncoder
from recsys.training.finetune.low_rank import LowRank, add_low_rank, merge_low_rank

IDS = torch.tensor([[2, 20, 21, 3], [2, 22, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.fixture
def encoder(tiny_model):
    torch.manual_seed(1)
    return ItemEncoder.open(resolve_model(str(tiny_model)))


def test_it_begins_as_the_model_was(encoder):
    before = encoder(IDS, MASK)
    add_low_rank(encoder)
    torch.testing.assert_close(encoder(IDS, MASK), before)


def test_only_the_updates_get_a_gradient(encoder):
    add_low_rank(encoder)
    tuned = [name for name, p in encoder.backbone.named_parameters() if p.requires_grad]
    assert len(tuned) == 2 * 3 * 3  # two parts of three products of three layers
    assert all(name.rsplit(".", 1)[1] in ("down", "up") and ".self." in name for name in tuned)


def test_merged_weights_give_the_same_vectors(encoder):
    names = set(encoder.state_dict())
    before = encoder(IDS, MASK)
    add_low_rank(encoder)
    for module in encoder.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.up, std=0.3)
    moved = encoder(IDS, MASK)
    assert not torch.allclose(moved, before, atol=1e-2)
    merge_low_rank(encoder)
    torch.testing.assert_close(encoder(IDS, MASK), moved, atol=1e-5, rtol=1e-4)
    assert set(encoder.state_dict()) == names


def test_a_product_of_few_numbers_has_a_lower_rank():
    update = LowRank(nn.Linear(3, 40), rank=16)
    assert update.down.shape == (3, 3)
    assert update.up.shape == (40, 3)


def test_without_names_of_attention_all_products_are_tuned(encoder):
    encoder.backbone = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)})
    add_low_rank(encoder)
    assert sum(isinstance(m, LowRank) for m in encoder.backbone.modules()) == 2
