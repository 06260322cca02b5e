"""The training loop: steps, validation, early stopping, checkpoints, time and memory limits.

A step encodes each of its items once, whatever number of histories and candidates it is in. Its
gradient comes in two halves (Gao et al., *Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup*, RepL4NLP 2021): the loss gives the gradient of each item's vector, then
chunks of items carry theirs through the encoder. So the effective batch does not depend on the
memory, and processes that share a step's items among them reach the single process's loss.
"""

# mypy: disable-error-code="misc,untyped-decorator"
# PyTorch is checked as Any: its classes and decorators carry no types here.
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.company import Company
from recsys.training.cut_short import TIME_IS_USED
from recsys.training.finetune.checkpoint import Checkpoints
from recsys.training.finetune.distributed import Group
from recsys.training.finetune.examples import (
    WEAK_SHARE,
    Batch,
    Examples,
    Split,
)
from recsys.training.finetune.head_init import linear_starts
from recsys.training.finetune.learner import Learner
from recsys.training.finetune.objective import (
    binary,
    candidate_logits,
    own_softmax,
    sampled_softmax,
)
from recsys.training.finetune.states import ItemStates
from recsys.training.finetune.tower_model import TensorBatch

log = logging.getLogger(__name__)

Metrics = Callable[[dict[str, float], int], None]
"""Called with (named values, step)."""

JOINT = 0.1
"""Rate of head and tower once the layers join, as a share of their own (assumed)."""
ADAM_EPS = 1e-6
"""BERT's own; smaller ones turn the rounding noise of gradients that are zero into steps."""
CHECK_SHARE = 0.2
"""Share of a limited time that validations may take (assumed)."""
SCALES = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 26.0, 32.0)
"""Factors of the cosine that are tried as a start (their inverse is the softmax's temperature)."""
KEPT_TOKENS = 16_384
"""Tokens of a step's items up to which their chunks' graphs are kept for the backward pass; beyond,
chunks run twice, so that memory stays that of one chunk (16,384 tokens of two layers: 1 GB)."""
NEW_SHARE, MOST_REPEATS = 0.5, 5.0
"""Share of the draws that goes to what a warm start has not seen, and how many times as often as the
rest it may be drawn at most (both assumed)."""
MINED_EXAMPLES = 128
"""Examples of a step whose high-ranked items are looked up in the bank."""
MINED_RANKS = (5, 50)
"""Ranks of the items mined: above, too many are what the user wants and has not met yet (assumed;
the range is that of Xiong et al., *Approximate Nearest Neighbor Negative Contrastive Learning*,
ICLR 2021, scaled to catalogues of thousands)."""
LOOKED_AT = 8
"""Latest items of a history that validation looks at: further back the plain tower's weights are small."""
OWN_WEIGHT = 0.5
"""Weight of the loss over an example's own negatives beside that over the step's candidates
(assumed)."""
CLIP = 1.0
"""Largest norm of the gradient of the encoder, and of head and tower (usual for fine-tuning)."""


@dataclass
class StepPlan:
    """What one step looks at; made from (seed, step) alone, so that a resumed run repeats it."""

    batch: Batch
    encoded: npt.NDArray[np.int64]
    """Items encoded anew, with gradient."""
    items: npt.NDArray[np.int64]
    """All distinct items of the step, ascending; those encoded anew are all among them."""
    candidates: npt.NDArray[np.int64]
    """Places in `items` that stand to choice for every example."""
    own: npt.NDArray[np.int64]
    """[B, K]: items that an example's target is held against besides; -1 where absent."""


Miner = Callable[[npt.NDArray[np.int64], np.random.Generator], npt.NDArray[np.int64]]
"""(examples [m]) → items [m, H] that recall ranks high for them, not acted on; -1 where absent."""


@dataclass
class Sampler:
    """Draws the examples and items of a step."""

    train: Examples
    seed: int
    batch_size: int
    negatives: int
    step_tokens: int
    lengths: npt.NDArray[np.int64]
    since: int | None = None
    """Events after this (µs) are new to the weights that a warm start begins with."""
    probability: npt.NDArray[np.float64] = field(init=False)
    """[Q]: of an example to be drawn; items are capped by the root of their frequency."""
    item_q: npt.NDArray[np.float64] = field(init=False)
    """[n]: how often an item is a candidate."""

    def __post_init__(self) -> None:
        target = self.train.target
        count = np.bincount(target, minlength=self.train.n_items)
        weight = self._shares(1.0 / np.sqrt(count[target]))
        self.probability = weight / weight.sum()
        drawn = np.bincount(target, self.probability, minlength=self.train.n_items)
        self.item_q = np.maximum(drawn, 1e-9)
        self._cumulative = np.cumsum(self.probability)
        self._item_cumulative = np.cumsum(drawn)
        self._by_item = np.argsort(target, kind="stable")
        self._target_count = count
        self._item_start = np.concatenate([[0], np.cumsum(count)])

    def _shares(self, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Weights of the draws [Q] with ungraded behaviour held down and new behaviour raised.

        What the weights have learned from already is replayed beside what is new, so that they do
        not forget it; a few new events are not repeated without end.
        """
        events, row = self.train.histories.events, self.train.row
        weak = events.grade[row] <= 0
        if weak.any():
            ceiling = WEAK_SHARE / (1 - WEAK_SHARE) * weight[~weak].sum() / weight[weak].sum()
            weight = np.where(weak, min(1.0, ceiling) * weight, weight)
        if self.since is not None:
            new = events.time[row] > self.since
            if new.any() and not new.all():
                floor = NEW_SHARE / (1 - NEW_SHARE) * weight[~new].sum() / weight[new].sum()
                weight = np.where(new, np.clip(floor, 1.0, MOST_REPEATS) * weight, weight)
        return weight

    def _draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        at: npt.NDArray[np.int64] = np.searchsorted(
            self._cumulative, rng.random(count) * self._cumulative[-1]
        )
        return np.minimum(at, len(self.train) - 1)

    def plan(self, step: int, *, encode: bool, mine: Miner | None = None) -> StepPlan:
        """The step's examples, items to encode, and candidates."""
        rng = np.random.default_rng([self.seed, 2, step])
        which = self._draw(rng, self.batch_size)
        own = self._own(rng, which, mine)
        encoded = np.empty(0, np.int64)
        if encode:
            encoded = self._items_to_encode(which, own)
            which, own = self._examples_of(rng, encoded, which, own)
        batch = self.train.batch(which)
        # Beside items encoded anew, those of the bank would stand out by their age alone, and the
        # layers would learn to tell old from new; so either all candidates are new or none is.
        # Nor is an item a candidate that is nobody's target: its share of the draws is nought, so
        # the correction for it would outweigh all others.
        candidates = (
            encoded[self._target_count[encoded] > 0]
            if encode
            else np.union1d(batch.target, self._negatives(rng))
        )
        # An item encoded for its place in a history need not be in those of the examples drawn, nor be
        # a candidate; it has a row all the same, for its vector to be written to.
        items = np.unique(
            np.concatenate([candidates, encoded, batch.item[batch.item >= 0], own[own >= 0]])
        )
        return StepPlan(batch, encoded, items, np.searchsorted(items, candidates), own)

    def _own(
        self, rng: np.random.Generator, which: npt.NDArray[np.int64], mine: Miner | None
    ) -> npt.NDArray[np.int64]:
        """[B, K]: what was shown beside the targets and what recall ranks high for some of them."""
        shown = self.train.own(which, rng)
        if mine is None:
            return shown
        found = mine(which[:MINED_EXAMPLES], rng)
        mined = np.full((len(which), found.shape[1]), -1, np.int64)
        mined[: len(found)] = found
        return np.concatenate([shown, mined], 1)

    def _negatives(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Items drawn like targets are."""
        level = rng.random(self.negatives) * self._item_cumulative[-1]
        drawn: npt.NDArray[np.int64] = np.searchsorted(self._item_cumulative, level)
        return np.minimum(drawn, self.train.n_items - 1)

    def _items_to_encode(
        self, which: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Targets and last history items of examples, as many as the step's tokens allow; the first
        of them, up to half of the tokens, with their own negatives."""
        events = self.train.histories.events
        pairs = np.stack(
            [events.item[self.train.row[which]], events.item[self.train.end[which] - 1]], 1
        ).astype(np.int64)
        first = self._within(np.concatenate([pairs, own], 1), self.step_tokens // 2)
        if not (own >= 0).any():
            first = first[:0]
        return np.sort(
            self._within(np.concatenate([first, pairs.ravel()]), self.step_tokens, least=2)
        )

    def _within(
        self, items: npt.NDArray[np.int64], tokens: int, least: int = 0
    ) -> npt.NDArray[np.int64]:
        """The first distinct items whose texts together hold at most so many tokens."""
        flat = items[items >= 0]
        _, place = np.unique(flat, return_index=True)
        order = flat[np.sort(place)]
        fits = np.cumsum(self.lengths[order]) <= tokens
        return order[: max(least, int(fits.sum()))]

    def _examples_of(
        self,
        rng: np.random.Generator,
        items: npt.NDArray[np.int64],
        drawn: npt.NDArray[np.int64],
        own: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Examples whose target is among `items`, each item as likely as any, behind those drawn
        whose own negatives are too; with the own negatives [B, K] that are among `items`."""
        own = np.where(np.isin(own, items), own, -1)
        whole = (own >= 0).any(1) & np.isin(self.train.target[drawn], items)
        low, high = self._item_start[items], self._item_start[items + 1]
        items, low, high = (a[high > low] for a in (items, low, high))
        picked = rng.integers(0, len(items), self.batch_size - int(whole.sum()))
        others = self._by_item[
            low[picked] + (rng.random(len(picked)) * (high - low)[picked]).astype(np.int64)
        ]
        nothing = np.full((len(others), own.shape[1]), -1, np.int64)
        return np.concatenate([drawn[whole], others]), np.concatenate([own[whole], nothing])


@dataclass
class Progress:
    """Where a fit is, and its curves; goes into checkpoints and the manifest."""

    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = -1
    waited: int = 0
    """Validations since the best one."""
    losses: list[float] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    layers_from: int = -1
    """Step at which the encoder's layers joined; -1 before."""
    head_best: float = -1.0
    """Best validation before the layers joined."""
    kept: list[list[float]] = field(default_factory=list)
    """Gains and losses of the validation examples under the weights that are kept, [2][V]."""
    first: list[float] = field(default_factory=list)
    """Gains of the validation examples under the weights it began with, [V]."""
    head: str = ""
    """Target of the closed-form start that the head goes on from; empty for none."""
    failed: bool = False
    """Whether the loss was lost."""
    stopped: str = ""
    short: list[str] = field(default_factory=list)
    """Steps that time ended, of each phase."""

    @property
    def gains(self) -> list[float]:
        """Gains of the validation examples under the weights that are kept, [V]."""
        return self.kept[0] if self.kept else []

    def check_kept(self) -> dict[str, float]:
        """The validation of the weights that are kept."""
        kept = (self.best_step, self.best)
        return next(check for check in self.validations if (check["step"], check["ndcg"]) == kept)


class Trainer:
    """Runs the steps of a fit over prepared item states.

    Args:
        learner: encoder head and user tower.
        states: the items' states below the tuned layers.
        split: training and validation examples.
        config: settings of the encoder.
        seed: of the batches.
        checkpoints: where the state is kept between steps.
        group: processes that share a step.
        on_metrics: called with (named values, step).
        since: events after this (µs) are new to the weights it begins with; None for a fit from the
            base model.
    """

    def __init__(
        self,
        learner: Learner,
        states: ItemStates,
        split: Split,
        config: EncoderConfig,
        *,
        seed: int,
        checkpoints: Checkpoints,
        group: Group,
        on_metrics: Metrics | None,
        since: int | None = None,
    ) -> None:
        self.learner, self.states, self.split, self.config = learner, states, split, config
        self.seed, self.group, self.on_metrics = seed, group, on_metrics
        self.checkpoints = checkpoints
        self.device = states.device
        self.progress = Progress()
        self.sampler = Sampler(
            split.train,
            seed,
            config.batch_size,
            config.negatives,
            config.step_tokens,
            states.lengths,
            since,
        )
        self._known = split.known
        self.log_q = torch.from_numpy(np.log(self.sampler.item_q)).float().to(self.device)
        self.optimizer = torch.optim.AdamW(_parameter_groups(learner, config), eps=ADAM_EPS)
        self._rates = [g["lr"] for g in self.optimizer.param_groups]
        self._valid_items = self._validation_items()
        self._check_seconds = self._checked = 0.0
        self._asks: Company | None = None
        self._last: list[list[float]] = []
        """Gains and losses of the validation examples at the last validation, [2][V]."""

    # -- one step -------------------------------------------------------------------------------

    def step(self, number: int, done: float, *, encode: bool) -> float:
        """One optimisation step; returns its loss. NaN or infinity, of the loss or of a gradient,
        leaves the weights alone.

        `done` is the finished share of the run, for the learning rate.
        """
        torch.manual_seed(self.seed * 1_000_003 + number)
        mine = self._mine if self.config.hard_negatives else None
        plan = self.sampler.plan(number, encode=encode, mine=mine)
        self.learner.train()
        self._set_rates(done, JOINT if encode else 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._gradients(plan)
        if math.isfinite(loss):
            for parameters in (self.learner.encoder.backbone.parameters(), self._top()):
                norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], CLIP)
                if not math.isfinite(float(norm)):
                    return math.nan
            self.optimizer.step()
        return loss

    def _top(self) -> list[nn.Parameter]:
        backbone = {id(p) for p in self.learner.encoder.backbone.parameters()}
        return [p for p in self.learner.parameters() if id(p) not in backbone]

    def _gradients(self, plan: StepPlan) -> float:
        """Loss of a step; leaves the gradients in the parameters."""
        if not len(plan.encoded):
            loss = self._loss(plan, None)
            loss.backward()
            return float(loss.detach())
        shard = self.group.shard(plan.encoded)
        chunks = [shard[c] for c in self.states.chunks(shard)]
        keep = sum(int(self.states.lengths[c].max()) * len(c) for c in chunks) <= KEPT_TOKENS
        made: list[Tensor] = []
        for number, chunk in enumerate(chunks):
            with torch.set_grad_enabled(keep), _fork_seed(number):
                made.append(self.states.pooled(chunk))
        own = np.concatenate(chunks)
        every, vectors = self.group.gather(own, torch.cat([m.detach() for m in made]))
        order = np.argsort(every)
        leaf = vectors[torch.from_numpy(order).to(self.device)].requires_grad_()
        loss = self._loss(plan, leaf)
        loss.backward()
        assert leaf.grad is not None
        for number, chunk in enumerate(chunks):
            rows = torch.from_numpy(np.searchsorted(plan.encoded, chunk)).to(self.device)
            if not keep:
                with _fork_seed(number):
                    made[number] = self.states.pooled(chunk)
            made[number].backward(leaf.grad[rows])
        self.group.sum_gradients(self.learner.encoder.backbone.parameters())
        self.states.bank[torch.from_numpy(plan.encoded).to(self.device)] = leaf.detach()
        return float(loss.detach())

    def _loss(self, plan: StepPlan, encoded: Tensor | None) -> Tensor:
        """Loss of the step's examples; `encoded` [len(plan.encoded), H] replaces the bank's rows."""
        items = torch.from_numpy(plan.items).to(self.device)
        pooled = self.states.bank[items]
        if encoded is not None:
            rows = torch.from_numpy(np.searchsorted(plan.items, plan.encoded)).to(self.device)
            pooled = pooled.index_copy(0, rows, encoded)
        vectors = self.learner.encoder.finish(pooled)
        users, batch = self._users(plan.batch, plan.items, vectors)
        candidates = torch.from_numpy(plan.candidates).to(self.device)
        logits = candidate_logits(
            users,
            vectors[candidates],
            self.learner.scale,
            self.log_q[items[candidates]],
            self.config.logq,
        )
        place = torch.searchsorted(candidates, batch.target)
        logits = _mask_seen(logits, batch.item, candidates, place)
        lossf = sampled_softmax if self.config.loss == "sampled_softmax" else binary
        loss = lossf(logits, place, batch.strength)
        if not (plan.own >= 0).any():
            return loss
        own = torch.from_numpy(np.searchsorted(plan.items, plan.own)).to(self.device)
        there = torch.from_numpy(plan.own >= 0).to(self.device)
        against = own_softmax(
            users, vectors, batch.target, own, there, self.learner.scale, batch.strength
        )
        return loss + OWN_WEIGHT * against

    @torch.no_grad()
    def _mine(
        self, which: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """[m, H]: items that the tower ranks high for examples and their users never acted on.

        All items with an event stand to choice, as the bank knows them.
        """
        self.learner.eval()
        train, items = self.sampler.train, self._known
        batch = train.batch(which)
        rows = torch.from_numpy(items).to(self.device)
        vectors = self.learner.encoder.finish(self.states.bank[rows])
        users, _ = self._users(batch, items, vectors)
        highest = min(MINED_RANKS[1], len(items))
        top = torch.topk(users @ vectors.T, highest, dim=1).indices.cpu().numpy()
        top = items[top[:, min(MINED_RANKS[0], highest - 1) :]]
        events, offsets = train.histories.events, train.histories.offsets
        owner = np.searchsorted(offsets, train.row[which], "right") - 1
        found = np.full((len(which), self.config.hard_negatives), -1, np.int64)
        for place, user in enumerate(owner):
            acted = events.item[offsets[user] : offsets[user + 1]]
            left = top[place][~np.isin(top[place], acted)]
            chosen = rng.permutation(len(left))[: self.config.hard_negatives]
            found[place, : len(chosen)] = left[chosen]
        return found

    def _users(
        self, batch: Batch, items: npt.NDArray[np.int64], vectors: Tensor
    ) -> tuple[Tensor, TensorBatch]:
        """User vectors [B, d] of histories whose items are rows of `vectors`."""
        local = np.where(batch.item >= 0, np.searchsorted(items, batch.item), -1)
        target = np.searchsorted(items, batch.target)
        tensors = TensorBatch(
            batch,
            torch.from_numpy(local).to(self.device),
            torch.from_numpy(target).to(self.device),
            self.device,
        )
        past = vectors[tensors.item.clamp(min=0)] * (tensors.item >= 0).unsqueeze(-1)
        return self.learner.tower(past, tensors), tensors

    def _set_rates(self, done: float, top: float) -> None:
        """Linear warm-up, then cosine to a tenth, over the finished share of the run; head and tower
        at `top` times theirs."""
        warm = self.config.warmup_share
        if done < warm:
            factor = 0.05 + 0.95 * done / warm
        else:
            factor = 0.1 + 0.45 * (1 + math.cos(math.pi * (done - warm) / max(1e-9, 1 - warm)))
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor * (top if group["top"] else 1.0)

    # -- validation -----------------------------------------------------------------------------

    def _validation_items(self) -> npt.NDArray[np.int64]:
        """Items validation needs: those held out, and the latest of the histories (all of these are encoded
        anew at every validation)."""
        recent = self.split.valid.batch(np.arange(len(self.split.valid))).item[:, -LOOKED_AT:]
        return np.union1d(self.split.held, recent[recent >= 0])

    def _validation_batch(self) -> Batch:
        """The validation examples, their histories cut to the validation items."""
        batch = self.split.valid.batch(np.arange(len(self.split.valid)))
        missing = (batch.item >= 0) & ~np.isin(batch.item, self._valid_items)
        return batch._replace(item=np.where(missing, -1, batch.item))

    def gains_asking(self, company: Company | None) -> list[float]:
        """Gains [V] of the validation examples when the items of histories ask in a company."""
        self._asks = company
        self.validate(encode=False)
        self._asks = None
        return self._last[0] if self._last else []

    def _asking(self, items: npt.NDArray[np.int64], vectors: Tensor) -> Tensor:
        """[n, d]: what `items` ask with, given their vectors [n, d]."""
        if self._asks is None:
            return vectors
        known = self.split.items
        bank = self.states.bank[torch.from_numpy(known).to(self.device)]
        every = np.zeros((len(self.states.bank), vectors.shape[1]), np.float32)
        every[known] = self.learner.encoder.finish(bank).float().cpu().numpy()
        asking = self._asks.asking(vectors.float().cpu().numpy(), items.astype(np.int32), every)
        return torch.from_numpy(asking).to(self.device)

    @torch.no_grad()
    def validate(self, *, encode: bool) -> dict[str, float]:
        """nDCG, nDCG@10 and loss of what people did on held-out items, among all of these: no step has
        seen their texts, as none has seen those of an item that comes tomorrow.

        The nDCG without a cut decides: with few users, one cut at 10 is mostly chance.
        """
        self.learner.eval()
        if encode:
            self.states.refresh(self._valid_items)
        items = self._valid_items
        batch = self._validation_batch()
        rows = torch.from_numpy(items).to(self.device)
        vectors = self.learner.encoder.finish(self.states.bank[rows])
        users, tensors = self._users(batch, items, self._asking(items, vectors))
        if not (torch.isfinite(users).all() and torch.isfinite(vectors).all()):
            # Comparisons with NaN are false: every target would stand first.
            self._last = []
            return {"ndcg": 0.0, "ndcg10": 0.0, "loss": math.nan}
        new = torch.from_numpy(np.isin(items, self.split.held)).to(self.device)
        scores = (users @ vectors.T).masked_fill(~new, -torch.inf)
        # These items are given, not drawn for the step: there is nothing to correct.
        losses = nn.functional.cross_entropy(
            scores * self.learner.scale.exp(), tensors.target, reduction="none"
        )
        own = scores.gather(1, tensors.target[:, None])
        rank = (scores > own).sum(1) + ((scores == own).sum(1) - 1) * 0.5
        gain = 1.0 / torch.log2(rank + 2.0)
        top = torch.where(rank < 10, gain, torch.zeros_like(gain))
        self._last = [[round(x, 6) for x in t.tolist()] for t in (gain, losses)]
        return {
            "ndcg": float(gain.mean()),
            "ndcg10": float(top.mean()),
            "loss": float(losses.mean()),
        }

    @torch.no_grad()
    def score_validation(
        self, negatives: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Cosines of the validation users with the item they acted on [V], and with items that others did
        [V, negatives]: drawn by popularity, and as new to the weights as theirs."""
        self.learner.eval()
        items = self._valid_items
        batch = self._validation_batch()
        vectors = self.learner.encoder.finish(
            self.states.bank[torch.from_numpy(items).to(self.device)]
        )
        users, tensors = self._users(batch, items, vectors)
        scores = (users @ vectors.T).float().cpu().numpy()
        target = tensors.target.cpu().numpy()
        rng = np.random.default_rng([self.seed, 4])
        drawn = target[rng.integers(0, len(target), (len(target), negatives))]
        return scores[np.arange(len(scores)), target], np.take_along_axis(scores, drawn, 1)

    def refresh(self) -> None:
        """Bring the bank up to date for all items of the split."""
        if self.progress.layers_from >= 0:
            self.states.refresh(self.split.items)

    # -- the run --------------------------------------------------------------------------------

    def run(
        self, phase: str, start: int, steps: int, *, encode: bool, deadline: float | None
    ) -> None:
        """Steps `start` … `start + steps` of the fit, with validation, until a limit is met.

        `deadline` is a time of `time.monotonic()`; the learning rate falls with the steps or with
        the time, whichever is further.

        Args:
            phase: name of the phase, for progress and metrics.
            start: number of the first step.
            steps: steps at most.
            encode: whether the tuned layers learn too, beside head and tower.
            deadline: a time of `time.monotonic()`; none when None.
        """
        opened = time.monotonic()
        stop = start + steps
        every = max(1, min(self.config.validate_every, steps // 3 or 1))
        last_good = self.progress.step
        while self.progress.step < stop:
            began = time.perf_counter()
            number = self.progress.step
            try:
                done = (number - start) / steps
                if deadline is not None:
                    done = max(done, (time.monotonic() - opened) / max(1e-9, deadline - opened))
                loss = self.step(number, min(done, 1.0), encode=encode)
            except (torch.OutOfMemoryError, MemoryError):
                self._halve()
                continue
            if not math.isfinite(loss):
                self.progress.failed = True
                self._stop(
                    f"the loss became {loss} at step {number}; the weights of the best validation "
                    f"(step {self.progress.best_step}) are kept. A lower learning_rate helps."
                )
                return
            last_good = number + 1
            self.progress.step = last_good
            self.progress.losses.append(loss)
            self.progress.seconds += time.perf_counter() - began
            if self.on_metrics:
                self.on_metrics({"encoder_loss": loss}, last_good)
            late = self.group.any(deadline is not None and time.monotonic() > deadline)
            due = last_good % every == 0 and self._check_pays(deadline)
            if due or late or last_good == stop:
                self.check(phase, encode=encode)
                if self.progress.waited >= self.config.patience:
                    self._stop(f"no better validation for {self.config.patience} checks")
                    return
            if late:
                self._stop(TIME_IS_USED)
                self.progress.short.append(f"{last_good - start} of {steps} steps of the {phase}")
                return

    def start_head(self) -> None:
        """Set the head to the best of its closed-form starts, where validation finds it better than none."""
        items = self._known
        bank = self.states.bank[torch.from_numpy(items).to(self.device)]
        frozen = nn.functional.normalize(bank, dim=-1).cpu().numpy()
        for name, weight in linear_starts(frozen, items, self.split.train.histories):
            with torch.no_grad():
                self.learner.encoder.head.weight.copy_(torch.from_numpy(weight))
            self.fit_scale()
            self.check("head")
            if not self.progress.waited:
                self.progress.head = name
        self.checkpoints.restore_best(self.learner)
        self.progress.waited = 0

    @torch.no_grad()
    def fit_scale(self) -> None:
        """Set the temperature to what suits the vectors best, on the first step's examples.

        Left wrong, it would be the head and the tower that the first steps bend to make up for it.
        """
        self.learner.eval()
        plan = self.sampler.plan(0, encode=False)
        tried: dict[float, float] = {}
        for factor in SCALES:
            self.learner.scale.fill_(math.log(factor))
            tried[factor] = float(self._loss(plan, None))
        self.learner.scale.fill_(math.log(min(tried, key=lambda factor: tried[factor])))

    def begin_layers(self) -> None:
        """Enter the second phase from the best weights of the first."""
        if self.progress.layers_from < 0:
            self.checkpoints.restore_best(self.learner)
            self.optimizer.state.clear()
            self.progress.layers_from, self.progress.waited = self.progress.step, 0
            self.progress.head_best = self.progress.best
            self.progress.stopped = ""

    def check(self, phase: str, *, encode: bool = False) -> None:
        """Validate, keep the best weights, write a checkpoint."""
        began = time.monotonic()
        result = self.validate(encode=encode)
        self._check_seconds = time.monotonic() - began
        self._checked = time.monotonic()
        p = self.progress
        p.validations.append({"step": float(p.step)} | result)
        if len(p.validations) == 1:
            p.first = self._last[0] if self._last else []
            self.checkpoints.keep_first(self.learner)
        if self.on_metrics:
            self.on_metrics({f"encoder_valid_{k}": v for k, v in result.items()}, p.step)
        log.info(
            "encoder step %d: loss %.4f, validation nDCG %.4f, nDCG@10 %.4f",
            p.step,
            float(np.mean(p.losses[-20:])) if p.losses else math.nan,
            result["ndcg"],
            result["ndcg10"],
        )
        if result["ndcg"] > p.best or self._layers_pay():
            p.best, p.best_step, p.waited = result["ndcg"], p.step, 0
            p.kept = self._last
            self.checkpoints.keep_best(self.learner)
        else:
            p.waited += 1
        self.checkpoints.save(self, phase)

    def _layers_pay(self) -> bool:
        """Whether layers just tuned replace the best of the head's phase although the nDCG is no
        higher: where it is lower by less than its standard error (paired, over the validation
        examples) it cannot tell, and the likelihood, which is less a matter of chance, decides."""
        p = self.progress
        if not 0 <= p.layers_from < p.step or p.best_step > p.layers_from or not self._last:
            return False
        gain, loss = (np.subtract(new, old) for new, old in zip(self._last, p.kept, strict=True))
        within = gain.mean() >= -gain.std() / math.sqrt(len(gain))
        return bool(within and loss.mean() < 0)

    def _check_pays(self, deadline: float | None) -> bool:
        """Whether a validation now keeps to its share of a limited time; always without a limit."""
        waited = time.monotonic() - self._checked
        return self.group.any(deadline is None or waited >= self._check_seconds / CHECK_SHARE)

    def _stop(self, reason: str) -> None:
        self.progress.stopped = reason
        log.info("encoder fit stops: %s", reason)

    def _halve(self) -> None:
        """After running out of memory: smaller chunks, the same effective batch."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.states.chunk_tokens <= 64:
            raise MemoryError("one text does not fit into memory; lower encoder.max_tokens")
        self.states.chunk_tokens //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory: encoding %d tokens at once from now on", self.states.chunk_tokens
        )


def _mask_seen(logits: Tensor, history: Tensor, candidates: Tensor, target: Tensor) -> Tensor:
    """-inf for candidates in the example's own history (they are never offered), target aside.

    logits [B, C]; history [B, N] and candidates [C] are places in the step's items; target [B] is
    a place in candidates.
    """
    place = torch.searchsorted(candidates, history.clamp(min=0)).clamp(max=len(candidates) - 1)
    seen = (candidates[place] == history) & (place != target[:, None])
    cut = torch.zeros_like(logits, dtype=torch.bool)
    rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(place)
    cut[rows[seen], place[seen]] = True
    return logits.masked_fill(cut, -torch.inf)


class _fork_seed:
    """The same dropout for a chunk's two passes, and the random state left as it was."""

    def __init__(self, number: int) -> None:
        self.fork = torch.random.fork_rng()
        self.number = number

    def __enter__(self) -> None:
        seed = torch.initial_seed()
        self.fork.__enter__()
        torch.manual_seed(seed + 7919 * (self.number + 1))

    def __exit__(self, *error: Any) -> None:
        self.fork.__exit__(*error)


def _parameter_groups(learner: Learner, config: EncoderConfig) -> list[dict[str, Any]]:
    """Layer-wise rates (each layer down learns at 0.9 of the one above), decay on matrices only."""
    layers = learner.encoder.layers
    depth = {id(p): i for i, layer in enumerate(layers or []) for p in layer.parameters()}
    top = len(layers or [])
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    backbone = {id(p) for p in learner.encoder.backbone.parameters()}
    for parameter in learner.trainable().values():
        decay = config.weight_decay if parameter.dim() > 1 else 0.0
        below = id(parameter) in backbone
        if below:
            rate = config.learning_rate * 0.9 ** (top - 1 - depth.get(id(parameter), -1))
        else:
            rate = config.head_learning_rate
        groups.setdefault((rate, decay, not below), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay, "top": top_part}
        for (rate, decay, top_part), parameters in groups.items()
    ]
