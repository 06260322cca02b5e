"""Data-parallel fits under torchrun: each process encodes its share of a step's items.

The examples of a step are the same in all processes; only the encoding, which is nearly all of the
work, is shared out. Vectors are gathered, so that every process computes the whole step's loss
(the single process's loss), and the encoder's gradients are summed.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch import distributed as dist

from recsys.encoder.device import best_device

T = TypeVar("T")
Rows = npt.NDArray[np.int64]


class Group:
    """The processes of a fit; one process without torchrun."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self._on_gpus else "gloo")

    @property
    def _on_gpus(self) -> bool:
        return bool(best_device().type == "cuda")

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """The GPU of this process, when there are several."""
        if self.size > 1 and self._on_gpus:
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return None

    def shard(self, items: Rows) -> Rows:
        """This process's share of a step's items; every process has one at least."""
        return items if self.size == 1 else items[self.rank :: self.size]

    def gather(self, items: Rows, vectors: Tensor) -> tuple[Rows, Tensor]:
        """All processes' items and their vectors [n, H]."""
        if self.size == 1:
            return items, vectors
        most = torch.tensor([len(items)], device=vectors.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        padded = torch.zeros(int(most), vectors.shape[1] + 1, device=vectors.device)
        padded[:, -1] = -1
        padded[: len(items), :-1] = vectors
        padded[: len(items), -1] = torch.from_numpy(items).to(padded)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        whole = torch.cat(parts)
        whole = whole[whole[:, -1] >= 0]
        return whole[:, -1].long().cpu().numpy(), whole[:, :-1].contiguous()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up gradients over the processes."""
        if self.size > 1:
            for parameter in parameters:
                if parameter.requires_grad:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(parameter.grad)

    def firsts(self, value: T) -> T:
        """What the first process holds."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all processes get the same answer."""
        if self.size == 1:
            return flag
        answer = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        return bool(int(answer))

    def least(self, value: float) -> float:
        """The smallest of all processes' values."""
        if self.size == 1:
            return value
        answer = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(answer, dist.ReduceOp.MIN)
        return float(answer)

    def leave(self) -> None:
        """Part from the other processes; nothing is shared after it."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()
