"""The sequence source: what comes next, by a small causal transformer over the history.

An item is its id embedding plus a projection of its text vector, so that items nobody has met yet
are scored by their text. One or more pre-norm blocks with a learned bias per head and distance
read the history; the last state, dotted with every item, is the score. Training is torch's and
lives elsewhere; here is only numpy, for one user at a time.

Shapes: N items, d model width, H heads, h events of a history, B blocks, m width of a block's
inner layer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from features.interactions import Floats, History, Ints
from features.protocols import Mask, Recalled
from recsys.collaborative import kernels
from recsys.collaborative.base import (
    NOTHING,
    Dials,
    FittableSource,
    check_blocked,
    read_source,
    unsure,
    weighed,
)
from recsys.collaborative.dense import InvertedLists, scan
from recsys.collaborative.kernels import Marks

NORM_EPSILON: Final = 1e-5
Weights = Mapping[str, npt.NDArray[Any]]


class SequenceSource(FittableSource):
    """A trained transformer's next-item scores.

    Args:
        items: float32[N, d], id embedding plus projected text; what the blocks read.
        targets: float32[N, d + 1], the same and a bias; what the last state is dotted with.
        known: uint8[N], items with an id embedding or a text.
        weights: the blocks' arrays by name: `distance` float32[B, H, length], and per block b
            `norm1.b`, `norm2.b` float32[2, d], `attend.b` float32[d, 3d], `mix.b` float32[d, d],
            `widen.b` float32[d, m], `widen_bias.b`, `narrow.b`, `narrow_bias.b`; `norm` float32[2, d].
        weights_only_for_training: arrays a later fit continues from, saved but never served.
    """

    name: ClassVar[str] = "sequence"  # type: ignore[misc]
    columns: tuple[str, ...] = ("score", "probability")
    logarithmic: ClassVar[bool] = True
    DIALS: ClassVar[Dials] = {
        "width": (128.0, (128.0,)),
        "heads": (2.0, (2.0,)),
        "blocks": (1.0, (1.0,)),
        "length": (20.0, (20.0,)),
        "epochs": (8.0, (8.0,)),
        "dropout": (0.2, (0.2,)),
        "id_dropout": (0.1, (0.1,)),
        "negatives": (512.0, (512.0,)),
        "learning_rate": (0.003, (0.003,)),
        "weight_decay": (0.0, (0.0,)),
    }

    def __init__(
        self,
        items: Floats,
        targets: Floats,
        known: Marks,
        weights: Weights,
        *,
        dials: dict[str, float],
        fit_until: int,
        training: Weights | None = None,
        lists: InvertedLists | None = None,
    ) -> None:
        self.items, self.targets, self.known = items, targets, known
        self.weights, self.training, self.lists = dict(weights), dict(training or {}), lists
        self.dials, self.fit_until = dials, fit_until
        self.n_items = len(known)
        self.blocks = self.weights["distance"].shape[0]
        self.length = self.weights["distance"].shape[2]

    def query(self, history: History) -> Floats | None:
        """The last state and a 1 for the bias, float32[d + 1]; None for an empty history."""
        item, _ = weighed(history, self.known, 1.0, 1.0, self.length)
        if not len(item):
            return None
        state = self.items[item[::-1]]
        for block in range(self.blocks):
            state = self._block(block, state, last_only=block == self.blocks - 1)
        last = normalised(state[-1], self.weights["norm"])
        return np.append(last, np.float32(1.0))

    def _block(self, b: int, state: Floats, last_only: bool) -> Floats:
        """One causal block over float32[h, d]; only the last row where no later block reads more."""
        w = self.weights
        width, heads = state.shape[1], w["distance"].shape[1]
        mixed = normalised(state, w[f"norm1.{b}"]) @ w[f"attend.{b}"]
        asking = slice(len(state) - 1, None) if last_only else slice(None)
        split = [mixed[:, k * width : (k + 1) * width] for k in range(3)]
        gap = np.arange(len(state))[asking, None] - np.arange(len(state))[None, :]
        out = np.empty((len(gap), width), np.float32)
        size = width // heads
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            logits = split[0][asking, part] @ split[1][:, part].T / np.float32(np.sqrt(size))
            logits += w["distance"][b, head][np.maximum(gap, 0)]
            logits[gap < 0] = -np.inf
            out[:, part] = softmax(logits) @ split[2][:, part]
        state = state[asking] + out @ w[f"mix.{b}"]
        inner = normalised(state, w[f"norm2.{b}"]) @ w[f"widen.{b}"] + w[f"widen_bias.{b}"]
        return state + np.maximum(inner, 0) @ w[f"narrow.{b}"] + w[f"narrow_bias.{b}"]  # type: ignore[no-any-return]

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 2]: the logarithm of the estimated chance of being next, and that chance.

        The sampled softmax does not normalise, so the chance is cut at 1.
        """
        out = unsure(len(items), 2)
        query = self.query(history)
        if query is not None:
            wanted = np.ascontiguousarray(items, np.int32)
            score = np.empty(len(items), np.float32)
            kernels.dots_at(self.targets, query, self.known, wanted, score)
            out[:, 0] = score
            out[:, 1] = np.exp(np.minimum(score, 0.0))
        return out

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """The likeliest next items."""
        check_blocked(self.name, blocked, self.n_items)
        query = self.query(history)
        if query is None or limit < 1:
            return NOTHING
        return scan(self.targets, query, self.known, blocked, limit, self.lists)

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
            dials=facts["dials"],
            fit_until=facts["fit_until"],
            training=_under("training.", arrays),
            lists=InvertedLists.of(arrays),
        ).voting(facts)


def _under(prefix: str, arrays: Weights) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def normalised(state: Floats, norm: Floats) -> Floats:
    """Layer norm over the last axis; norm is float32[2, d]: gain and bias."""
    mean = state.mean(axis=-1, keepdims=True)
    centred = state - mean
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    out: Floats = centred / np.sqrt(variance + np.float32(NORM_EPSILON)) * norm[0] + norm[1]
    return out


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
    out: Floats = grown / grown.sum(axis=-1, keepdims=True)
    return out
