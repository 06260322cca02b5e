"""LoRA: a low-rank update beside frozen products, folded into them when the fit is over.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022: y = xW + (α/r) xAB, where W
stays, A [in, r] begins at random and B [r, out] at zero, so that the model begins as it was.
"""

# mypy: disable-error-code="misc"
# PyTorch is checked as Any: its classes carry no types here.

import torch
from torch import Tensor, nn

from recsys.encoder.torch_model import ItemEncoder

RANK = 16
"""Of the updates (the paper uses 4 to 64)."""
STRENGTH = 2.0
"""α over r: what an update counts for (usual)."""
ATTENTION = (
    "query",
    "key",
    "value",
    "q_lin",
    "k_lin",
    "v_lin",
    "Wqkv",
    "q_proj",
    "k_proj",
    "v_proj",
)
"""Names of attention's products in the architectures of transformers; all products where none is there."""


class LowRank(nn.Module):
    """A frozen product with an update of a low rank; [.., in] → [.., out]."""

    def __init__(self, base: nn.Linear, rank: int = RANK) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        rank = min(rank, base.in_features, base.out_features)
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.down = nn.Parameter(torch.empty(rank, base.in_features, **like))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        update = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        return self.base(x) + STRENGTH * update

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def merged(self) -> nn.Linear:
        """The product with the update folded in."""
        self.base.weight += STRENGTH * self.up @ self.down
        return self.base


def add_low_rank(encoder: ItemEncoder) -> None:
    """Put updates beside attention's products; nothing else of the backbone is tuned."""
    encoder.backbone.requires_grad_(False)
    products = {n: m for n, m in encoder.backbone.named_modules() if isinstance(m, nn.Linear)}
    wanted = {n: m for n, m in products.items() if n.rsplit(".", 1)[-1] in ATTENTION}
    for name, product in (wanted or products).items():
        _replace(encoder, name, LowRank(product))


def merge_low_rank(encoder: ItemEncoder) -> None:
    """Fold all updates into the weights they belong to, in place."""
    for name, module in list(encoder.backbone.named_modules()):
        if isinstance(module, LowRank):
            _replace(encoder, name, module.merged())


def _replace(encoder: ItemEncoder, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(encoder.backbone.get_submodule(parent), own, module)
