"""Training of the sequence source: sampled softmax over what comes next, at every position.

Every positive event of a user is predicted from those before it. The softmax runs over the target
and shared sampled negatives whose logits are corrected for how likely they were drawn (logQ), so
that popular items are neither favoured nor punished by the sampling. Ids drop out at random, in
histories and among targets, so that the text projection learns to carry an item alone.

Shapes: N items, d width, T positions of a batch of S sequences of length L, m negatives.
"""

import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise
from time import perf_counter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from recsys.features.interactions import (
    Floats,
    Interactions,
    Ints,
    Longs,
)
from recsys.retrieval.ann import LISTS_FROM, InvertedLists
from recsys.retrieval.fitted_source import (
    SourceInputs,
    last_time,
    positive,
    resolve_params,
    support,
    weight_scale,
)
from recsys.retrieval.sequence.source import SequenceSource
from recsys.training.deterministic import deterministic

log = logging.getLogger(__name__)

POSITIONS_PER_BATCH: Final = 4096
BATCHES_PER_EPOCH: Final = 40
"""Batches an epoch has at least, where there are few positions."""
LEAST_STEPS, MOST_STEPS = 100, 1200
"""Steps of a fit: enough for few positions to be learned, and minutes at most for any number
(0.2 s a step on one core, measured)."""
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
BUCKET: Final = 50
"""Batches whose sequences are sorted by length together, to spare padding."""


def fit_sequence(
    interactions: Interactions,
    inputs: SourceInputs,
    params: Mapping[str, float],
    *,
    seed: int,
    workers: int,
    previous: SequenceSource | None = None,
) -> SequenceSource:
    """Train on all given events; continue from `previous` where the shapes allow it.

    Args:
        interactions: events to fit on, all before the cut.
        inputs: catalogue, texts and text vectors.
        params: by name, of `PARAMS`; those absent have their defaults.
        seed: of the draws; the same seed gives the same source.
        workers: threads.
        previous: the fit of an earlier cut; from scratch when None.
    """
    import torch

    chosen = resolve_params(SequenceSource.name, SequenceSource.PARAMS, params)
    threads = torch.get_num_threads()
    torch.set_num_threads(idle_threads(workers))
    try:
        with torch.random.fork_rng(devices=[]), deterministic():
            torch.manual_seed(seed)
            return _fit(interactions, inputs, chosen, seed, previous)
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


def _fit(
    interactions: Interactions,
    inputs: SourceInputs,
    params: dict[str, float],
    seed: int,
    previous: SequenceSource | None,
) -> SequenceSource:
    from recsys.training.sources.sequence_model import SequenceModel

    counts = support(interactions)
    sequences = Sequences.of(interactions, int(params["length"]))
    model = SequenceModel(counts, inputs.vectors, params, MOST_IDS)
    continued = previous is not None and model.continue_from(previous.training)
    epochs = params["epochs"] * (WARM_EPOCH_SHARE if continued else 1.0)
    draw = np.random.default_rng(seed)
    train(model, sequences, Negatives(counts, int(params["negatives"]), draw), epochs, params, draw)
    arrays = model.exported()
    targets = arrays.pop("targets")
    known = model.known()
    lists = InvertedLists.build(targets, seed) if len(known) >= LISTS_FROM else None
    return SequenceSource(
        arrays.pop("items"),
        targets,
        known,
        arrays,
        params=params,
        fit_until=last_time(interactions),
        training=model.state(),
        lists=lists,
    )


def batch_size(positions: int) -> tuple[int, float]:
    """Positions of a batch, and batches of an epoch, for that many predicted positions in all."""
    size = min(POSITIONS_PER_BATCH, max(64, positions // BATCHES_PER_EPOCH))
    return size, positions / size


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


class Sequences:
    """Windows of users' positive events, length+1 at most, overlapping by one."""

    def __init__(self, item: Ints, weight: Floats, start: Longs, size: Longs) -> None:
        self.item, self.weight, self.start, self.size = item, weight, start, size
        self.positions = int((size - 1).sum())
        self.per_batch, _ = batch_size(self.positions)

    @classmethod
    def of(cls, interactions: Interactions, length: int) -> "Sequences":
        events = positive(interactions)
        weight = (events.weight / weight_scale(interactions)).astype(np.float32)
        bounds = np.flatnonzero(np.r_[True, events.user[1:] != events.user[:-1], True])
        if not len(events):
            bounds = np.zeros(1, np.int64)
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
) -> None:
    """AdamW with a warm-up and a cosine decay over the given number of epochs.

    Args:
        model: the transformer, trained in place.
        sequences: users' events in order.
        negatives: draws items that were not acted on.
        epochs: passes over the sequences, also a fraction.
        params: of the source.
        draw: random generator of the batches.
    """
    import torch

    if not len(sequences.start):
        return
    wanted = round(epochs * sequences.positions / sequences.per_batch)
    steps = min(MOST_STEPS, max(LEAST_STEPS, wanted))
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=params["learning_rate"],
        weight_decay=params["weight_decay"],
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    done, started, total = 0, perf_counter(), 0.0
    while done < steps:
        for items, weights in sequences.batches(draw):
            progress = max(done / steps, (perf_counter() - started) / MOST_SECONDS)
            if progress >= 1.0:
                log.warning("sequence training stopped after %d of %d steps: no time", done, steps)
                done = steps
                break
            optimiser.param_groups[0]["lr"] = params["learning_rate"] * schedule(progress)
            loss = model.loss(torch.from_numpy(items), torch.from_numpy(weights), negatives)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            done += 1
            total += float(loss.detach())
            if done % 100 == 0:
                spent = perf_counter() - started
                log.info("sequence step %d/%d: loss %.3f, %.0f s", done, steps, total / 100, spent)
                total = 0.0
            if done >= steps:
                break
    model.eval()


def schedule(progress: float) -> float:
    """Factor of the learning rate after a share of the steps."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return float(0.5 * (1 + np.cos(np.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))) + 1e-3
