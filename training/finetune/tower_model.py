"""The user tower in PyTorch, as it is trained; `recsys.encoder.tower` is what it becomes.

Shapes: B examples, N history places, d dimensions.
"""

# mypy: disable-error-code="misc"
# PyTorch is checked as Any: its classes and decorators carry no types here.

import torch
from torch import Tensor, nn

from recsys.encoder.tower import RANK, Tower
from recsys.training.finetune.examples import Batch


class UserTower(nn.Module):
    """Attention over a history's item vectors; starts as the plain decayed mean."""

    def __init__(self, start: Tower) -> None:
        super().__init__()
        d = len(start.project)
        self.query = nn.Parameter(torch.from_numpy(start.query).clone())
        self.key = nn.Parameter(torch.from_numpy(start.key).clone())
        if not start.query.any():
            nn.init.normal_(self.query, std=d**-0.5)
        self.project_change = nn.Parameter(torch.from_numpy(start.project).clone() - torch.eye(d))
        self.kind_bias = nn.Parameter(torch.from_numpy(start.kind_bias).clone())
        self.grade_bias = nn.Parameter(torch.from_numpy(start.grade_bias).clone())
        self.grade_gate = nn.Parameter(torch.from_numpy(start.grade_gate).clone())
        self.position_bias = nn.Parameter(torch.from_numpy(start.position_bias).clone())
        self.age_bias = nn.Parameter(torch.from_numpy(start.age_bias).clone())
        self.weight_slope = nn.Parameter(torch.from_numpy(start.weight_slope).clone())

    def forward(self, past: Tensor, batch: "TensorBatch") -> Tensor:
        """past [B, N, d] (oldest first, zeros where absent) → unit user vectors [B, d]."""
        places = past.shape[1]
        asked = past[:, -1] @ self.query
        logits = torch.einsum("bnd,dr,br->bn", past, self.key, asked) * RANK**-0.5
        logits = (
            logits
            + self.kind_bias[batch.kind]
            + self.grade_bias[batch.grade]
            + self.position_bias[:places].flip(0)
            + self.age_bias[batch.age]
            + self.weight_slope * batch.weight
        )
        logits = logits.masked_fill(batch.item < 0, torch.finfo(logits.dtype).min)
        share = logits.softmax(-1) * self.grade_gate[batch.grade]
        mixed = torch.einsum("bn,bnd->bd", share, past)
        return nn.functional.normalize(mixed + mixed @ self.project_change.T, dim=-1)

    def freeze_to(self, calibration: tuple[float, float]) -> Tower:
        """The tower as arrays."""
        eye = torch.eye(len(self.project_change))
        named = {name: p.detach().cpu() for name, p in self.named_parameters()}
        named["project"] = named.pop("project_change") + eye
        named["calibration"] = torch.tensor(calibration)
        return Tower(
            **{name: tensor.float().contiguous().numpy() for name, tensor in named.items()}
        )


class TensorBatch:
    """A `Batch` on a device, with places in the step's item list for items."""

    def __init__(self, batch: Batch, local: Tensor, target: Tensor, device: torch.device) -> None:
        self.item = local
        self.target = target
        self.kind, self.grade, self.age, self.weight, self.strength = (
            torch.from_numpy(column).to(device)
            for column in (batch.kind, batch.grade, batch.age, batch.weight, batch.strength)
        )
