"""How model scores come into features and recall: the two protocols of every source.

A source is fitted elsewhere; here is only what the ranking path needs to call it, one user at a
time, the same call offline and online. Item indices are those of the workspace's append-only item
vocabulary. A source knows the first `n_items` of them; an index at or beyond is new to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats, History, Ints

Mask = npt.NDArray[np.uint8]


class Recalled(NamedTuple):
    """A source's list, best first."""

    items: Ints
    scores: Floats


@runtime_checkable
class ScoreSource(Protocol):
    """Scores (history, candidate) pairs."""

    name: str
    columns: tuple[str, ...]
    """Names of the scores given, in order; a source with one score names it "score"."""
    fit_until: int
    """Time of the last event the fit saw (µs); rows at or before it must not be scored for
    training or evaluation. Minus 2**62 when nothing was fitted."""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, len(columns)]; NaN where the source cannot say (unknown item, empty history)."""
        ...

    def save(self, folder: Path) -> None:
        """Write arrays (npy) and a `source.json` into an existing empty folder. No pickles."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open what `save` wrote; arrays are memory-mapped."""
        ...


@runtime_checkable
class RecallSource(ScoreSource, Protocol):
    """A score source that can also propose items."""

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """At most `limit` items with the highest score, best first, ties by item index.

        `blocked` is uint8[>= n_items]: items with 1 are never returned. Items with no score
        (nothing known in favour) are not returned, so the list may be short or empty.
        """
        ...


class AskedSource(Protocol):
    """A recall source that has read one history at one moment, to be asked more than once.

    A source may have a method `asked(history, now)` that gives one; `recall` and `score` then ask it.
    """

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """`recall` for each (limit, blocked)."""
        ...

    def score(self, items: Ints) -> Floats:
        """`ScoreSource.score` of n items."""
        ...


class SignalTable(Mapping[str, Floats]):
    """Signals of n candidates as rows of one table, so that many can be read at once.

    Args:
        rows: name → row of the table; the same mapping for every list of a recall stage.
        table: float32[r, n], with a row for each name at least.
    """

    def __init__(self, rows: Mapping[str, int], table: Floats) -> None:
        self.rows, self.table = rows, table

    def __getitem__(self, name: str) -> Floats:
        signal: Floats = self.table[self.rows[name]]
        return signal

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
