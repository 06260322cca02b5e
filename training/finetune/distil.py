"""A small encoder learns to place texts as a larger one does.

Two losses, on texts alone: the student's vector through a linear map is to point where the teacher's does,
and its cosines between the texts of a step are to be the teacher's (Tung and Mori, *Similarity-Preserving
Knowledge Distillation*, ICCV 2019), for cosines are what serves. The map starts from a closed form and is
thrown away. Items held out say when to stop: the correlation of both models' cosines between them.

Shapes: n texts, d and t numbers of the student's and the teacher's vectors, b texts of a step.
"""

# mypy: disable-error-code="misc,untyped-decorator"
# PyTorch is checked as Any: its classes and decorators carry no types here.

import logging
import math
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.encoder.device import computes_in_half
from recsys.encoder.tokens import Tokens, pad_tokens
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.features.interactions import Floats

log = logging.getLogger(__name__)

HELD_OUT, LEAST_HELD_OUT, MOST_HELD_OUT = 0.05, 8, 1000
"""Share of the texts that are held out, and their number at least and at most (assumed)."""
BATCH: Final = 128
"""Texts of a step (assumed: enough pairs for the similarities to say something)."""
PASSES: Final = 3
"""Over the texts at most."""
RATE, MAP_RATE = 1e-4, 1e-3
"""Of the student's layers and of the map (usual for short fits)."""
SIMILARITIES: Final = 4.0
"""Weight of the cosines' loss beside the map's (assumed: a squared difference of cosines is small)."""
RIDGE: Final = 1e-3
LOOKS, PATIENCE = 12, 6
"""Looks at the held-out texts at most, and those without a better agreement that end it: half of all, for it
falls at first, while the map is still that of the student as it was."""
WARM_UP: Final = 0.1


class Distilled(NamedTuple):
    """What a student came to."""

    encoder: ItemEncoder
    """With its best weights; as it was where nothing was better."""
    before: float
    """Correlation of its cosines with the teacher's, between held-out texts."""
    after: float
    held_out: int
    steps: int

    @property
    def better(self) -> bool:
        """Whether it has learned anything."""
        return self.after > self.before


def distil(
    student: ItemEncoder,
    tokens: Tokens,
    pad: int,
    wanted: Floats,
    device: torch.device,
    *,
    seconds: float | None,
    seed: int,
    rate: float = RATE,
) -> Distilled:
    """Tune all layers of a student towards a teacher's vectors.

    Args:
        student: tuned in place; its head stays the identity.
        tokens: of n texts, by the student's tokenizer.
        pad: id of its padding token.
        wanted: float32 [n, t], the teacher's unit vectors of the same texts.
        device: that computes.
        seconds: it may take; None without a limit.
        seed: of the draws.
        rate: of the student's layers.
    """
    draw = np.random.default_rng([seed, 5])
    order = draw.permutation(len(tokens))
    count = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, int(HELD_OUT * len(order))), len(order) // 2)
    held, taught = np.sort(order[:count]), order[count:]
    student.to(device)
    lesson = _Lesson(student, tokens, pad, torch.from_numpy(wanted), device, held)
    before = lesson.agreement()
    if count < 3 or not len(taught):
        return Distilled(student.eval(), before, before, count, 0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        best, steps = _tuned(lesson, taught, draw, seconds, rate, before)
    return Distilled(student.eval(), before, best, count, steps)


class _Lesson:
    """A student beside what the teacher makes of the same texts."""

    def __init__(
        self,
        student: ItemEncoder,
        tokens: Tokens,
        pad: int,
        wanted: Tensor,
        device: torch.device,
        held: npt.NDArray[np.int64],
    ) -> None:
        self.student, self.tokens, self.pad, self.wanted = student, tokens, pad, wanted
        self.device, self.held = device, held

    def vectors(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The student's unit vectors [b, d], with their gradient."""
        ids, mask = pad_tokens([self.tokens[row] for row in rows], self.pad)
        half = computes_in_half(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            found = self.student(
                torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
            )
        return nn.functional.normalize(found.float(), dim=-1)

    def of_teacher(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The teacher's unit vectors [b, t]."""
        return self.wanted[torch.from_numpy(rows)].to(self.device)

    def encoded(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """The student's unit vectors [b, d] of any number of texts, without gradient."""
        chosen: Sequence[Sequence[int]] = [self.tokens[row] for row in rows]
        found = encode_with_torch(self.student, chosen, self.pad, self.device)
        return torch.from_numpy(found).to(self.device)

    def agreement(self) -> float:
        """Correlation of both models' cosines between the held-out texts; 0 where it has no value."""
        mine, theirs = self.encoded(self.held), self.of_teacher(self.held)
        above = torch.triu_indices(len(mine), len(mine), 1, device=self.device)
        pairs = torch.stack([(v @ v.T)[above[0], above[1]] for v in (mine, theirs)])
        if pairs.shape[1] < 2:
            return 0.0
        found = float(torch.corrcoef(pairs)[0, 1])
        return found if math.isfinite(found) else 0.0

    def map(self, rows: npt.NDArray[np.int64]) -> nn.Linear:
        """The linear map that brings the student's vectors nearest to the teacher's, by ridge regression."""
        mine, theirs = self.encoded(rows), self.of_teacher(rows)
        gram = mine.T @ mine + RIDGE * len(rows) * torch.eye(mine.shape[1], device=self.device)
        linear = nn.Linear(mine.shape[1], theirs.shape[1], bias=False, device=self.device)
        with torch.no_grad():
            linear.weight.copy_(torch.linalg.solve(gram, mine.T @ theirs).T)
        return linear

    def loss(self, rows: npt.NDArray[np.int64], mapped: nn.Linear) -> Tensor:
        """Of both kinds, over the texts of a step."""
        mine, theirs = self.vectors(rows), self.of_teacher(rows)
        apart = 1 - nn.functional.cosine_similarity(mapped(mine), theirs).mean()
        return apart + SIMILARITIES * (mine @ mine.T - theirs @ theirs.T).pow(2).mean()


def _tuned(
    lesson: _Lesson,
    taught: npt.NDArray[np.int64],
    draw: np.random.Generator,
    seconds: float | None,
    rate: float,
    before: float,
) -> tuple[float, int]:
    """Steps until the held-out texts, the passes or the time end them; the best agreement, whose weights are
    left in place, and the steps."""
    began, student = time.monotonic(), lesson.student
    student.requires_grad_(True)
    student.head.requires_grad_(False)
    mapped = lesson.map(taught[:20_000])
    optimiser = torch.optim.AdamW(
        [
            {"params": list(student.backbone.parameters()), "lr": rate},
            {"params": list(mapped.parameters()), "lr": MAP_RATE},
        ],
        weight_decay=0.01,
    )
    rates = [group["lr"] for group in optimiser.param_groups]
    size = min(BATCH, len(taught))
    steps = PASSES * max(1, len(taught) // size)
    look = max(1, steps // LOOKS)
    best, weights, waited, done = before, _copied(student), 0, 0
    while done < steps:
        share = done / steps
        if seconds is not None:
            share = max(share, (time.monotonic() - began) / max(seconds, 1e-9))
        if share >= 1.0:
            break
        for group, own in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = own * _factor(share)
        student.train()
        optimiser.zero_grad(set_to_none=True)
        loss = lesson.loss(draw.choice(taught, size, replace=False), mapped)
        loss.backward()
        nn.utils.clip_grad_norm_(student.backbone.parameters(), 1.0)
        optimiser.step()
        done += 1
        if done % look == 0 or done == steps:
            found = lesson.agreement()
            log.info(
                "distillation step %d: loss %.4f, agreement %.4f", done, float(loss.detach()), found
            )
            if found > best:
                best, weights, waited = found, _copied(student), 0
            else:
                waited += 1
            if waited >= PATIENCE:
                break
    student.load_state_dict(weights)
    return best, done


def _copied(student: ItemEncoder) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}


def _factor(share: float) -> float:
    """Of the rates after a share of the steps: a short rise, then a cosine to a tenth."""
    if share < WARM_UP:
        return 0.1 + 0.9 * share / WARM_UP
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
