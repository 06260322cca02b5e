"""From a history to a few hundred candidates with every source's word on each.

Each source proposes up to `depth` items; the lists are fused by weighted reciprocal ranks
(Cormack, Clarke, Büttcher, SIGIR 2009) and the best `limit` kept. The same stage makes training
groups, evaluation lists and served lists. Shapes: N items, S sources, n candidates.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import Floats, History, Ints
from recsys.features.protocols import (
    Mask,
    Recalled,
    RecallSource,
    ScoreSource,
)
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.fitted_source import scratch

RRF_OFFSET: Final = 60.0
"""The constant of reciprocal-rank fusion, as published."""


class Candidates(NamedTuple):
    """What is ranked: items by fused rank, and float32[n] signals by name (NaN: not known)."""

    items: Ints
    signals: dict[str, Floats]


class CandidateGenerator:
    """All sources of one bundle, asked together. Safe to call from several threads at once.

    Args:
        sources: by name; those that implement `RecallSource` propose, all score.
        depth: items a source may propose.
        limit: candidates kept.
        weights: fusion weight by source name; the source's own `fusion_weight`, or 1, where
            absent. A weight of 0 leaves a source's list out of the fusion, its scores stay signals.
    """

    def __init__(
        self,
        sources: Mapping[str, ScoreSource],
        depth: int,
        limit: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if depth < 1 or limit < 1:
            raise UsageError(
                "recall needs a depth and a limit of at least 1",
                where="sources.depth, sources.candidates",
                found=f"{depth}, {limit}",
                expected="1 or more",
                fix="correct them",
            )
        self.sources = dict(sources)
        self.depth, self.limit = depth, limit
        given = weights or {}
        self.weights = {
            name: float(given.get(name, getattr(source, "fusion_weight", 1.0)))
            for name, source in self.sources.items()
        }
        self.proposing: dict[str, RecallSource] = {
            name: source
            for name, source in self.sources.items()
            if isinstance(source, RecallSource)
        }
        self.logarithmic = {
            name: bool(getattr(source, "logarithmic", False))
            for name, source in self.proposing.items()
        }
        self.signal_columns: tuple[str, ...] = (
            *(
                f"{name}.{column}"
                for name, source in self.sources.items()
                for column in source.columns
            ),
            *(f"{name}.{column}" for name in self.proposing for column in ("rank", "share")),
            "fused.score",
            "fused.rank",
        )

    def candidates(self, history: History, now: int, blocked: Mask) -> Candidates:
        """The best `limit` items that are not blocked (uint8[>= N]), best fused rank first.

        Never empty while an item that `popular` knows is allowed.
        """
        lists = self._lists(history, now, blocked)
        fused = self._fuse(lists, len(blocked), self.limit)
        return Candidates(
            fused.items, self._signals(history, fused.items, now, lists, fused, len(blocked))
        )

    def signals_for(
        self, history: History, items: Ints, now: int, blocked: Mask
    ) -> dict[str, Floats]:
        """The signals of given items, as if they had been candidates; ranks are those of recall."""
        lists = self._lists(history, now, blocked)
        fused = self._fuse(lists, len(blocked), len(blocked))
        wanted = np.ascontiguousarray(items, np.int32)
        return self._signals(history, wanted, now, lists, fused, len(blocked))

    def _lists(self, history: History, now: int, blocked: Mask) -> dict[str, Recalled]:
        lists = {
            name: source.recall(history, self.depth, now, blocked)
            for name, source in self.proposing.items()
        }
        for name, found in lists.items():
            # the kernels below index without bounds checks
            if len(found.items) and int(found.items.max()) >= len(blocked):
                raise ValueError(
                    f"source '{name}' proposed item {int(found.items.max())}, "
                    f"expected an index below the mask's {len(blocked)}"
                )
        return lists

    def _fuse(self, lists: Mapping[str, Recalled], n_items: int, limit: int) -> Recalled:
        voting = [(self.weights[name], found.items) for name, found in lists.items()]
        chosen = [(weight, items) for weight, items in voting if weight > 0 and len(items)]
        # Somebody new has no list but what is popular, which may weigh nothing where others speak.
        voting = chosen or [(1.0, items) for _, items in voting if len(items)]
        size = min(limit, sum(len(items) for _, items in voting))
        items, scores = np.empty(size, np.int32), np.empty(size, np.float32)
        if size:
            offsets = np.zeros(len(voting) + 1, np.int64)
            np.cumsum([len(found) for _, found in voting], out=offsets[1:])
            space = scratch(n_items)
            size = kernels.fuse(
                offsets,
                np.concatenate([found for _, found in voting]),
                np.array([weight for weight, _ in voting], np.float32),
                RRF_OFFSET,
                space.total, space.mark, space.touched, items, scores,
            )  # fmt: skip
        return Recalled(items[:size], scores[:size])

    def _signals(
        self,
        history: History,
        items: Ints,
        now: int,
        lists: Mapping[str, Recalled],
        fused: Recalled,
        n_items: int,
    ) -> dict[str, Floats]:
        signals: dict[str, Floats] = {}
        for name, source in self.sources.items():
            scores = source.score(history, items, now)
            for c, column in enumerate(source.columns):
                signals[f"{name}.{column}"] = np.ascontiguousarray(scores[:, c])
        for name, found in lists.items():
            rank = places(found.items, items, n_items)
            signals[f"{name}.rank"] = rank
            signals[f"{name}.share"] = share_of_best(found, rank, self.logarithmic[name])
        rank = places(fused.items, items, n_items)
        signals["fused.rank"] = rank
        signals["fused.score"] = value_at(fused.scores, rank)
        return {column: signals[column] for column in self.signal_columns}


def places(listed: Ints, items: Ints, n_items: int) -> Floats:
    """1-based place of each item in a list, NaN where it is not in it: float32[n]."""
    out = np.empty(len(items), np.float32)
    space = scratch(n_items)
    kernels.places(listed, items, space.total, space.mark, out)
    return out


def value_at(values: Floats, rank: Floats) -> Floats:
    """values[rank - 1], NaN where the rank is."""
    out = np.full(len(rank), np.nan, np.float32)
    inside = ~np.isnan(rank)
    out[inside] = values[rank[inside].astype(np.int64) - 1]
    return out


def share_of_best(found: Recalled, rank: Floats, logarithmic: bool) -> Floats:
    """A list's scores relative to its best one, 1 to 0; NaN outside the list.

    The ratio for scores that count from 0 (negative ones give 0), exp(score - best) for logarithms
    of odds and for lists whose best score is not positive.
    """
    if not len(found.items):
        return np.full(len(rank), np.nan, np.float32)
    best = found.scores[0]
    if logarithmic or best <= 0:
        return value_at(np.exp(found.scores - best), rank)
    return value_at(np.maximum(found.scores, 0) / best, rank)
