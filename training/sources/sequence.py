"""Training of the sequence source: sampled softmax over what comes next, at every position.

Every positive event of a user is predicted from those before it. The softmax runs over the target
and shared sampled negatives whose logits are corrected for how likely they were drawn (logQ), so
that popular items are neither favoured nor punished by the sampling. Ids drop out at random, in
histories and among targets, so that the text projection learns to carry an item alone. The last
events of a few users are held out: the weights that find them best are kept.

Shapes: N items, d width, T positions of a batch of S sequences of length L, m negatives, V users
held out.
"""

import logging
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from recsys.features.interactions import (
    Floats,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.ragged import first_of_runs
from recsys.retrieval.ann import LISTS_FROM, InvertedLists
from recsys.retrieval.fitted_source import SourceFit, positive, support, weight_scale
from recsys.retrieval.sequence.source import batch_size
from recsys.training.deterministic import deterministic

log = logging.getLogger(__name__)

LEAST_STEPS: Final = 100
"""Steps of a fit: enough for few positions to be learned."""
MOST_IDS: Final = 200_000
"""Items with an id embedding, the most supported; the others are their text."""
MOST_SECONDS: Final = 300.0
"""Wall time of a fit; the learning rate falls to its end within it, whatever the machine does. A fit
that ends before is the same on every run."""
LOOK_SECONDS, BUSY_PERCENT = 0.3, 60.0
"""How long to look at what the processors do, and their share of work above which they are busy."""
WARM_EPOCH_SHARE: Final = 0.34
"""Share of the epochs that a fit needs when it continues from an earlier one (assumed)."""
SAMPLING_POWER: Final = 0.75
"""Negatives are drawn by support to this power, as in word2vec."""
WARM_UP: Final = 0.05
"""Share of the steps in which the learning rate rises."""
LEAST_EVENTS: Final = 3
"""Events of a user whose last one may be held out."""
HELD_OUT_SHARE, LEAST_HELD_OUT, MOST_HELD_OUT = 0.05, 50, 1000
"""Share of those users, and their number at least and at most (assumed)."""
LOOKS: Final = 20
"""Looks at what was held out, at most."""
PATIENCE: Final = 4
"""Looks that find worse weights before a fit ends."""
BUCKET: Final = 50
"""Batches whose sequences are sorted by length together, to spare padding."""


def learned(fit: SourceFit) -> dict[str, Any]:
    """Train on all events of a fit; go on from its earlier one where the shapes allow it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(idle_threads(fit.workers))
    try:
        with torch.random.fork_rng(), deterministic():
            torch.manual_seed(fit.seed)
            return _learned(fit)
    finally:
        torch.set_num_threads(threads)


def idle_threads(workers: int) -> int:
    """Threads to train with: one where other work already fills the processors.

    Threads that wait for one another in every operation lose more to a busy machine than they
    gain: ten times slower with two threads on two loaded cores (measured). This process stands still
    while it looks, so what it sees is others' work; the load average would count its own.
    """
    seen = psutil.cpu_times_percent(interval=LOOK_SECONDS)
    return 1 if seen.user + seen.system > BUSY_PERCENT else max(1, workers)


def _learned(fit: SourceFit) -> dict[str, Any]:
    from recsys.encoder.torch_model import best_device
    from recsys.training.sources.sequence_model import SequenceModel

    interactions, params, previous = fit.interactions, fit.params, fit.previous
    counts = support(interactions)
    draw = np.random.default_rng(fit.seed)
    kept, held = hold_out(positive(interactions), int(params["length"]), draw)
    sequences = Sequences.of(kept, int(params["length"]), weight_scale(interactions))
    model = SequenceModel(counts, fit.inputs.vectors, params, MOST_IDS)
    continued = previous is not None and model.continue_from(previous.training)
    model.to(best_device())
    epochs = params["epochs"] * (WARM_EPOCH_SHARE if continued else 1.0)
    negatives = Negatives(counts, int(params["negatives"]), draw)
    train(model, sequences, negatives, epochs, params, draw, held)
    arrays = model.exported()
    targets, known = arrays.pop("targets"), model.known()
    return {
        "items": arrays.pop("items"),
        "targets": targets,
        "known": known,
        "weights": arrays,
        "training": model.state(),
        "lists": InvertedLists.build(targets, fit.seed) if len(known) >= LISTS_FROM else None,
    }


class Negatives:
    """Shared negatives of a batch, with the logarithm of how often each is expected."""

    def __init__(self, counts: Ints, number: int, draw: np.random.Generator) -> None:
        mass = (counts + 1.0) ** SAMPLING_POWER
        self.share = mass / mass.sum()
        self.edges = np.cumsum(self.share)
        self.number, self.draw = number, draw

    def sample(self) -> tuple[Longs, Floats]:
        """Items int64[m] with repetition, and log(m · share) float32[m]."""
        place = np.searchsorted(self.edges, self.draw.random(self.number), side="right")
        items = np.minimum(place, len(self.share) - 1).astype(np.int64)
        return items, np.log(self.number * self.share[items]).astype(np.float32)


class HeldOut(NamedTuple):
    """What users did last, to be found from what they did before."""

    item: Ints
    """int32[V, L]: the events before, -1 where none, at the end."""
    target: Longs
    """int64[V]"""


def hold_out(
    events: Interactions, length: int, draw: np.random.Generator
) -> tuple[Interactions, HeldOut | None]:
    """The events without the last ones of some users drawn at random, and these; None where too few
    users have enough events."""
    bounds = np.append(np.flatnonzero(first_of_runs(events.user)), len(events))
    enough = np.flatnonzero(np.diff(bounds) >= LEAST_EVENTS)
    count = min(MOST_HELD_OUT, int(HELD_OUT_SHARE * len(enough)))
    if count < LEAST_HELD_OUT:
        return events, None
    chosen = np.sort(draw.permutation(enough)[:count])
    last = bounds[chosen + 1] - 1
    first = np.maximum(bounds[chosen], last - length)
    place = first[:, None] + np.arange(length)
    item = np.where(place < last[:, None], events.item[np.minimum(place, len(events) - 1)], -1)
    keep = np.ones(len(events), bool)
    keep[last] = False
    return events.where(keep), HeldOut(item.astype(np.int32), events.item[last].astype(np.int64))


class Sequences:
    """Windows of users' positive events, length+1 at most, overlapping by one."""

    def __init__(self, item: Ints, weight: Floats, start: Longs, size: Longs) -> None:
        self.item, self.weight, self.start, self.size = item, weight, start, size
        self.positions = int((size - 1).sum())
        self.per_batch, _ = batch_size(self.positions)

    @classmethod
    def of(cls, events: Interactions, length: int, scale: float) -> "Sequences":
        """Of positive events in user order; a weight of `scale` counts as 1."""
        weight = (events.weight / scale).astype(np.float32)
        bounds = np.append(np.flatnonzero(first_of_runs(events.user)), len(events))
        start, size = [], []
        for low, high in pairwise(bounds):
            # windows are laid from the end, so that the latest events have the longest context
            last = high
            while last - low >= 2:
                first = max(low, last - length - 1)
                start.append(first)
                size.append(last - first)
                last = first + 1
        return cls(events.item, weight, np.array(start, np.int64), np.array(size, np.int64))

    def forever(self, draw: np.random.Generator) -> Iterator[tuple[Ints, Floats]]:
        """Batches of one epoch after another."""
        while True:
            yield from self.batches(draw)

    def batches(self, draw: np.random.Generator) -> Iterator[tuple[Ints, Floats]]:
        """Padded (items int32[S, L], -1 where none, at the end; weights float32[S, L])."""
        order = draw.permutation(len(self.start))
        typical = max(1, int(self.per_batch * len(self.start) / self.positions))
        chunks = []
        for first in range(0, len(order), typical * BUCKET):
            part = order[first : first + typical * BUCKET]
            part = part[np.argsort(self.size[part], kind="stable")]
            filled = np.cumsum(self.size[part] - 1) // self.per_batch
            chunks += np.split(part, np.flatnonzero(np.diff(filled)) + 1)
        for chunk in draw.permutation(len(chunks)):
            yield self._padded(chunks[chunk])

    def _padded(self, rows: npt.NDArray[np.int64]) -> tuple[Ints, Floats]:
        width = int(self.size[rows].max())
        place = self.start[rows, None] + np.arange(width)
        inside = np.arange(width) < self.size[rows, None]
        place = np.where(inside, place, 0)
        return (
            np.where(inside, self.item[place], -1).astype(np.int32),
            np.where(inside, self.weight[place], 0).astype(np.float32),
        )


def train(
    model: Any,
    sequences: Sequences,
    negatives: Negatives,
    epochs: float,
    params: Mapping[str, float],
    draw: np.random.Generator,
    held: HeldOut | None = None,
) -> None:
    """AdamW with a warm-up and a cosine decay over the given number of epochs; the weights that find
    what was held out best are the model's at the end.

    Args:
        model: the transformer, trained in place.
        sequences: users' events in order.
        negatives: draws items that were not acted on.
        epochs: passes over the sequences at most, also a fraction.
        params: of the source.
        draw: random generator of the batches.
        held: what some users did last; None to keep the weights of the last step.
    """
    if not len(sequences.start):
        return
    per_epoch = sequences.positions / sequences.per_batch
    steps = max(LEAST_STEPS, round(epochs * per_epoch))
    optimiser = _optimiser(model, params)
    best = Best(model, held)
    look = max(1, round(max(per_epoch, steps / LOOKS)))
    started = perf_counter()
    model.train()
    for done, (items, weights) in enumerate(islice(sequences.forever(draw), steps)):
        progress = max(done / steps, (perf_counter() - started) / MOST_SECONDS)
        if progress >= 1.0:
            log.warning("sequence training stopped after %d of %d steps: no time", done, steps)
            break
        optimiser.param_groups[0]["lr"] = params["learning_rate"] * schedule(progress)
        _step(model, optimiser, items, weights, negatives)
        if (done + 1) % look == 0 or done + 1 == steps:
            best.look(done + 1)
            if best.is_past:
                break
    best.restore()
    model.eval()


def _optimiser(model: Any, params: Mapping[str, float]) -> Any:
    import torch

    return torch.optim.AdamW(
        model.parameters(),
        lr=params["learning_rate"],
        weight_decay=params["weight_decay"],
        betas=(0.9, 0.98),
        fused=True,
    )


def _step(model: Any, optimiser: Any, items: Ints, weights: Floats, negatives: Negatives) -> None:
    import torch

    loss = model.loss(torch.from_numpy(items), torch.from_numpy(weights), negatives)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


class Best:
    """The weights that found the held-out events best so far."""

    def __init__(self, model: Any, held: HeldOut | None) -> None:
        self.model, self.held = model, held
        self.quality, self.worse = -1.0, 0
        self.weights: dict[str, Any] | None = None

    @property
    def is_past(self) -> bool:
        """Whether the last looks all found worse weights."""
        return self.worse >= PATIENCE

    def look(self, done: int) -> None:
        """Judge the weights after `done` steps."""
        if self.held is None:
            return
        quality = self.model.found(self.held.item, self.held.target)
        log.info("sequence step %d: held-out nDCG %.4f", done, quality)
        if quality > self.quality:
            self.quality, self.worse = quality, 0
            self.weights = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        else:
            self.worse += 1

    def restore(self) -> None:
        """Make them the model's."""
        if self.weights is not None:
            self.model.load_state_dict(self.weights)


def schedule(progress: float) -> float:
    """Factor of the learning rate after a share of the steps."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return float(0.5 * (1 + np.cos(np.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))) + 1e-3
