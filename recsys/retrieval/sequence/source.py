"""The sequence source: what comes next, by a small causal transformer over the history.

An item is its id embedding plus a projection of its text vector, so that items nobody has met yet
are scored by their text. One or more pre-norm blocks with a learned bias per head and distance
read the history; the last state, dotted with every item, is the score. Training is torch's and
lives elsewhere; here are compiled loops, for one user at a time.

Shapes: N items, d model width, H heads, h events of a history, B blocks, m width of a block's
inner layer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats, History, Ints
from recsys.features.protocols import Mask, Recalled
from recsys.retrieval.ann import AskedVectors, InvertedLists
from recsys.retrieval.fitted_source import (
    FittableSource,
    Params,
    read_source,
    weighed,
)
from recsys.retrieval.history_kernels import Marks
from recsys.retrieval.sequence import block_kernels as kernels

BLOCK: Final = (
    "norm1", "attend", "mix", "norm2", "widen", "widen_bias", "narrow", "narrow_bias",
)  # fmt: skip
"""Arrays of a block, in the order that its kernel takes them."""
Weights = Mapping[str, npt.NDArray[Any]]


class SequenceSource(FittableSource):
    """A trained transformer's next-item scores.

    Args:
        items: float32[N, d], id embedding plus projected text; what the blocks read.
        targets: float32[N, d + 1], the same and a bias; what the last state is dotted with.
        known: uint8[N], items with an id embedding or a text.
        weights: the blocks' arrays by name: `distance` float32[B, H, length], and per block b
            `norm1.b`, `norm2.b` float32[2, d], `attend.b` float32[d, 3d], `mix.b` float32[d, d],
            `widen.b` float32[d, m], `widen_bias.b`, `narrow.b`, `narrow_bias.b`; `norm` float32[2,
            d].
        params: as fitted.
        fit_until: time of the fit's last event (µs).
        training: arrays that a later fit continues from, saved but never served.
        lists: inverted lists over `targets`; a full scan without.
        weights_only_for_training: arrays a later fit continues from, saved but never served.
    """

    name: ClassVar[str] = "sequence"  # type: ignore[misc]
    columns: tuple[str, ...] = ("score", "probability")
    logarithmic: ClassVar[bool] = True
    PARAMS: ClassVar[Params] = {
        "width": (128.0, (128.0,)),
        "heads": (2.0, (2.0,)),
        "blocks": (1.0, (1.0,)),
        "length": (20.0, (20.0,)),
        "epochs": (8.0, (8.0,)),
        "dropout": (0.3, (0.3,)),
        "id_dropout": (0.1, (0.1,)),
        "negatives": (1024.0, (1024.0,)),
        "learning_rate": (0.002, (0.002,)),
        "weight_decay": (0.0, (0.0,)),
    }

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
        self.weights, self.training, self.lists = dict(weights), dict(training or {}), lists
        self.params, self.fit_until = params, fit_until
        self.n_items = len(known)
        self.blocks = self.weights["distance"].shape[0]
        self.length = self.weights["distance"].shape[2]

    def query(self, history: History) -> Floats | None:
        """The last state and a 1 for the bias, float32[d + 1]; None for an empty history."""
        item, _ = weighed(history, self.known, 1.0, 1.0, self.length)
        if not len(item):
            return None
        state = self.items[item[::-1]]
        for b in range(self.blocks):
            # only the last row is read of what the last block gives
            asked = 1 if b == self.blocks - 1 else len(state)
            state = kernels.block(
                state, asked, self.weights["distance"][b],
                *(self.weights[f"{name}.{b}"] for name in BLOCK),
            )  # fmt: skip
        last = kernels.normalise(state[-1:], self.weights["norm"])[0]
        return np.append(last, np.float32(1.0))

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

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {
            "items": self.items,
            "targets": self.targets,
            "known": self.known,
            **{f"weights.{name}": array for name, array in self.weights.items()},
            **{f"training.{name}": array for name, array in self.training.items()},
        }
        if self.lists is not None:
            arrays |= self.lists.arrays()
        self.save_arrays(folder, {}, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        facts, arrays = read_source(folder, cls.name)
        return cls(
            arrays["items"],
            arrays["targets"],
            arrays["known"],
            _under("weights.", arrays),
            params=facts["dials"],
            fit_until=facts["fit_until"],
            training=_under("training.", arrays),
            lists=InvertedLists.of(arrays),
        ).voting(facts)


class AskedSequence(AskedVectors):
    """The last state before the items' targets."""

    def score(self, items: Ints) -> Floats:
        """As `SequenceSource.score`."""
        score = super().score(items)
        return np.concatenate([score, np.exp(np.minimum(score, 0.0))], axis=1)


def _under(prefix: str, arrays: Weights) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
