"""The user tower alone, fitted again over item vectors that stay as they are.

Between two refreshes of the encoder people go on acting. What they want next can be learned from the
vectors at hand in seconds, without running the language model; the result is kept only if it finds
better what people did on items that it has not seen.

Shapes: n items, d dimensions.
"""

# mypy: disable-error-code="misc"
# PyTorch is checked as Any: its classes and decorators carry no types here.

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.tower import Tower
from recsys.features.impressions import Impressions
from recsys.features.interactions import Floats, Interactions
from recsys.training.deterministic import deterministic
from recsys.training.finetune.calibrate import calibrate
from recsys.training.finetune.checkpoint import Checkpoints
from recsys.training.finetune.distributed import Group
from recsys.training.finetune.examples import make_examples
from recsys.training.finetune.learner import Learner
from recsys.training.finetune.loop import Trainer
from recsys.training.finetune.tower_model import UserTower

STEPS = 200
"""Steps at most (assumed; early stopping ends most fits before)."""
RATE = 0.3
"""Share of `head_learning_rate`: the tower is near its optimum already (assumed)."""


class Refit(NamedTuple):
    """What fitting the tower again came to."""

    tower: Tower
    """The new tower, or the one before where it is not better."""
    kept: bool
    before: float
    """nDCG of the validation with the tower as it was."""
    after: float
    steps: int


class _FixedVectors(nn.Module):
    """Stands where the encoder does: item vectors are what they are."""

    layers = None

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()

    def finish(self, pooled: Tensor) -> Tensor:
        """[B, d] → [B, d], unit already."""
        return pooled


@dataclass
class _FixedStates:
    """Stands where the items' states do."""

    bank: Tensor
    chunk_tokens: int = 0
    lengths: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = np.ones(len(self.bank), np.int64)

    @property
    def device(self) -> torch.device:
        return self.bank.device


@deterministic()
def refit_tower(
    interactions: Interactions,
    vectors: Floats,
    config: EncoderConfig,
    start: Tower,
    *,
    fit_until: int,
    since: int,
    seed: int,
    seconds: float,
    shown: Impressions | None = None,
) -> Refit:
    """Fit `start`, a tower of `interactions.kinds`, to events up to `fit_until`.

    Args:
        interactions: events, none later than fit_until.
        vectors: unit vectors float32 [n, d] of all items, writable (a copy-on-write map will do).
        config: settings of the encoder.
        start: the tower to go on from.
        fit_until: end of what may be seen, µs UTC.
        since: events after this (µs) are new to the tower; earlier ones are replayed beside them.
        seed: of the batches.
        seconds: time it may take.
        shown: lists that users saw, for negatives; None without.

    Raises:
        DataRefused: an event is later than fit_until, or there are too few to learn from.
    """
    split = make_examples(
        interactions, fit_until=fit_until, places=config.history_length, seed=seed, shown=shown
    )
    torch.manual_seed(seed)
    settings = config.model_copy(update={"head_learning_rate": config.head_learning_rate * RATE})
    trainer = Trainer(
        Learner(cast(Any, _FixedVectors()), UserTower(start)),
        cast(Any, _FixedStates(torch.from_numpy(np.asarray(vectors)))),
        split,
        settings,
        seed=seed,
        checkpoints=Checkpoints(None, ""),
        group=Group(),
        on_metrics=None,
        since=since,
    )
    deadline = time.monotonic() + seconds
    trainer.check("tower")
    trainer.fit_scale()
    trainer.run("tower", 0, STEPS, encode=False, deadline=deadline)
    trainer.checkpoints.restore_best(trainer.learner)
    found = trainer.progress
    before = found.validations[0]["ndcg"]
    if found.best_step <= 0:
        return Refit(start, False, before, before, found.step)
    tower = trainer.learner.tower.freeze_to(calibrate(trainer))
    return Refit(tower, True, before, found.best, found.step)
