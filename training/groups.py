"""Ranking groups for training and evaluation, made by the same recall at the same depth as serving.

A moment's candidates are what recall offers then, as `/v1/recommend` ranks them, or what was shown,
as `/v1/rank` ranks it.

Shapes: M moments, R rows (candidates of all moments). Among recall's candidates a positive is only
if recall found it; what it missed still counts in every metric's denominator.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import Truth
from recsys.features.interactions import (
    EMPTY_HISTORY,
    Floats,
    Histories,
    History,
    Ints,
    Longs,
)
from recsys.features.protocols import Mask, RecallSource
from recsys.features.ragged import Ragged, offsets_of, owners_of
from recsys.retrieval.candidates import CandidateGenerator
from recsys.training.impression_groups import ShownGroups

HistoryOf = Callable[[int], History]


@dataclass(frozen=True)
class CandidateTable(Ragged):
    """Candidates of M moments with the sources' signals."""

    offsets: Longs
    """int64[M+1]"""
    items: Ints
    """int32[R]"""
    signals: Mapping[str, Floats]
    """float32[R] each."""
    grade: npt.NDArray[np.int8]
    """int8[R]; 0 where not acted on."""
    row_columns: ClassVar = ("items", "signals", "grade")

    def to_learn_from(self) -> "CandidateTable":
        """The same groups, those without a positive emptied: they teach a ranker nothing, and what
        recall missed is counted by the moments, not here."""
        return self.keeping(self.per_row(self.has_positive()))

    def has_positive(self) -> npt.NDArray[np.bool_]:
        """bool[M]: groups in which recall found something that was acted on."""
        return self.any_of(self.grade > 0)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Tables of several cuts, one after the other; a signal missing in one is NaN there."""
        names = dict.fromkeys(name for part in parts for name in part.signals)
        return super().join([part._with_signals(names) for part in parts])

    def _with_signals(self, names: Iterable[str]) -> Self:
        absent = np.full(len(self.items), np.nan, np.float32)
        return replace(self, signals={name: self.signals.get(name, absent) for name in names})


def history_reader(
    histories: Histories, moments: Truth, lengths: npt.NDArray[np.int64] | None = None
) -> HistoryOf:
    """The history of moment m: events strictly before it; at most `lengths[m]` where that is ≥ 0.

    `lengths` is how users are masked as new: some moments see only the last few events.
    """

    def read(moment: int) -> History:
        history = histories.of(int(moments.user[moment])).before(int(moments.time[moment]))
        if lengths is not None and 0 <= lengths[moment] < len(history.item):
            return history.last(int(lengths[moment])) if lengths[moment] else EMPTY_HISTORY
        return history

    return read


def collect(
    moments: Truth,
    history_of: HistoryOf,
    stage: CandidateGenerator,
    unavailable: Mask,
    *,
    limit: int,
    workers: int,
) -> CandidateTable:
    """Run recall for every moment.

    Items the user acted on before the moment are not candidates.

    Args:
        moments: M moments of users.
        history_of: moment → what its user had done before.
        stage: recall, with its sources as of before the moments.
        unavailable: uint8[N], items that may not be listed.
        limit: candidates of a moment at most.
        workers: threads.
    """
    count = np.zeros(len(moments), np.int64)
    items = np.zeros((len(moments), limit), np.int32)
    signals = {
        name: np.full((len(moments), limit), np.nan, np.float32) for name in stage.signal_columns
    }

    def one(moment: int, blocked: Mask) -> None:
        history = history_of(moment)
        with blocking(blocked, history.item, unavailable):
            found = stage.candidates(history, int(moments.time[moment]), blocked)
        n = len(found.items)
        count[moment] = n
        items[moment, :n] = found.items
        for name, values in found.signals.items():
            signals[name][moment, :n] = values

    for_each(len(moments), one, unavailable, workers)
    rows = np.arange(limit)[None, :] < count[:, None]
    offsets = offsets_of(count)
    flat = items[rows]
    return CandidateTable(
        offsets,
        flat,
        {name: values[rows] for name, values in signals.items()},
        label(moments, offsets, flat),
    )


def collect_shown(
    shown: ShownGroups,
    history_of: HistoryOf,
    stage: CandidateGenerator,
    unavailable: Mask,
    *,
    workers: int,
) -> CandidateTable:
    """Ask the sources of every moment about the items that were shown then.

    As for items given to `/v1/rank`, ranks are those of the lists that recall would make, and what
    the user acted on before takes part: a list may show it again.

    Args:
        shown: M lists with their moments.
        history_of: moment → what its user had done before.
        stage: recall, with its sources as of before the moments.
        unavailable: uint8[N], items that may not be listed.
        workers: threads.
    """
    signals = {name: np.full(len(shown.items), np.nan, np.float32) for name in stage.signal_columns}

    def one(moment: int, allowed: Mask) -> None:
        rows = shown.rows_of(moment)
        now = int(shown.moments.time[moment])
        found = stage.signals_for(history_of(moment), shown.items[rows], now, allowed)
        for name, values in found.items():
            signals[name][rows] = values

    for_each(len(shown), one, unavailable, workers)
    grade = label(shown.moments, shown.offsets, shown.items)
    return CandidateTable(shown.offsets, shown.items, signals, grade)


class blocking:
    """While inside, the given items are blocked in a scratch mask; restored on leaving."""

    def __init__(self, blocked: Mask, items: Ints, base: Mask) -> None:
        self.blocked, self.items, self.base = blocked, items, base

    def __enter__(self) -> Mask:
        self.blocked[self.items] = 1
        return self.blocked

    def __exit__(self, *_: object) -> None:
        self.blocked[self.items] = self.base[self.items]


def for_each(count: int, one: Callable[[int, Mask], None], unavailable: Mask, workers: int) -> None:
    """Call one(index, scratch mask) for each index from `workers` threads.

    The work inside is compiled and releases the interpreter's lock; each thread has its own mask.
    """
    local = threading.local()

    def run(index: int) -> None:
        if not hasattr(local, "blocked"):
            local.blocked = unavailable.copy()
        one(index, local.blocked)

    if workers <= 1:
        for index in range(count):
            run(index)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(run, range(count), chunksize=64):
            pass


def label(moments: Truth, offsets: Longs, items: Ints) -> npt.NDArray[np.int8]:
    """Grade of each candidate row: what the user did with it in the label window, else 0."""
    width = np.int64(2**32)
    wanted = moments.owner * width + moments.items
    order = np.argsort(wanted)
    key = owners_of(offsets) * width + items
    place = np.minimum(np.searchsorted(wanted[order], key), max(len(wanted) - 1, 0))
    if not len(wanted):
        return np.zeros(len(items), np.int8)
    hit = wanted[order][place] == key
    return np.where(hit, moments.grades[order][place], 0).astype(np.int8)


def source_lists(
    source: RecallSource,
    now: Longs,
    history_of: HistoryOf,
    unavailable: Mask,
    *,
    k: int,
    workers: int,
) -> tuple[Ints, Floats]:
    """Top-k of one source alone for every moment: items int32[M,k] (-1 padding), scores.

    Args:
        source: fitted before the moments.
        now: int64[M], the moments, µs UTC.
        history_of: moment → what its user had done before.
        unavailable: uint8[N], items that may not be listed.
        k: places of a list.
        workers: threads.
    """
    items = np.full((len(now), k), -1, np.int32)
    scores = np.full((len(now), k), -np.inf, np.float32)

    def one(moment: int, blocked: Mask) -> None:
        history = history_of(moment)
        with blocking(blocked, history.item, unavailable):
            found = source.recall(history, k, int(now[moment]), blocked)
        items[moment, : len(found.items)] = found.items
        scores[moment, : len(found.items)] = found.scores

    for_each(len(now), one, unavailable, workers)
    return items, scores


def top_k(
    score: npt.NDArray[np.float64], items: Ints, offsets: Longs, k: int
) -> tuple[Ints, Floats]:
    """Best k rows of each group by score (ties: earlier row first), -1 padded, int32[M,k]."""
    groups = len(offsets) - 1
    out = np.full((groups, k), -1, np.int32)
    scores = np.full((groups, k), -np.inf, np.float32)
    for g in range(groups):
        low, high = offsets[g], offsets[g + 1]
        order = np.argsort(-score[low:high], kind="stable")[:k]
        out[g, : len(order)] = items[low:high][order]
        scores[g, : len(order)] = score[low:high][order]
    return out, scores
