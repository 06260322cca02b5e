"""From a history to a few hundred candidates with every source's word on each.

Each source proposes up to `depth` items; the lists are fused by weighted reciprocal ranks
(Cormack, Clarke, Büttcher, SIGIR 2009) and the best `limit` kept. Some places are reserved: the
first items of every source's list, and items with few events that the content sources put first
among their like, which the sources of behaviour would never let in. The same stage makes training
groups, evaluation lists and served lists. Shapes: N items, S sources, n candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import Floats, History, Ints, Longs
from recsys.features.protocols import (
    AskedSource,
    Mask,
    Recalled,
    RecallSource,
    ScoreSource,
    SignalTable,
)
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.fitted_source import FEW_EVENTS, NOTHING, scratch

_SERIALS = count()
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


SMALL_PARTS: Final = 12_000
"""Bytes of a read history besides its lists: users' vectors, weighed events, Python's own (measured)."""


class Candidates(NamedTuple):
    """What is ranked: items by fused rank, and float32[n] signals by name (NaN: not known)."""

    items: Ints
    signals: Mapping[str, Floats]


class AskedPlainly(NamedTuple):
    """A source without a reading of its own: each question gives it the history again."""

    source: ScoreSource
    history: History
    now: int

    def score(self, items: Ints) -> Floats:
        """As `ScoreSource.score`."""
        return self.source.score(self.history, items, self.now)

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """`RecallSource.recall` for each (limit, blocked)."""
        assert isinstance(self.source, RecallSource)
        return [self.source.recall(self.history, limit, self.now, mask) for limit, mask in asks]


@dataclass(frozen=True)
class HistoryRecall:
    """What all sources say of one history at one moment: enough to give the signals of any items.

    Two of equal histories, masks and `CandidateGenerator.moment_key` are equal to the last bit.
    """

    asked: Mapping[str, AskedSource]
    """By name, of every source."""
    proposing: int
    """How many sources propose; their lists come first below, then the fused one, then the reserved."""
    offsets: Longs
    """int64[L+1], bounds of the lists."""
    listed: Ints
    """int32[l], items of the lists, best first."""
    share: Floats
    """float32[l]: score relative to the best of a source's list; the fused list's scores."""
    certain: Ints
    """Items that are candidates whatever the fusion makes of them; some may stand twice."""
    n_items: int
    """Items that the mask covered."""
    found: dict[int, "Candidates"] = field(default_factory=dict)
    """Candidates that were asked for before, by their limit."""

    @property
    def fused(self) -> Ints:
        """int32[f]: items of all lists, best fused first."""
        return self.listed[self.offsets[self.proposing] : self.offsets[self.proposing + 1]]

    @property
    def size(self) -> int:
        """Bytes, about."""
        kept = sum(len(one.items) * 4 * (1 + len(one.signals)) for one in self.found.values())
        return SMALL_PARTS + self.listed.nbytes + self.share.nbytes + kept


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
        self.serial = next(_SERIALS)
        """Tells this stage from every other of the process."""
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
        self._scores = tuple(
            f"{name}.{column}" for name, source in self.sources.items() for column in source.columns
        )
        self.signal_columns: tuple[str, ...] = (
            *self._scores,
            *(f"{name}.{column}" for name in self.proposing for column in ("rank", "share")),
            "fused.score",
            "fused.rank",
            f"{RESERVE}.rank",
        )
        self._rows = {name: row for row, name in enumerate(self.signal_columns)}
        self._reading = {n for n, source in self.sources.items() if _defines(source, "asked")}
        keyed = [s for s in self.sources.values() if _defines(s, "moment_key")]
        self._keyed: list[Any] = keyed if len(keyed) == len(self.sources) else []
        """All sources, where each says what of the moment its answers depend on."""
        counts = (_events_of(source) for source in self.sources.values())
        self._events = next((found for found in counts if found is not None), None)
        """uint8[N]: positive events of each item, as far as they are few; None where nobody counts."""
        self._others: list[Mask] = [np.empty(0, np.uint8)]

    def candidates(self, history: History, now: int, blocked: Mask) -> Candidates:
        """The best `limit` items that are not blocked (uint8[>= N]), best fused rank first.

        Never empty while an item that `popular` knows is allowed.
        """
        return self.found(self.read(history, now, blocked))

    def found(self, read: HistoryRecall) -> Candidates:
        """The candidates of a history that was read."""
        before = read.found.get(self.limit)
        if before is not None:
            return before
        items = kept(read.fused, read.certain, self.limit)
        made = read.found[self.limit] = Candidates(items, self.signals(read, items))
        return made

    def signals_for(
        self, history: History, items: Ints, now: int, blocked: Mask
    ) -> Mapping[str, Floats]:
        """The signals of given items, as if they had been candidates; ranks are those of recall."""
        return self.signals(self.read(history, now, blocked), items)

    def moment_key(self, history: History, now: int) -> tuple[bytes, ...] | None:
        """What of the moment the sources' answers for a history depend on; None where one does not say."""
        if not self._keyed:
            return None
        return tuple(source.moment_key(history, now) for source in self._keyed)

    def read(self, history: History, now: int, blocked: Mask) -> HistoryRecall:
        """Each source's list, their fusion, and items with few events as the content sources together
        rank them among their like.

        Args:
            history: a user's events, oldest first.
            now: the moment, µs.
            blocked: uint8[>= N], 1 for items that are in no list.
        """
        room = self._reserved_room(blocked)
        asked: dict[str, AskedSource] = {
            name: source.asked(history, now)  # type: ignore[attr-defined]
            if name in self._reading
            else AskedPlainly(source, history, now)
            for name, source in self.sources.items()
        }
        lists: dict[str, Recalled] = {}
        reserved: list[list[Recalled]] = [[] for _ in room]
        for name in self.proposing:
            content = getattr(self.sources[name], "content", False)
            asks = [(self.depth, blocked), *(room if content else [])]
            lists[name], *few = asked[name].recall_each(asks)
            for part, one in zip(reserved, few, strict=False):
                part.append(one)
        for name, found in lists.items():
            # the kernels below index without bounds checks
            if len(found.items) and int(found.items.max()) >= len(blocked):
                raise ValueError(
                    f"source '{name}' proposed item {int(found.items.max())}, "
                    f"expected an index below the mask's {len(blocked)}"
                )
        voting = self._voting(lists)
        fused = fuse(voting, len(blocked), len(blocked))
        reserve = [
            fuse([(1.0, one.items) for one in part], len(blocked), places)
            for part, (places, _) in zip(reserved, room, strict=True)
        ]
        parts = [*lists.values(), fused, *reserve]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part.items) for part in parts], out=offsets[1:])
        shares = [share_of_best(found, self.logarithmic[name]) for name, found in lists.items()]
        first = [listed[:FIRST_PLACES] for _, listed in voting]
        return HistoryRecall(
            asked,
            len(lists),
            offsets,
            np.concatenate([part.items for part in parts]),
            np.concatenate([*shares, *(part.scores for part in parts[len(lists) :])]),
            np.concatenate([NOTHING.items, *first, *(part.items for part in reserve)]),
            len(blocked),
        )

    def signals(self, read: HistoryRecall, items: Ints) -> SignalTable:
        """float32[n] by name of given items, of a history that was read."""
        wanted = np.ascontiguousarray(items, np.int32)
        scored, lists = len(self._scores), len(read.offsets) - 1
        # A row more than needed, for the case that no places are reserved.
        out = np.full((scored + 2 * lists + 1, len(wanted)), np.nan, np.float32)
        at = 0
        for name, source in self.sources.items():
            width = len(source.columns)
            out[at : at + width] = read.asked[name].score(wanted).T
            at += width
        place = scratch(read.n_items).place
        kernels.places_in_lists(read.offsets, read.listed, read.share, wanted, place, out[scored:])
        fused = scored + 2 * read.proposing
        out[[fused, fused + 1]] = out[[fused + 1, fused]]  # its score stands before its rank
        reserve = out[fused + 2 :]
        for part in reserve[2:-1:2]:
            inside = ~np.isnan(part)
            reserve[0][inside] = part[inside]
        return SignalTable(self._rows, out)

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


def _defines(source: object, method: str) -> bool:
    """Whether a source's class has a method, defined where its `score` and `recall` are or nearer: one
    that is made of another's and says something else is not to be read as the other."""
    kinds = type(source).__mro__

    def place(name: str) -> float:
        return next((at for at, kind in enumerate(kinds) if name in vars(kind)), np.inf)

    return place(method) < np.inf and place(method) <= min(place("score"), place("recall"))


def fuse(voting: Sequence[tuple[float, Ints]], n_items: int, limit: int) -> Recalled:
    """The best `limit` items of lists (weight, items best first) by weighted reciprocal ranks."""
    offsets = np.zeros(len(voting) + 1, np.int64)
    np.cumsum([len(found) for _, found in voting], out=offsets[1:])
    if not offsets[-1]:
        return NOTHING
    space = scratch(n_items)
    size = kernels.fuse(
        offsets,
        np.concatenate([found for _, found in voting]),
        np.array([weight for weight, _ in voting], np.float32),
        RRF_OFFSET,
        space.total, space.mark, space.touched,
    )  # fmt: skip
    items = space.touched[:size].copy()
    # Scores are positive, so their bits are in their order; of equal ones the lower item stands first.
    bits = space.total[items].view(np.uint32).astype(np.uint64)
    order = ((np.uint64(0xFFFFFFFF) - bits) << np.uint64(32)) | items.astype(np.uint64)
    order.sort()
    items = (order[:limit] & np.uint64(0xFFFFFFFF)).astype(np.int32)
    return Recalled(items, space.total[items])


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
    out = np.empty(min(limit, len(ranked) + len(reserved)), np.int32)
    highest = max(ranked.max(initial=0), reserved.max(initial=0))
    size = kernels.kept(ranked, reserved, scratch(int(highest) + 1).mark, out)
    return out[:size]


def share_of_best(found: Recalled, logarithmic: bool) -> Floats:
    """A list's scores relative to its best one, 1 to 0.

    The ratio for scores that count from 0 (negative ones give 0), exp(score - best) for logarithms
    of odds and for lists whose best score is not positive.
    """
    if not len(found.items):
        return found.scores
    best = found.scores[0]
    if logarithmic or best <= 0:
        shares: Floats = np.exp(found.scores - best)
        return shares
    ratios: Floats = np.maximum(found.scores, 0) / best
    return ratios
