"""The sequence source: what comes next, by a small causal transformer over the history.

An item is its id embedding plus a projection of its text vector, so that items nobody has met yet
are scored by their text. One or more pre-norm blocks with a learned bias per head and distance
read the history; the last state, dotted with every item, is the score. Training is torch's and
lives elsewhere; here are compiled loops, for one user at a time.

Several members (fits from different seeds) are one source: their items stand side by side, so that one
inner product gives the mean of their scores.

Shapes: N items, M members, d width of a member, H heads, h events of a history, B blocks of all members, m
width of a block's inner layer.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats, History, Interactions, Ints
from recsys.features.protocols import Mask, Recalled
from recsys.retrieval.ann import InvertedLists
from recsys.retrieval.asked_vectors import AskedVectors
from recsys.retrieval.fitted_source import (
    Afforded,
    Cost,
    FittableSource,
    Room,
    SourceFit,
    SourceInputs,
    weighed,
)
from recsys.retrieval.history_kernels import Marks
from recsys.retrieval.sequence import block_kernels as kernels
from recsys.retrieval.source_params import SourceParams, param

BLOCK: Final = (
    "norm1", "attend", "mix", "norm2", "widen", "widen_bias", "narrow", "narrow_bias",
)  # fmt: skip
"""Arrays of a block, in the order that its kernel takes them."""
TRAINING: Final = "recsys.training.sources.sequence"
LEAST_PAIRS: Final = 2000
"""Consecutive events below which it learns nothing (assumed)."""
POSITIONS_PER_BATCH: Final = 1024
"""Four times as many steps as with 4,096 positions for the same processor time, and a better model."""
BATCHES_PER_EPOCH: Final = 40
"""Batches an epoch has at least, where there are few positions."""
STEP: Final = (0.024, 3.1e-5)
"""Seconds of a training step on two cores, at least and for each position in it (measured: 0.046
processor seconds with 64 positions, 0.098 with 1,024)."""
SHARE: Final = 0.65
"""Share of the sources' budget that it may take (assumed; the others take minutes only where a
catalogue is large)."""
FITS: Final = 4
"""Fits of an expensive source: for its params, the ranker's windows, the test, the release."""
LEAST_EPOCHS, MOST_EPOCHS = 2, 20
Weights = Mapping[str, npt.NDArray[Any]]


class SequenceSource(FittableSource):
    """A trained transformer's next-item scores.

    Args:
        items: float32[N, M·d], id embedding plus projected text of each member; what its blocks read.
        targets: float32[N, M·d + 1], the same over M and the mean bias; what the last states are dotted
            with.
        known: uint8[N], items with an id embedding or a text.
        weights: the blocks' arrays by name: `distance` float32[B, H, length], and per block b
            `norm1.b`, `norm2.b` float32[2, d], `attend.b` float32[d, 3d], `mix.b` float32[d, d],
            `widen.b` float32[d, m], `widen_bias.b`, `narrow.b`, `narrow_bias.b`; `norm` float32[2,
            M·d]. The first member's blocks come first.
        params: as fitted.
        fit_until: time of the fit's last event (µs).
        training: arrays that a later fit continues from, saved but never served.
        lists: inverted lists over `targets`; a full scan without.
        weights_only_for_training: arrays a later fit continues from, saved but never served.
    """

    name: ClassVar[str] = "sequence"  # type: ignore[misc]
    columns: tuple[str, ...] = ("score", "probability")
    logarithmic: ClassVar[bool] = True
    family = "collaborative"
    reads = frozenset({"events", "order", "vectors"})
    cost = Cost.NETWORK
    warm = True
    tells = ("alike_people",)

    class Params(SourceParams):
        """Of the transformer and its training."""

        width: float = param(128, 128, unit="numbers", least=1)
        """Of an item's embedding and of the states."""
        heads: float = param(2, 2, unit="heads", least=1)
        """Of the attention; they divide the width."""
        blocks: float = param(1, 1, unit="blocks", least=1)
        """Of the transformer."""
        length: float = param(20, 20, unit="events", least=1)
        """Latest events that are read."""
        epochs: float = param(8, 8, unit="epochs")
        """Passes over the events at most; the night's time decides where nothing is set."""
        dropout: float = param(0.3, 0.3, unit="share", most=1)
        """Numbers of a state left out in training."""
        id_dropout: float = param(0.1, 0.1, unit="share", most=1)
        """Items known by their text alone in training."""
        negatives: float = param(1024, 1024, unit="items")
        """Drawn for each batch; 0: all items, each once."""
        members: float = param(1, 1, unit="fits", least=1, most=8)
        """From different seeds, whose scores are averaged."""
        learning_rate: float = param(0.002, 0.002, unit="1")
        """Of AdamW, at its height."""
        weight_decay: float = param(0, 0, unit="1")
        """Of AdamW."""

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        liked = interactions.weight > 0
        pairs = int(liked.sum()) - np.count_nonzero(np.bincount(interactions.user[liked]))
        if pairs < LEAST_PAIRS:
            return f"{pairs} consecutive events are too few, at least {LEAST_PAIRS} needed"
        return None

    @classmethod
    def budgeted(cls, interactions: Interactions, seconds: float) -> dict[str, float] | None:
        """The epochs that its share of the time allows; None where they are too few.

        What an epoch costs follows from the number of events, so the number is found without a clock
        and is the same on every machine.
        """
        batch, batches = batch_size(max(1, int((interactions.weight > 0).sum())))
        least, each = STEP
        allowed = SHARE * seconds / FITS / (batches * (least + each * batch))
        return None if allowed < LEAST_EPOCHS else {"epochs": int(min(allowed, MOST_EPOCHS))}

    @classmethod
    def afforded(cls, fit: SourceFit, seconds: float) -> Afforded:
        """A larger model, as training's half of this source measures it."""
        measure: Callable[[SourceFit, float], Afforded] = import_module(TRAINING).afforded
        return measure(fit, SHARE * seconds)

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """As training's half of this source learns it; the ranking path never imports that."""
        learn: Callable[[SourceFit], dict[str, Any]] = import_module(TRAINING).learned
        return learn(fit)

    def __init__(
        self,
        items: Floats,
        targets: Floats,
        known: Marks,
        weights: Weights,
        *,
        params: dict[str, float],
        fit_until: int,
        training: Weights | None = None,
        lists: InvertedLists | None = None,
    ) -> None:
        self.items, self.targets, self.known = items, targets, known
        super().__init__(params=params, fit_until=fit_until)
        self.weights, self.training, self.lists = dict(weights), dict(training or {}), lists
        self.n_items = len(known)
        self.members = int(params.get("members", 1))
        self.blocks = self.weights["distance"].shape[0] // self.members
        self.length = self.weights["distance"].shape[2]

    def query(self, history: History) -> Floats | None:
        """The members' last states and a 1 for the bias, float32[M·d + 1]; None for an empty history."""
        item, _ = weighed(history, self.known, 1.0, 1.0, self.length)
        if not len(item):
            return None
        rows = self.items[item[::-1]]
        states = [self._last_state(member, rows) for member in range(self.members)]
        return np.concatenate([*states, np.ones(1, np.float32)])

    def _last_state(self, member: int, rows: Floats) -> Floats:
        """What a member's blocks make of the items float32[h, M·d] of a history, float32[d]."""
        width = rows.shape[1] // self.members
        own = slice(member * width, (member + 1) * width)
        state = np.ascontiguousarray(rows[:, own])
        first = member * self.blocks
        for b in range(first, first + self.blocks):
            # only the last row is read of what the last block gives
            asked = 1 if b == first + self.blocks - 1 else len(state)
            state = kernels.block(
                state, asked, self.weights["distance"][b],
                *(self.weights[f"{name}.{b}"] for name in BLOCK),
            )  # fmt: skip
        norm = np.ascontiguousarray(self.weights["norm"][:, own])
        last: Floats = kernels.normalise(state[-1:], norm)[0]
        return last

    def asked(self, history: History, now: int) -> "AskedSequence":
        """A history read by the blocks, to be asked more than once."""
        query = self.query(history)
        return AskedSequence(self.name, self.targets, query, self.known, self.lists)

    def moment_key(self, history: History, now: int) -> bytes:
        """What of the moment the answers depend on: nothing."""
        return b""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 2]: the logarithm of the estimated chance of being next, and that chance.

        The sampled softmax does not normalise, so the chance is cut at 1.
        """
        return self.asked(history, now).score(items)

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """The likeliest next items."""
        return self.asked(history, now).recall_each([(limit, blocked)])[0]

    def saved(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {
            "items": self.items,
            "targets": self.targets,
            "known": self.known,
            **{f"weights.{name}": array for name, array in self.weights.items()},
            **{f"training.{name}": array for name, array in self.training.items()},
            **({} if self.lists is None else self.lists.arrays()),
        }

    @classmethod
    def opened(cls, facts: Mapping[str, Any], arrays: Weights) -> dict[str, Any]:
        own = {name: arrays[name] for name in ("items", "targets", "known")}
        parts = {part: _under(f"{part}.", arrays) for part in ("weights", "training")}
        return {**own, **parts, "lists": InvertedLists.of(arrays)}


def batch_size(positions: int) -> tuple[int, float]:
    """Positions of a batch, and batches of an epoch, for that many predicted positions in all."""
    size = min(POSITIONS_PER_BATCH, max(64, positions // BATCHES_PER_EPOCH))
    return size, positions / size


class AskedSequence(AskedVectors):
    """The last state before the items' targets."""

    def score(self, items: Ints) -> Floats:
        """As `SequenceSource.score`."""
        score = super().score(items)
        return np.concatenate([score, np.exp(np.minimum(score, 0.0))], axis=1)


def _under(prefix: str, arrays: Weights) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
