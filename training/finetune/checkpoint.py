"""Checkpoints of a fit: everything that decides the next step, in safetensors and JSON.

A step draws its examples and its dropout from (seed, step), so weights, optimizer moments, the bank
and the counters are the whole state: a resumed run repeats the loss curve of one never stopped.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.pretrained import read_json, tensor_shapes
from recsys.storage.files import atomic_folder
from recsys.training.finetune.learner import Learner
from recsys.training.finetune.states import ItemStates

_TENSORS = "state.safetensors"
_PROGRESS = "progress.json"


class Resumable(Protocol):
    """What a checkpoint reads of a trainer, and puts back."""

    learner: Learner
    states: ItemStates
    optimizer: torch.optim.Optimizer
    progress: Any
    """A dataclass of plain values."""


class Checkpoints:
    """Keeps the best weights of a fit in memory and its last state on disk."""

    def __init__(self, folder: Path | None, fingerprint: str, *, write: bool = True) -> None:
        self.folder = folder
        self.writes = write and folder is not None
        """Of several processes one writes; all go on from what it has written."""
        self.fingerprint = fingerprint
        self.best: dict[str, Tensor] = {}
        self.first: dict[str, Tensor] = {}

    def keep_first(self, learner: Learner) -> None:
        """Remember the weights that the fit began with."""
        self.first = _copied(learner)

    def restore_first(self, learner: Learner) -> None:
        """Put the weights back that the fit began with."""
        _put_back(self.first, learner)

    def keep_best(self, learner: Learner) -> None:
        """Remember the trained weights as the best so far."""
        self.best = _copied(learner)

    def restore_best(self, learner: Learner) -> None:
        """Put the best weights back."""
        _put_back(self.best, learner)

    def save(self, trainer: Resumable, phase: str) -> None:
        """Write the whole state aside, then rename it over the last one."""
        if not self.writes:
            return
        assert self.folder is not None
        tensors = {f"weights/{n}": p.detach() for n, p in trainer.learner.trainable().items()}
        tensors |= {f"best/{n}": t for n, t in self.best.items()}
        tensors |= {f"first/{n}": t for n, t in self.first.items()}
        tensors["bank"] = trainer.states.bank
        names = {id(p): n for n, p in trainer.learner.trainable().items()}
        for parameter, state in trainer.optimizer.state.items():
            for key, value in state.items():
                tensors[f"moments/{names[id(parameter)]}/{key}"] = torch.as_tensor(value)
        content = {"fingerprint": self.fingerprint, "phase": phase} | asdict(trainer.progress)
        with atomic_folder(self.folder) as aside:
            save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, aside / _TENSORS)
            (aside / _PROGRESS).write_text(json.dumps(content), encoding="utf-8")

    def phase(self) -> str | None:
        """The phase that the last checkpoint is in; None without one.

        Raises:
            RecsysError: the checkpoint is of another configuration, or damaged.
        """
        if self.folder is None or not (self.folder / _PROGRESS).is_file():
            return None
        content = read_json(self.folder / _PROGRESS)
        if content.get("fingerprint") != self.fingerprint:
            raise RecsysError(
                "the checkpoint belongs to another fit",
                where=str(self.folder),
                found=f"fit {content.get('fingerprint')}",
                expected=f"fit {self.fingerprint} (settings, texts, events and seed)",
                fix="remove the folder to start afresh, or restore the settings it was made with",
            )
        tensor_shapes(self.folder / _TENSORS)
        return str(content["phase"])

    def restore(self, trainer: Resumable) -> None:
        """Bring a trainer to the state of the last checkpoint."""
        assert self.folder is not None
        tensors = load_file(self.folder / _TENSORS)
        content = read_json(self.folder / _PROGRESS)
        for name in type(trainer.progress).__dataclass_fields__:
            setattr(trainer.progress, name, content[name])
        self.best = {n[5:]: t for n, t in tensors.items() if n.startswith("best/")}
        self.first = {n[6:]: t for n, t in tensors.items() if n.startswith("first/")}
        trainer.states.bank.copy_(tensors["bank"])
        with torch.no_grad():
            for name, parameter in trainer.learner.trainable().items():
                parameter.copy_(tensors[f"weights/{name}"])
                moments = {
                    key.rsplit("/", 1)[1]: t
                    for key, t in tensors.items()
                    if key.startswith(f"moments/{name}/")
                }
                if moments:
                    step = moments.pop("step")
                    on_device = {k: t.to(parameter.device) for k, t in moments.items()}
                    trainer.optimizer.state[parameter] = {"step": step} | on_device

    def clear(self) -> None:
        """Remove the checkpoint of a finished fit."""
        if self.writes and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _copied(learner: Learner) -> dict[str, Tensor]:
    return {n: p.detach().cpu().clone() for n, p in learner.trainable().items()}


def _put_back(kept: dict[str, Tensor], learner: Learner) -> None:
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
