"""The catalogue's texts inside a fit: tokens, frozen layers' activations, and a bank of vectors.

Layers that are not tuned give the same activations at every step, so they run once per item and
their output is kept: in memory while it fits, else in a file, else not at all. The bank holds
every item's pooled state as last computed; items of a step that are not encoded anew are read from
it (Wang et al., *Cross-Batch Memory for Embedding Learning*, CVPR 2020: under small learning
rates such states drift slowly).

A fit's budget may be too short to run every text whole through the frozen layers; texts are then
cut for the fit alone, as little as the budget asks (what an item is comes first in its text), and where
even their beginnings are too many, fewer users' items are read.

Shapes: n items, L tokens, H hidden units.
"""

# mypy: disable-error-code="untyped-decorator"
# PyTorch is checked as Any: its classes and decorators carry no types here.

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from recsys.encoder.tokens import Tokens, batches_by_length, pad_tokens
from recsys.encoder.torch_model import ItemEncoder
from recsys.features.interactions import Floats
from recsys.storage.files import free_bytes

log = logging.getLogger(__name__)

MEMORY_BYTES = 1_200_000_000
"""Activations kept in memory at most; beyond, they go to a file."""
DISK_BYTES = 40_000_000_000
"""Activations kept in a file at most; beyond, frozen layers run at every step."""
CHUNK_TOKENS = 1024
"""Padded tokens that go through the model together on a CPU: activations stay in its cache (measured
beside other work: 4,096 take 1.3 times the processor time)."""
GPU_CHUNK_TOKENS = 16_384
"""The same on a GPU (assumed); halved where its memory is too small."""

SCRATCH = "recsys-states-"
"""Start of the names of folders for activations; the process id follows."""
SHORTEST_CUT = 12
"""Tokens that a text keeps however short the budget (assumed: a title's worth)."""
PROBE_TOKENS = 1500
"""Tokens that are timed to see what the budget allows."""

Rows = npt.NDArray[np.int64]


@dataclass
class ItemStates:
    """Tokens of n items and what the frozen layers make of them."""

    encoder: ItemEncoder
    tokens: Tokens
    pad: int
    below: int
    """Frozen layers, whose output is kept."""
    device: torch.device
    scratch: Path
    autocast: bool = False
    chunk_tokens: int = field(init=False)
    bank: Tensor = field(init=False)
    """Pooled states [n, H] as last computed."""
    lengths: Rows = field(init=False)
    _flat: npt.NDArray[Any] | None = field(init=False, default=None)
    _start: Rows = field(init=False)
    _ready: npt.NDArray[np.bool_] = field(init=False)
    whole: bool = field(init=False, default=True)
    """Whether texts are as long as they will be in use."""
    was_cached: bool = field(init=False, default=False)
    """Whether the frozen layers' activations were kept."""

    def __post_init__(self) -> None:
        self.chunk_tokens = CHUNK_TOKENS if self.device.type == "cpu" else GPU_CHUNK_TOKENS
        self._lay_out()

    def _lay_out(self) -> None:
        """Room for the activations of the tokens."""
        self.lengths, self._start = self.tokens.lengths, self.tokens.offsets
        hidden = self.encoder.dimension
        self._ready = np.zeros(len(self.tokens), bool)
        self.bank = torch.zeros(len(self.tokens), hidden, device=self.device)
        self._flat = None
        if self.encoder.can_split and self.below > 0:
            self._flat = self._room((int(self._start[-1]), hidden))
        self.was_cached = self._flat is not None

    def _room(self, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
        """Room for activations float16 of this shape: memory, a file, or None."""
        size = shape[0] * shape[1] * 2
        if size <= MEMORY_BYTES:
            return np.empty(shape, np.float16)
        self.scratch.mkdir(parents=True, exist_ok=True)
        # The file starts as a hole; a disk that fills while it is written kills the process.
        if size > min(DISK_BYTES, free_bytes(self.scratch) // 2):
            log.info("no room to keep %d MB of activations: frozen layers run anew", size >> 20)
            return None
        return np.memmap(self.scratch / "activations.f16", np.float16, "w+", shape=shape)

    def take(self, encoder: ItemEncoder) -> None:
        """Go on with another encoder of the same architecture. What the frozen layers gave stays
        where they are the same; the bank is made anew by `prepare`."""
        same = _same_below(self.encoder, encoder, self.below)
        self.encoder = encoder.to(self.device)
        if not same:
            self._ready[:] = False

    def fit_into(self, allowed: float, items: Rows) -> None:
        """Cut the texts so that `items` have about `allowed` tokens together."""
        if int(self.lengths[items].sum()) <= allowed:
            return
        cut = int(self.lengths.max())
        while cut > SHORTEST_CUT and np.minimum(self.lengths[items], cut).sum() > allowed:
            cut -= 1
        if cut == int(self.lengths.max()):
            return
        log.info("texts are cut to %d tokens while tuning, to keep within the time budget", cut)
        self.tokens = self.tokens.cut(cut)
        self.whole = False
        self._lay_out()

    @torch.no_grad()
    def tokens_per_second(self, items: Rows) -> float:
        """Speed of the whole model on texts of middling length."""
        self.encoder.eval()
        order = items[np.argsort(self.lengths[items], kind="stable")]
        middle = order[len(order) // 2 :]
        rows = middle[: max(1, PROBE_TOKENS // int(self.lengths[middle[0]]))]
        ids, mask = self._inputs(rows)
        began = 0.0
        for _ in range(2):  # the first call pays for allocations
            began = time.perf_counter()
            self.encoder.pooled(ids, mask).sum().item()
        return float(self.lengths[rows].sum()) / (time.perf_counter() - began)

    @torch.no_grad()
    def prepare(self, items: Rows, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill the bank for some items, and keep the activations of those not at hand."""
        self.encoder.eval()
        done = 0
        for rows in (items[chunk] for chunk in self.chunks(items)):
            pooled = self.pooled(rows) if self._at_hand(rows) else self._run_whole(rows)
            self.bank[torch.from_numpy(rows).to(self.device)] = pooled.float()
            self._ready[rows] = True
            done += len(rows)
            if progress:
                progress(done, len(items))

    def _at_hand(self, rows: Rows) -> bool:
        return self._flat is not None and bool(self._ready[rows].all())

    def _run_whole(self, rows: Rows) -> Tensor:
        """Pooled states [B, H] of items through all layers; keeps what the frozen ones give."""
        ids, mask = self._inputs(rows)
        with self._precision():
            if self._flat is None:
                return self.encoder.pooled(ids, mask)
            hidden = self.encoder.lower(ids, mask, self.below)
            self._keep(rows, hidden)
            return self.encoder.upper(hidden, mask, self.below)

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast)

    def _inputs(self, rows: Rows) -> tuple[Tensor, Tensor]:
        ids, mask = pad_tokens([self.tokens[r] for r in rows], self.pad)
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def _keep(self, rows: Rows, hidden: Tensor) -> None:
        """Store hidden [B, L, H] of items without their padding."""
        assert self._flat is not None
        half = hidden.to(torch.float16).cpu().numpy()
        for place, row in enumerate(rows):
            low, high = self._start[row], self._start[row + 1]
            self._flat[low:high] = half[place, : high - low]

    def _kept(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Stored states of items, padded: hidden [B, L, H] and mask [B, L]."""
        assert self._flat is not None
        width = int(self.lengths[rows].max())
        hidden = np.zeros((len(rows), width, self._flat.shape[1]), np.float16)
        mask = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            low, high = self._start[row], self._start[row + 1]
            hidden[place, : high - low] = self._flat[low:high]
            mask[place, : high - low] = 1
        return (
            torch.from_numpy(hidden).to(self.device).float(),
            torch.from_numpy(mask).to(self.device),
        )

    def chunks(self, items: Rows) -> list[Rows]:
        """Places of `items` grouped by length into chunks that go through the model together."""
        return batches_by_length(self.lengths[items], self.chunk_tokens)

    def pooled(self, items: Rows) -> Tensor:
        """Pooled states [len(items), H] through the tuned layers, with gradient where enabled."""
        with self._precision():
            if self._flat is not None:
                hidden, mask = self._kept(items)
                return self.encoder.upper(hidden, mask, self.below).float()
            ids, mask = self._inputs(items)
            return self.encoder.pooled(ids, mask).float()

    @torch.no_grad()
    def refresh(self, items: Rows) -> None:
        """Bring the bank up to date for some items, without dropout."""
        was = self.encoder.training
        self.encoder.eval()
        for chunk in self.chunks(items):
            rows = items[chunk]
            self.bank[torch.from_numpy(rows).to(self.device)] = self.pooled(rows)
        self.encoder.train(was)

    @torch.no_grad()
    def final_vectors(self) -> Iterator[tuple[Rows, Floats]]:
        """Unit vectors of prepared items through the tuned encoder: (items, float32 [B, d])."""
        self.encoder.to(self.device).eval()
        ready = np.flatnonzero(self._ready)
        for chunk in self.chunks(ready):
            rows = ready[chunk]
            yield rows, self.encoder.finish(self.pooled(rows)).float().cpu().numpy()

    def close(self) -> None:
        """Drop the activations and their file."""
        self._flat = None
        shutil.rmtree(self.scratch, ignore_errors=True)


def _same_below(one: ItemEncoder, other: ItemEncoder, below: int) -> bool:
    """Whether embeddings and the first `below` layers hold the same weights."""
    if not (one.can_split and other.can_split):
        return False

    def frozen(encoder: ItemEncoder) -> dict[str, Tensor]:
        backbone: Any = encoder.backbone
        parts = [backbone.embeddings, *backbone.encoder.layer[:below]]
        return {f"{i}.{n}": p for i, part in enumerate(parts) for n, p in part.state_dict().items()}

    mine, theirs = frozen(one), frozen(other)
    return mine.keys() == theirs.keys() and all(
        mine[n].shape == theirs[n].shape and torch.equal(mine[n].cpu(), theirs[n].cpu())
        for n in mine
    )


def scratch_folder(parent: Path) -> Path:
    """A folder of this process for activations; those that killed processes left are removed."""
    for old in parent.glob(f"{SCRATCH}*"):
        owner = old.name.removeprefix(SCRATCH)
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    return parent / f"{SCRATCH}{os.getpid()}"
