"""The transformer behind the sequence source, as torch trains it.

Shapes: N items, I items with an id embedding, d width, H heads, S sequences of L positions, T
predicted positions, m negatives, B blocks. Imported only by training: it needs torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.interactions import Floats, Ints
from recsys.retrieval.sequence.block_kernels import NORM_EPSILON

ASKED_AT_ONCE = 128
"""Histories that are scored against all items at once."""
INNER = 2
"""Width of a block's inner layer over the model's width."""


class Block(nn.Module):  # type: ignore[misc]
    """Pre-norm causal attention with a learned bias per head and distance, then a ReLU layer."""

    def __init__(self, width: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, NORM_EPSILON)
        self.norm2 = nn.LayerNorm(width, NORM_EPSILON)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, INNER * width)
        self.narrow = nn.Linear(INNER * width, width)
        self.distance = nn.Parameter(torch.zeros(heads, length))
        self.dropout = nn.Dropout(dropout)

    def forward(self, state_SLD: Tensor) -> Tensor:
        s, length, width = state_SLD.shape
        mixed = self.attend(self.norm1(state_SLD)).view(s, length, 3, self.heads, -1)
        query, key, value = (mixed[:, :, k].transpose(1, 2) for k in range(3))
        place = torch.arange(length, device=state_SLD.device)
        gap = place[:, None] - place[None, :]
        bias = F.embedding(gap.clamp(min=0), self.distance.T).permute(2, 0, 1)
        bias = bias.masked_fill(gap < 0, float("-inf"))
        logits = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5 + bias
        out = (self.dropout(logits.softmax(-1)) @ value).transpose(1, 2).reshape(s, length, width)
        state_SLD = state_SLD + self.dropout(self.mix(out))
        inner = torch.relu(self.widen(self.norm2(state_SLD)))
        return state_SLD + self.dropout(self.narrow(inner))


class SequenceModel(nn.Module):  # type: ignore[misc]
    """Items as id embedding plus projected text; blocks; a dot product with every item.

    Args:
        counts: int32[N] positive events per item.
        vectors: float32[N, t] text vectors, or None.
        params: as of `SequenceSource.Params`.
        most_ids: items with an id embedding at most.
    """

    def __init__(
        self, counts: Ints, vectors: Floats | None, params: Mapping[str, float], most_ids: int
    ) -> None:
        super().__init__()
        self.width, self.length = int(params["width"]), int(params["length"])
        self.id_dropout = params["id_dropout"] if vectors is not None else 0.0
        order = np.lexsort((np.arange(len(counts)), -counts))[:most_ids]
        met = np.sort(order[counts[order] > 0])
        # row 0 is the id of items without one: all zeros, never trained
        place = np.zeros(len(counts), np.int64)
        place[met] = np.arange(1, len(met) + 1)
        self.met = met
        self.register_buffer("place", torch.from_numpy(place), persistent=False)
        self.id = nn.Embedding(len(met) + 1, self.width, padding_idx=0)
        nn.init.normal_(self.id.weight, std=0.5 / self.width**0.5)
        popularity = np.log(np.r_[1.0, counts[met]] / max(1, counts.sum())).astype(np.float32)
        self.bias = nn.Parameter(torch.from_numpy(popularity)[:, None].clone())
        with torch.no_grad():
            self.id.weight[0] = 0
        # a copy: the vectors may be mapped from a file, which torch cannot take as they are
        copied = None if vectors is None else torch.from_numpy(np.array(vectors, np.float32))
        self.register_buffer("vectors", copied, persistent=False)
        self.project = (
            None if vectors is None else nn.Linear(vectors.shape[1], self.width, bias=False)
        )
        heads = int(params["heads"])
        self.blocks = nn.ModuleList(
            Block(self.width, heads, self.length, params["dropout"])
            for _ in range(int(params["blocks"]))
        )
        self.norm = nn.LayerNorm(self.width, NORM_EPSILON)
        self.dropout = nn.Dropout(params["dropout"])
        self.half = False
        """Whether the blocks compute in bfloat16 while they are trained."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.bias.device

    def items(self, item: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding float[.., d] and bias float[..] of items (int64[..]); ids drop out in training."""
        place = self.place[item]
        if self.training and self.id_dropout:
            place = place * (torch.rand(place.shape, device=place.device) >= self.id_dropout)
        out = self.id(place)
        if self.project is not None and self.vectors is not None:
            out = out + self.project(self.vectors[item])
        return out, F.embedding(place, self.bias)[..., 0]

    def states(self, embedded_SLD: Tensor) -> Tensor:
        """State after each position, float[S, L, d]; padding is at the end, where nothing looks."""
        half = self.half and self.training
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            state = self.dropout(embedded_SLD)
            for block in self.blocks:
                state = block(state)
            return self.norm(state).to(embedded_SLD.dtype)

    def loss(self, item_SL: Tensor, weight_SL: Tensor, negatives: Any) -> Tensor:
        """Weighted mean softmax loss over all positions that have a next item, against sampled negatives or,
        where `negatives` says so, all items.

        Each distinct item of the batch is embedded once. Rows are read with F.embedding, not by
        indexing: its gradient adds in a fixed order.
        """
        item_SL, weight_SL = item_SL.to(self.device).long(), weight_SL.to(self.device)
        real = item_SL[:, 1:] >= 0
        target_T, weight_T = item_SL[:, 1:][real], weight_SL[:, 1:][real]
        if negatives.number == 0:
            loss_T = self._among_all(item_SL[:, :-1].clamp(min=0), real, target_T)
            return (loss_T * weight_T).sum() / weight_T.sum()
        drawn, expected = negatives.sample()
        drawn_M = torch.from_numpy(drawn).to(self.device)
        read = item_SL[:, :-1].clamp(min=0)
        distinct, row = torch.unique(
            torch.cat([read.reshape(-1), target_T, drawn_M]), return_inverse=True
        )
        table, bias = self.items(distinct)
        at_read, at_target, at_drawn = row.split([read.numel(), len(target_T), len(drawn_M)])
        query_TD = self.states(F.embedding(at_read.view(read.shape), table))[real]
        both = torch.cat([table, bias[:, None]], dim=1)
        wanted_TD, other_MD = F.embedding(at_target, both), F.embedding(at_drawn, both)
        positive_T = (query_TD * wanted_TD[:, :-1]).sum(-1) + wanted_TD[:, -1]
        offset_M = other_MD[:, -1] - torch.from_numpy(expected).to(self.device)
        logits_TM = torch.addmm(offset_M, query_TD, other_MD[:, :-1].T)
        logits_TM = logits_TM.masked_fill(at_drawn[None, :] == at_target[:, None], float("-inf"))
        loss_T = torch.logaddexp(logits_TM.logsumexp(1), positive_T) - positive_T
        return (loss_T * weight_T).sum() / weight_T.sum()

    def _among_all(self, read_SL: Tensor, real_SL: Tensor, target_T: Tensor) -> Tensor:
        """Softmax loss of each target among all items, float[T]."""
        table, bias = self.items(torch.arange(len(self.place), device=self.device))
        query_TD = self.states(F.embedding(read_SL, table))[real_SL]
        return F.cross_entropy(torch.addmm(bias, query_TD, table.T), target_T, reduction="none")

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def found(self, item_VL: npt.NDArray[Any], target_V: npt.NDArray[Any]) -> float:
        """Mean 1 / log2(1 + rank) of what came next among all items; what came before takes part."""
        was_training = self.training
        self.eval()
        tables, biases = self.all_items()
        total = 0.0
        for first in range(0, len(target_V), ASKED_AT_ONCE):
            rows = slice(first, first + ASKED_AT_ONCE)
            item = torch.from_numpy(item_VL[rows]).to(self.device).long()
            wanted = torch.from_numpy(target_V[rows]).to(self.device)
            state = self.states(F.embedding(item.clamp(min=0), tables))
            last = (item >= 0).sum(1) - 1
            query = state[torch.arange(len(item), device=self.device), last]
            score = torch.addmm(biases, query, tables.T)
            own = score.gather(1, wanted[:, None])
            rank = 1 + (score > own).sum(1)
            total += float((1.0 / torch.log2(1.0 + rank)).sum())
        self.train(was_training)
        return total / len(target_V)

    def all_items(self) -> tuple[Tensor, Tensor]:
        """Embedding float[N, d] and bias float[N] of every item."""
        every = torch.arange(len(self.place), device=self.device)
        parts = (self.items(part) for part in every.split(65536))
        tables, biases = zip(*parts, strict=True)
        return torch.cat(tables), torch.cat(biases)

    # ------------------------------------------------------------------ in and out of numpy

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def exported(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `SequenceSource`, `items` and `targets` included."""
        self.eval()
        items, bias = self.all_items()
        out = {
            "items": items,
            "targets": torch.cat([items, bias[:, None]], 1),
            "norm": pair(self.norm),
        }
        out["distance"] = torch.stack([block.distance for block in self.blocks])
        for b, block in enumerate(self.blocks):
            for name in ("attend", "mix", "widen", "narrow"):
                out[f"{name}.{b}"] = getattr(block, name).weight.T
            for name in ("widen", "narrow"):
                out[f"{name}_bias.{b}"] = getattr(block, name).bias
            for name in ("norm1", "norm2"):
                out[f"{name}.{b}"] = pair(getattr(block, name))
        return {name: np.ascontiguousarray(t.cpu().numpy(), np.float32) for name, t in out.items()}

    def known(self) -> npt.NDArray[np.uint8]:
        """uint8[N]: items with an id or a text."""
        known: npt.NDArray[np.uint8] = (self.place > 0).cpu().numpy().astype(np.uint8)
        if self.vectors is not None:
            known |= (self.vectors != 0).any(dim=1).cpu().numpy()
        return known

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All weights, and which items have an id, for a later fit to continue from."""
        weights = {name: t.detach().cpu().numpy().copy() for name, t in self.named_parameters()}
        return {"met": self.met.astype(np.int64), **weights}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def continue_from(self, earlier: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Take an earlier fit's weights over, ids by item; says whether they fit this model."""
        parameters = dict(self.named_parameters())
        by_id = {"id.weight", "bias"}
        if not set(parameters) <= set(earlier):
            return False
        if any(parameters[n].shape != earlier[n].shape for n in parameters if n not in by_id):
            return False
        if earlier["id.weight"].shape[1] != self.width:
            return False
        for name in set(parameters) - by_id:
            parameters[name].copy_(torch.from_numpy(np.array(earlier[name])))
        old = np.searchsorted(earlier["met"], self.met)
        old = np.minimum(old, max(len(earlier["met"]) - 1, 0))
        shared = np.flatnonzero(earlier["met"][old] == self.met) if len(earlier["met"]) else old[:0]
        for name in by_id:
            rows = torch.from_numpy(np.array(earlier[name])[old[shared] + 1])
            parameters[name][torch.from_numpy(shared + 1)] = rows
        return True


def pair(norm: nn.LayerNorm) -> Tensor:
    """Gain and bias, float[2, d]."""
    return torch.stack([norm.weight, norm.bias])
