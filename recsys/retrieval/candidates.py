"""From a history to a few hundred candidates with every source's word on each.

Each source proposes up to `depth` items; the lists are fused by weighted reciprocal ranks
(Cormack, Clarke, Büttcher, SIGIR 2009) and the best `limit` kept. Some places are reserved: the
first items of every source's list, and items with few events that the content sources put first
among their like, which the sources of behaviour would never let in. The same stage makes training
groups, evaluation lists and served lists. Shapes: N items, S sources, n candidates.
"""

from collections.abc import Mapping, Sequence
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
from recsys.retrieval.fitted_source import FEW_EVENTS, NOTHING, scratch

RRF_OFFSET: Final = 60.0
"""The constant of reciprocal-rank fusion, as published."""
FIRST_PLACES: Final = 10
"""Items of each source's list that are candidates whatever the fusion makes of them."""
RESERVE: Final = "reserve"
RESERVED: Final = ((0, 0, 20), (1, FEW_EVENTS, 10))
"""Least and most events of an item, and candidates with so many of them that have a place of their
own. Measured on 15,000 histories of purchases, a tenth of the items without events: of what people
went for among those, the candidates hold 18 % instead of 10 %, and as much of everything else."""
MOST_RESERVED: Final = 4
"""Reserved places are at most one candidate in so many."""


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
            f"{RESERVE}.rank",
        )
        counts = (_events_of(source) for source in self.sources.values())
        self._events = next((found for found in counts if found is not None), None)
        """uint8[N]: positive events of each item, as far as they are few; None where nobody counts."""
        self._others: list[Mask] = [np.empty(0, np.uint8)]

    def candidates(self, history: History, now: int, blocked: Mask) -> Candidates:
        """The best `limit` items that are not blocked (uint8[>= N]), best fused rank first.

        Never empty while an item that `popular` knows is allowed.
        """
        lists, reserve = self._lists(history, now, blocked)
        voting = self._voting(lists)
        fused = fuse(voting, len(blocked), len(blocked))
        certain = [listed[:FIRST_PLACES] for _, listed in voting]
        certain += [found.items for found in reserve]
        items = kept(fused.items, np.concatenate([NOTHING.items, *certain]), self.limit)
        return Candidates(
            items, self._signals(history, items, now, lists, fused, reserve, len(blocked))
        )

    def signals_for(
        self, history: History, items: Ints, now: int, blocked: Mask
    ) -> dict[str, Floats]:
        """The signals of given items, as if they had been candidates; ranks are those of recall."""
        lists, reserve = self._lists(history, now, blocked)
        fused = fuse(self._voting(lists), len(blocked), len(blocked))
        wanted = np.ascontiguousarray(items, np.int32)
        return self._signals(history, wanted, now, lists, fused, reserve, len(blocked))

    def _lists(
        self, history: History, now: int, blocked: Mask
    ) -> tuple[dict[str, Recalled], list[Recalled]]:
        """Each source's list, and items with few events as the content sources together rank them
        among their like."""
        room = self._reserved_room(blocked)
        lists: dict[str, Recalled] = {}
        reserved: list[list[Recalled]] = [[] for _ in room]
        for name, source in self.proposing.items():
            if room and getattr(source, "content", False):
                lists[name], *found = recall_each(
                    source, history, now, [(self.depth, blocked), *room]
                )
                for part, one in zip(reserved, found, strict=True):
                    part.append(one)
            else:
                lists[name] = source.recall(history, self.depth, now, blocked)
        for name, found_list in lists.items():
            # the kernels below index without bounds checks
            if len(found_list.items) and int(found_list.items.max()) >= len(blocked):
                raise ValueError(
                    f"source '{name}' proposed item {int(found_list.items.max())}, "
                    f"expected an index below the mask's {len(blocked)}"
                )
        reserve = [
            fuse([(1.0, one.items) for one in part], len(blocked), places)
            for part, (places, _) in zip(reserved, room, strict=True)
        ]
        return lists, reserve

    def _reserved_room(self, blocked: Mask) -> list[tuple[int, Mask]]:
        """Reserved places of each kind of items with few events, and what may not take them."""
        if self._events is None:
            return []
        room = sum(places for _, _, places in RESERVED)
        share = min(1.0, self.limit / MOST_RESERVED / room)
        kinds = self._others
        if len(kinds[0]) != len(blocked):
            kinds = self._others = self._not_so_many(len(blocked))
        return [
            (int(share * places), blocked | others)
            for (_, _, places), others in zip(RESERVED, kinds, strict=True)
        ]

    def _not_so_many(self, n_items: int) -> list[Mask]:
        """uint8[n] for each kind of `RESERVED`: 1 for items with another number of events."""
        assert self._events is not None
        events = np.zeros(n_items, np.uint8)  # an item that came after the fit has none
        known = min(n_items, len(self._events))
        events[:known] = self._events[:known]
        return [
            ((events < least) | (events > most)).astype(np.uint8) for least, most, _ in RESERVED
        ]

    def _voting(self, lists: Mapping[str, Recalled]) -> list[tuple[float, Ints]]:
        """Weight and items of the lists that are fused."""
        voting = [(self.weights[name], found.items) for name, found in lists.items()]
        chosen = [(weight, items) for weight, items in voting if weight > 0 and len(items)]
        # Somebody new has no list but what is popular, which may weigh nothing where others speak.
        return chosen or [(1.0, items) for _, items in voting if len(items)]

    def _signals(
        self,
        history: History,
        items: Ints,
        now: int,
        lists: Mapping[str, Recalled],
        fused: Recalled,
        reserve: Sequence[Recalled],
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
        signals[f"{RESERVE}.rank"] = np.full(len(items), np.nan, np.float32)
        for found in reserve:
            rank = places(found.items, items, n_items)
            inside = ~np.isnan(rank)
            signals[f"{RESERVE}.rank"][inside] = rank[inside]
        return {column: signals[column] for column in self.signal_columns}


def recall_each(
    source: RecallSource, history: History, now: int, asks: Sequence[tuple[int, Mask]]
) -> list[Recalled]:
    """A source's list for each (limit, blocked), with one look at the catalogue where it can."""
    together = getattr(source, "recall_each", None)
    if together is None:
        return [source.recall(history, limit, now, blocked) for limit, blocked in asks]
    found: list[Recalled] = together(history, now, asks)
    return found


def fuse(voting: Sequence[tuple[float, Ints]], n_items: int, limit: int) -> Recalled:
    """The best `limit` items of lists (weight, items best first) by weighted reciprocal ranks."""
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


def _events_of(source: ScoreSource) -> Mask | None:
    """uint8[N]: positive events of each item, where a source has counted them."""
    events: Mask | None = getattr(source, "events", None)
    return events


def kept(ranked: Ints, reserved: Ints, limit: int) -> Ints:
    """At most `limit` items: the reserved ones, and the best of the ranked; in the ranked order, what
    has no rank last.

    >>> kept(np.array([5, 3, 8, 1], np.int32), np.array([1, 9, 1], np.int32), 3)
    array([5, 1, 9], dtype=int32)
    """
    _, first = np.unique(reserved, return_index=True)
    reserved = reserved[np.sort(first)]
    chosen = np.isin(ranked, reserved)
    alone = reserved[~np.isin(reserved, ranked)]
    room = max(0, limit - int(chosen.sum()) - len(alone))
    chosen[np.flatnonzero(~chosen)[:room]] = True
    return np.concatenate([ranked[chosen], alone])[:limit]


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
