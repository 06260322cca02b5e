"""Own vectors: items near those of the history by vectors that the items brought with them.

An image's embedding, say, or that of a model of yours. A user is the mean of the unit vectors of the
latest liked items, later ones more; an item's score is its cosine with that mean, and beside it the
cosine with the nearest of those items. Events are not read: items nobody has met are scored too, and
items that come after the release are compared with as soon as they are there.

Shapes: N items of the fit, k items behind them, d numbers of a vector, h items of a history.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from recsys.features.catalogue import unit_rows
from recsys.features.interactions import Floats, History, Interactions, Ints
from recsys.features.protocols import Mask, Recalled
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.ann import LISTS_FROM, InvertedLists, scan
from recsys.retrieval.fitted_source import (
    NOTHING,
    Cost,
    FittableSource,
    Room,
    SourceFit,
    SourceInputs,
    check_blocked,
    unsure,
    weighed,
    weight_scale,
)
from recsys.retrieval.history_kernels import Marks
from recsys.retrieval.source_params import SourceParams, param

LOOKED_AT: Final = 20
"""Latest items of the history that are looked at; further back decay leaves .8**20 = .01."""


class OwnVectors(FittableSource):
    """Nearness to the history by the items' own vectors.

    Args:
        rows: float32[N, d], unit vectors; zeros where an item has none.
        known: uint8[N], 1 for items that have one.
        params: as fitted.
        scale: event weight that counts as 1.
        fit_until: time of the fit's last event (µs).
        lists: inverted lists over `rows`; a full scan without.
        extra: float32[k, d], unit vectors of the items behind the fit's.
    """

    name: ClassVar[str] = "own_vectors"  # type: ignore[misc]
    columns: tuple[str, ...] = ("score", "nearest")
    family = "attributes"
    reads = frozenset({"events", "own vectors"})
    cost = Cost.EVENTS
    content = True

    class Params(SourceParams):
        """Of the history that is looked at."""

        decay: float = param(0.8, 0.6, 0.8, 0.9, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""

    def __init__(
        self,
        rows: Floats,
        known: Marks,
        *,
        params: dict[str, float],
        scale: float,
        fit_until: int,
        lists: InvertedLists | None = None,
        extra: Floats | None = None,
    ) -> None:
        super().__init__(params=params, fit_until=fit_until)
        self.rows, self.known, self.lists, self.scale = rows, known, lists, scale
        self.extra = np.zeros((0, rows.shape[1]), np.float32) if extra is None else extra
        self.n_items = len(rows)
        self._extra_known = _given(self.extra)
        self._every_known: Marks = np.concatenate([known, self._extra_known])

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        if inputs.catalogue is None or inputs.catalogue.vectors is None:
            return "the items bring no vectors of their own"
        return None

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """The catalogue's vectors; none where it has none."""
        catalogue, n_items = fit.inputs.catalogue, fit.interactions.n_items
        given = None if catalogue is None else catalogue.vectors
        rows = np.zeros((n_items, 1 if given is None else given.shape[1]), np.float32)
        if given is not None:
            rows[: len(given)] = unit_rows(given[:n_items])
        return {
            "rows": rows,
            "known": _given(rows),
            "scale": weight_scale(fit.interactions),
            "lists": InvertedLists.build(rows, fit.seed) if n_items >= LISTS_FROM else None,
        }

    def with_extra(self, vectors: Floats) -> "OwnVectors":
        """The same source with k more items float32[k, d], of any length of vector, behind the fit's.

        Replaces extras given before; the arrays of the fit are shared.
        """
        fits = vectors.shape[1] == self.rows.shape[1]
        other = OwnVectors(
            self.rows,
            self.known,
            params=self.params,
            scale=self.scale,
            fit_until=self.fit_until,
            lists=self.lists,
            extra=unit_rows(vectors) if fits else None,
        )
        other.fusion_weight = self.fusion_weight
        return other

    def _past(self, history: History) -> tuple[Floats, Floats] | None:
        """(float32[h, d] latest liked items newest first, float32[d] their mean direction); None where
        no item of the history has a vector."""
        items, weights = weighed(
            history, self._every_known, self.params["decay"], self.scale, LOOKED_AT
        )
        rows = np.empty((len(items), self.rows.shape[1]), np.float32)
        old = items < self.n_items
        rows[old] = self.rows[items[old]]
        rows[~old] = self.extra[items[~old] - self.n_items]
        mean = (weights[:, None] * rows).sum(axis=0)
        length = float(np.sqrt(np.dot(mean, mean)))
        if not length > 0.0:
            return None
        return rows, np.ascontiguousarray(mean / length, np.float32)

    def dots(self, queries: Floats, items: Ints) -> Floats:
        """float32[n]: the largest inner product of queries float32[h, d] with each item's vector; NaN
        for items without one."""
        out = np.empty(len(items), np.float32)
        kernels.largest_dots_at(self.rows, queries, self.known, items, out)
        if len(self.extra):
            late = np.flatnonzero(items >= self.n_items)
            among = np.empty(len(late), np.float32)
            behind = np.ascontiguousarray(items[late] - self.n_items, np.int32)
            kernels.largest_dots_at(self.extra, queries, self._extra_known, behind, among)
            out[late] = among
        return out

    def asked(self, history: History, now: int) -> "AskedOwnVectors":
        """A history read, to be asked more than once."""
        past = self._past(history)
        return AskedOwnVectors(self, None, None) if past is None else AskedOwnVectors(self, *past)

    def moment_key(self, history: History, now: int) -> bytes:
        """What of the moment the answers depend on: nothing."""
        return b""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 2]: cosine with the mean of the latest liked items, and with the nearest of them.
        NaN for an item without a vector, and where the history has none."""
        return self.asked(history, now).score(items)

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """The items nearest to the mean of the latest liked ones, best first, ties by item."""
        return self.asked(history, now).recall_each([(limit, blocked)])[0]

    def nearest(self, mean: Floats, limit: int, blocked: Mask) -> Recalled:
        """The items nearest to a direction float32[d], best first, ties by item."""
        near = scan(self.rows, mean, self.known, blocked, limit, self.lists)
        last = min(self.n_items + len(self.extra), len(blocked))
        late = np.arange(self.n_items, last, dtype=np.int32)
        late = late[(blocked[self.n_items : last] == 0) & (self._every_known[late] == 1)]
        if not len(late):
            return near
        items = np.concatenate([near.items, late])
        scores = np.concatenate([near.scores, self.dots(mean[None, :], late)])
        order = np.lexsort((items, -scores))[:limit]
        return Recalled(items[order], scores[order])

    def saved(self) -> tuple[dict[str, Any], dict[str, Any]]:
        lists = {} if self.lists is None else self.lists.arrays()
        return {"scale": self.scale}, {"rows": self.rows, "known": self.known, **lists}

    @classmethod
    def opened(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "rows": arrays["rows"],
            "known": arrays["known"],
            "scale": facts["scale"],
            "lists": InvertedLists.of(arrays),
        }


class AskedOwnVectors(NamedTuple):
    """The latest liked items' vectors before the items' own."""

    source: OwnVectors
    past: Floats | None
    """float32[h, d], newest first; None where no item of the history has a vector."""
    mean: Floats | None
    """float32[d], their mean direction."""

    def score(self, items: Ints) -> Floats:
        """As `OwnVectors.score`."""
        out = unsure(len(items), 2)
        if self.past is not None and self.mean is not None:
            wanted = np.ascontiguousarray(items, np.int32)
            out[:, 0] = self.source.dots(self.mean[None, :], wanted)
            out[:, 1] = self.source.dots(self.past, wanted)
        return out

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """`OwnVectors.recall` for each (limit, blocked)."""
        found = []
        for limit, blocked in asks:
            check_blocked(self.source.name, blocked, self.source.n_items)
            if self.mean is None or limit < 1:
                found.append(NOTHING)
            else:
                found.append(self.source.nearest(self.mean, limit, blocked))
        return found


def _given(rows: Floats) -> Marks:
    """uint8[n]: 1 where a row is a vector and not zeros."""
    return np.asarray(rows.any(axis=1), np.uint8)
