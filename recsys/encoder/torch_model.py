"""The encoder in PyTorch: backbone, pooling, head, L2 norm. Used for tuning and as fallback.

Shapes: B texts, L tokens, H hidden units of the backbone, d dimensions of a vector (d = H).
"""

# mypy: disable-error-code="misc,untyped-decorator,no-any-return"
# PyTorch is checked as Any: its classes and decorators carry no types here.

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.device import computes_in_half
from recsys.encoder.pretrained import (
    CONFIG,
    WEIGHTS,
    pooling_of,
    read_json,
)
from recsys.encoder.tokens import TOKENS_AT_ONCE, batches_by_length, pad_tokens
from recsys.features.interactions import Floats

HEAD_FOLDER = "2_Dense"
_HEAD_KEY = "linear.weight"


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector per text. hidden [B, L, H], mask [B, L] (1 = token) → [B, H]."""
    if pooling == "cls":
        return hidden[:, 0]
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class ItemEncoder(nn.Module):
    """Text → vector: backbone, pooling, a linear head that starts as the identity, L2 norm."""

    def __init__(self, backbone: nn.Module, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        hidden = int(backbone.config.hidden_size)
        self.head = nn.Linear(hidden, hidden, bias=False)
        nn.init.eye_(self.head.weight)

    @classmethod
    def open(cls, folder: Path) -> "ItemEncoder":
        """Load a checked model folder, in evaluation mode, in float32.

        Raises:
            RecsysError: the configuration names no architecture that transformers knows.
        """
        from transformers import AutoModel
        from transformers.utils import logging as chatter

        # What transformers prints (bars, reports of unused pooler weights) is no news to the caller.
        chatter.set_verbosity_error()
        chatter.disable_progress_bar()
        try:
            backbone = AutoModel.from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, **_without_pooler(folder)
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise RecsysError(
                "the encoder cannot be loaded",
                where=str(folder),
                found=str(error).splitlines()[0][:300],
                expected="an encoder model in Hugging Face layout",
                fix="check config.json against the weights, or choose another model",
            ) from None
        encoder = cls(backbone, pooling_of(folder))
        head = folder / HEAD_FOLDER / WEIGHTS
        if head.is_file():
            encoder.head.weight.data.copy_(load_file(head)[_HEAD_KEY])
        return encoder.eval()

    @property
    def dimension(self) -> int:
        return int(self.head.out_features)

    @property
    def layers(self) -> nn.ModuleList | None:
        """The transformer layers, bottom first; None for an architecture we do not know."""
        for path in (("encoder", "layer"), ("layers",), ("transformer", "layer")):
            module: Any = self.backbone
            for name in path:
                module = getattr(module, name, None)
            if isinstance(module, nn.ModuleList):
                return module
        return None

    @property
    def can_split(self) -> bool:
        """Whether lower layers can run apart from upper ones (BERT's family)."""
        return (
            hasattr(self.backbone, "embeddings")
            and hasattr(self.backbone, "encoder")
            and isinstance(getattr(self.backbone.encoder, "layer", None), nn.ModuleList)
            and getattr(self.backbone.config, "model_type", "")
            in ("bert", "roberta", "xlm-roberta", "camembert", "electra")
        )

    def lower(self, ids: Tensor, mask: Tensor, below: int) -> Tensor:
        """Hidden states after the first `below` layers. ids, mask [B, L] → [B, L, H]."""
        backbone: Any = self.backbone
        hidden = backbone.embeddings(input_ids=ids)
        if hasattr(backbone, "embeddings_project"):
            hidden = backbone.embeddings_project(hidden)
        return self._run(backbone.encoder.layer[:below], hidden, mask)

    def upper(self, hidden: Tensor, mask: Tensor, below: int) -> Tensor:
        """Pooled states from the layers above `below`. hidden [B, L, H] → [B, H]."""
        backbone: Any = self.backbone
        top = self._run(backbone.encoder.layer[below:], hidden, mask)
        return pool(top, mask, self.pooling)

    @staticmethod
    def _run(layers: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run layers over padded states; the padding of mask [B, L] is never attended to."""
        bias = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
        bias = bias.masked_fill(mask == 0, torch.finfo(hidden.dtype).min)[:, None, None, :]
        for layer in layers:
            out = layer(hidden, bias)
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    def pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors before the head. ids, mask [B, L] → [B, H]."""
        if self.can_split:
            return self.upper(self.lower(ids, mask, 0), mask, 0)
        out = self.backbone(input_ids=ids, attention_mask=mask)
        return pool(out.last_hidden_state, mask, self.pooling)

    def finish(self, pooled: Tensor) -> Tensor:
        """Head and L2 norm. [B, H] → [B, d]."""
        return nn.functional.normalize(self.head(pooled).float(), dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """ids, mask int64 [B, L] → unit vectors [B, d]."""
        return self.finish(self.pooled(input_ids, attention_mask))

    def save(self, folder: Path) -> None:
        """Write backbone and head in Hugging Face and sentence-transformers layout."""
        self.backbone.save_pretrained(str(folder))
        dense = folder / HEAD_FOLDER
        dense.mkdir()
        save_file({_HEAD_KEY: self.head.weight.detach().cpu().contiguous()}, dense / WEIGHTS)


def _without_pooler(folder: Path) -> dict[str, Any]:
    """BERT's pooler is not used; leaving it out keeps it from being trained or stored."""
    family = read_json(folder / CONFIG).get("model_type")
    known = ("bert", "roberta", "xlm-roberta", "camembert")
    return {"add_pooling_layer": False} if family in known else {}


@torch.inference_mode()
def encode_with_torch(
    encoder: ItemEncoder,
    tokens: Sequence[Sequence[int]],
    pad: int,
    device: torch.device,
    budget: int = TOKENS_AT_ONCE,
) -> Floats:
    """Unit vectors float32 [n, d] of n token sequences.

    Args:
        encoder: moved to `device`.
        tokens: [n] token ids of each text.
        pad: id of the padding token.
        device: that computes.
        budget: tokens that go through the model together, padding included.
    """
    lengths = np.array([len(t) for t in tokens])
    vectors = torch.empty(len(tokens), encoder.dimension, device=device)
    encoder.to(device).eval()
    autocast = computes_in_half(device)
    for rows in batches_by_length(lengths, budget * (128 if device.type == "cuda" else 1)):
        ids, mask = (_to(array, device) for array in pad_tokens([tokens[r] for r in rows], pad))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            vectors[torch.from_numpy(rows).to(device)] = encoder(ids, mask).float()
    # Read once at the end: until then the host only queues work for a GPU.
    found: Floats = vectors.cpu().numpy()
    return found


def _to(array: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """The array on a device; to a GPU from pinned memory, so that the copy runs beside its work."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
