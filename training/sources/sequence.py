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
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
from recsys.retrieval.fitted_source import Afforded, SourceFit, positive, support, weight_scale
from recsys.retrieval.sequence.source import batch_size
from recsys.training.deterministic import deterministic

if TYPE_CHECKING:
    from recsys.training.device_plan import SequenceSize

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
SEED_STEP: Final = 7919
"""Between the seeds of two members."""
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
    members = [_member(fit, number) for number in range(int(fit.params["members"]))]
    arrays = side_by_side([member.exported() for member in members])
    targets, known = arrays.pop("targets"), members[0].known()
    return {
        "items": arrays.pop("items"),
        "targets": targets,
        "known": known,
        "weights": arrays,
        "training": {
            f"{_prefix(number)}{name}": array
            for number, member in enumerate(members)
            for name, array in member.state().items()
        },
        "lists": InvertedLists.build(targets, fit.seed) if len(known) >= LISTS_FROM else None,
    }


def _prefix(member: int) -> str:
    """Of the names of a member's weights; the first has none."""
    return f"member{member}." if member else ""


def _member(fit: SourceFit, number: int) -> Any:
    """One trained model; each has a seed of its own."""
    import torch

    from recsys.encoder.device import best_device, computes_in_half
    from recsys.training.sources.sequence_model import SequenceModel

    params, seed = fit.params, fit.seed + SEED_STEP * number
    counts, draw = support(fit.interactions), np.random.default_rng(seed)
    torch.manual_seed(seed)
    kept, held = hold_out(positive(fit.interactions), int(params["length"]), draw)
    sequences = Sequences.of(kept, int(params["length"]), weight_scale(fit.interactions))
    model = SequenceModel(counts, fit.inputs.vectors, params, MOST_IDS)
    earlier = {} if fit.previous is None else _under(_prefix(number), fit.previous.training)
    continued = model.continue_from(earlier)
    model.to(best_device())
    model.half = computes_in_half(model.device)
    epochs = params["epochs"] * (WARM_EPOCH_SHARE if continued else 1.0)
    negatives = Negatives(counts, int(params["negatives"]), draw)
    done, steps = train(model, sequences, negatives, epochs, params, draw, held)
    if done < steps:
        fit.cut_short.append(
            f"the sequence model stopped after {done:,} of {steps:,} steps: {MOST_SECONDS:.0f} s were over"
        )
    return model


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one member by their own names."""
    own = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    return own if prefix else {n: a for n, a in own.items() if not n.startswith("member")}


def side_by_side(members: Sequence[dict[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `SequenceSource` of members that are averaged: inner products of what stands side by side
    add up."""
    if len(members) == 1:
        return members[0]
    count = len(members)
    own = [member["targets"] for member in members]
    out = {
        "items": np.concatenate([member["items"] for member in members], axis=1),
        "targets": np.concatenate(
            [*(t[:, :-1] / count for t in own), sum(t[:, -1:] for t in own) / count], axis=1
        ).astype(np.float32),
        "norm": np.concatenate([member["norm"] for member in members], axis=1),
        "distance": np.concatenate([member["distance"] for member in members]),
    }
    of_blocks = members[0].keys() - out.keys()
    for number, member in enumerate(members):
        for name in of_blocks:
            part, _, block = name.rpartition(".")
            out[f"{part}.{number * len(member['distance']) + int(block)}"] = member[name]
    return out


def afforded(fit: SourceFit, seconds: float) -> Afforded:
    """What the device affords in some seconds for all fits of a night; on a GPU twenty steps of each size that
    may fit are timed."""
    from recsys.encoder.device import best_device
    from recsys.training.device_plan import SequenceData, SequenceSize, plan_sequence
    from recsys.training.device_speed import device_facts

    device = device_facts(best_device())
    size, vectors = int((fit.interactions.weight > 0).sum()), fit.inputs.vectors
    batch, _ = batch_size(max(1, size))
    data = SequenceData(
        fit.interactions.n_items,
        size,
        batch,
        0 if vectors is None else vectors.shape[1],
        int(fit.params["length"]),
    )

    def seconds_of(size: SequenceSize) -> float | None:
        return _seconds_of_step(fit, size)

    plan = plan_sequence(device, data, seconds, seconds_of, most_seconds=MOST_SECONDS)
    return Afforded(plan.settings(), plan.note)


def _seconds_of_step(fit: SourceFit, size: "SequenceSize") -> float | None:
    """Of a step of a size, on the device that is chosen."""
    import torch

    from recsys.encoder.device import best_device, computes_in_half
    from recsys.training.device_speed import TIMED, WARM_UP, seconds_of_step
    from recsys.training.sources.sequence_model import SequenceModel

    changed = {"width": size.width, "blocks": size.blocks, "negatives": size.negatives}
    params = {**fit.params, **{name: float(value) for name, value in changed.items()}}
    counts, draw = support(fit.interactions), np.random.default_rng(fit.seed)
    with torch.random.fork_rng():
        length = int(params["length"])
        events = positive(fit.interactions)
        sequences = Sequences.of(events, length, weight_scale(fit.interactions))
        batches = list(islice(sequences.forever(draw), WARM_UP + TIMED))
        negatives = Negatives(counts, size.negatives, draw)
        try:
            model = SequenceModel(counts, fit.inputs.vectors, params, MOST_IDS).to(best_device())
        except torch.OutOfMemoryError:
            return None
        model.half = computes_in_half(model.device)
        optimiser = _optimiser(model, params)
        model.train()
        waiting = iter(batches)
        return seconds_of_step(
            lambda: _step(model, optimiser, *next(waiting), negatives),
            model.device,
            warm_up=WARM_UP,
            timed=TIMED,
        )


class Negatives:
    """Shared negatives of a batch, with the logarithm of how often each is expected."""

    def __init__(self, counts: Ints, number: int, draw: np.random.Generator) -> None:
        """`number` of them; 0 stands for all items, each once and as it is."""
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
) -> tuple[int, int]:
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

    Returns:
        steps done, and steps for which there should have been time; as many where it ended early by what
        was held out.
    """
    if not len(sequences.start):
        return 0, 0
    per_epoch = sequences.positions / sequences.per_batch
    steps = max(LEAST_STEPS, round(epochs * per_epoch))
    optimiser = _optimiser(model, params)
    best = Best(model, held)
    look = max(1, round(max(per_epoch, steps / LOOKS)))
    started, ended = perf_counter(), steps
    model.train()
    for done, (items, weights) in enumerate(islice(sequences.forever(draw), steps)):
        progress = max(done / steps, (perf_counter() - started) / MOST_SECONDS)
        if progress >= 1.0:
            log.warning("sequence training stopped after %d of %d steps: no time", done, steps)
            ended = done
            break
        optimiser.param_groups[0]["lr"] = params["learning_rate"] * schedule(progress)
        _step(model, optimiser, items, weights, negatives)
        if (done + 1) % look == 0 or done + 1 == steps:
            best.look(done + 1)
            if best.is_past:
                break
    best.restore()
    model.eval()
    return ended, steps


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
