"""What is trained: the item encoder and the user tower as one module."""

# mypy: disable-error-code="misc"
# PyTorch is checked as Any: its classes carry no types here.

import math

import torch
from torch import nn

from recsys.encoder.torch_model import ItemEncoder
from recsys.training.finetune.tower_model import UserTower


class Learner(nn.Module):
    """Everything that is trained: encoder (backbone and head), user tower, temperature."""

    def __init__(self, encoder: ItemEncoder, tower: UserTower) -> None:
        super().__init__()
        self.encoder = encoder
        self.tower = tower
        self.scale = nn.Parameter(torch.tensor(math.log(20.0)))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Named parameters that get a gradient."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}
