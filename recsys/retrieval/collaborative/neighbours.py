"""Sources that are a table of item → neighbours: their fit differs, their serving is one gather.

item_item, transitions, ease, bm25 and attributes all score a candidate j by
Σ_r decay^r · weight_r · value[item_r, j] over the history, newest first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import (
    Floats,
    History,
    Ints,
    Longs,
)
from recsys.features.protocols import Mask, Recalled
from recsys.features.ragged import offsets_of
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.fitted_source import (
    NOTHING,
    FittableSource,
    Scratch,
    SourceFit,
    check_blocked,
    in_chunks,
    scratch,
    unsure,
    weighed,
    weight_scale,
)
from recsys.retrieval.history_kernels import Marks

TABLE_ENTRIES: Final = 50_000_000
"""Neighbours of all items together in a table wanted at most (8 bytes each, in every bundle)."""
LEAST_KEPT: Final = 50
"""Neighbours that an item keeps in however large a catalogue (assumed)."""

KEPT_WITH_FEW: Final = 50
"""Neighbours with few events that a row of a content source keeps besides its best ones."""
Csr = tuple[Longs, Ints, Floats]
"""offsets int64[rows + 1], column int32[nnz], value float32[nnz]."""


class NeighbourSource(FittableSource):
    """Weighted sum of the history items' neighbour rows.

    Args:
        offsets, neighbour, value: CSR rows, int64[N+1], int32[nnz], float32[nnz].
        known: uint8[N], 1 for items the fit knows; others score NaN.
        params: as fitted; `decay` is read here.
        scale: event weight that counts as 1.
        fit_until: time of the fit's last event (µs).
    """

    name: ClassVar[str]  # type: ignore[misc]
    columns: tuple[str, ...] = ("score", "best", "last")

    def __init__(
        self,
        offsets: Longs,
        neighbour: Ints,
        value: Floats,
        known: Marks,
        *,
        params: dict[str, float],
        scale: float,
        fit_until: int,
    ) -> None:
        self.offsets, self.neighbour, self.value, self.known = offsets, neighbour, value, known
        super().__init__(params=params, fit_until=fit_until)
        self.scale, self.n_items = scale, len(known)

    def asked(self, history: History, now: int) -> "AskedNeighbours":
        """A history read, to be asked more than once."""
        return AskedNeighbours(
            self, *weighed(history, self.known, self.params["decay"], self.scale)
        )

    def moment_key(self, history: History, now: int) -> bytes:
        """What of the moment the answers depend on: nothing."""
        return b""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 3]: the sum, its largest single part, the newest history item's part."""
        return self.asked(history, now).score(items)

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """Best items with a positive sum; see `RecallSource.recall`."""
        return self.asked(history, now).recall_each([(limit, blocked)])[0]

    def parts(self, events: History, items: Ints, now: int) -> Floats:
        item, weight = events.item, events.weight
        inside = (item >= 0) & (item < self.n_items) & (weight > 0)
        inside[inside] = self.known[item[inside]] == 1
        out = np.zeros((len(item), len(items)), np.float32)
        said = np.empty((int(inside.sum()), len(items)), np.float32)
        kernels.parts_at(
            self.offsets, self.neighbour, self.value, item[inside].astype(np.int32),
            (weight[inside] / self.scale).astype(np.float32), scratch(self.n_items).place,
            np.ascontiguousarray(items, np.int32), said,
        )  # fmt: skip
        out[inside] = said
        return out

    @staticmethod
    def table(fit: SourceFit, rows: Csr, known: Marks) -> dict[str, Any]:
        """The constructor's arguments from what a fit has made."""
        named = dict(zip(("offsets", "neighbour", "value"), rows, strict=True))
        return {**named, "known": known, "scale": weight_scale(fit.interactions)}

    def saved(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        names = ("offsets", "neighbour", "value", "known")
        return {"scale": self.scale}, {n: getattr(self, n) for n in names}

    @classmethod
    def opened(
        cls, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, Any]:
        return {**arrays, "scale": facts["scale"]}


class AskedNeighbours(NamedTuple):
    """A history, weighed, before a table of neighbours."""

    source: NeighbourSource
    item: Ints
    """int32[h], newest first."""
    weight: Floats
    """float32[h]"""

    def score(self, items: Ints) -> Floats:
        """As `NeighbourSource.score`."""
        source = self.source
        out = unsure(len(items), len(source.columns))
        if len(self.item):
            space = scratch(source.n_items)
            kernels.gather_at(
                source.offsets, source.neighbour, source.value, self.item, self.weight,
                len(self.item), source.known, space.mark, space.place,
                np.ascontiguousarray(items, np.int32), out,
            )  # fmt: skip
        return out

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """`NeighbourSource.recall` for each (limit, blocked), the rows of the history summed once."""
        source = self.source
        for _, blocked in asks:
            check_blocked(source.name, blocked, source.n_items)
        if not len(self.item):
            return [NOTHING for _ in asks]
        space = scratch(source.n_items)
        met = kernels.sum_rows(
            source.offsets, source.neighbour, source.value, self.item, self.weight, len(self.item),
            space.total, space.mark, space.touched,
        )  # fmt: skip
        return [_best_of(space, met, limit, blocked) for limit, blocked in asks]


def _best_of(space: Scratch, met: int, limit: int, blocked: Mask) -> Recalled:
    """The best of what was summed into the scratch arrays."""
    if limit < 1:
        return NOTHING
    items, scores = np.empty(limit, np.int32), np.empty(limit, np.float32)
    count = kernels.best_of(space.total, space.touched, met, blocked, items, scores)
    return Recalled(items[:count], scores[:count])


class NeighbourRows:
    """R rows of at most K entries being filled in chunks, then packed into CSR.

    Args:
        n_items: of the catalogue, which bounds what a row may keep.
        keep: entries of a row at most.
        rows: R; one for each item when None.
    """

    def __init__(self, n_items: int, keep: int, rows: int | None = None) -> None:
        room = max(LEAST_KEPT, TABLE_ENTRIES // max(1, n_items))
        self.keep = max(1, min(keep, n_items, room))
        self.rows = n_items if rows is None else rows
        self._chunks: dict[int, tuple[Ints, Floats, Ints]] = {}

    def chunk(self, first: int, until: int) -> tuple[Ints, Floats, Ints]:
        """Room for rows first..until: items int32[rows, K], values, and counts int32[rows]."""
        shape = (until - first, self.keep)
        return np.empty(shape, np.int32), np.empty(shape, np.float32), np.zeros(shape[0], np.int32)

    def take(self, first: int, chunk: tuple[Ints, Floats, Ints]) -> None:
        """Store a filled chunk, packed (rows are short on average, K is their bound)."""
        items, values, count = chunk
        filled = np.arange(self.keep) < count[:, None]
        self._chunks[first] = (items[filled], values[filled], count)

    def packed(self) -> tuple[Longs, Ints, Floats]:
        """offsets int64[R+1], neighbours int32[nnz], values float32[nnz]; neighbours ascending
        within a row would not matter, they stay best first."""
        parts = [self._chunks[first] for first in sorted(self._chunks)]
        if not parts:
            nothing = np.zeros(self.rows + 1, np.int64)
            return nothing, np.empty(0, np.int32), np.empty(0, np.float32)
        return (
            offsets_of(np.concatenate([p[2] for p in parts])),
            np.concatenate([p[0] for p in parts]),
            np.concatenate([p[1] for p in parts]),
        )


def product_rows(
    left: tuple[Longs, Ints, Floats],
    right: tuple[Longs, Ints, Floats],
    column_scale: Floats,
    keep: int,
    workers: int,
) -> tuple[Longs, Ints, Floats]:
    """Top `keep` of each row of left @ right · diag(column_scale), as CSR (diagonal left out).

    Args:
        left: CSR matrix (offsets, columns, values).
        right: CSR matrix, its rows are the columns of `left`.
        column_scale: float32[N], factor of each column.
        keep: entries of a row that are kept.
        workers: threads.
    """
    n_items = len(column_scale)
    rows = NeighbourRows(n_items, keep)

    def work(first: int, until: int) -> None:
        chunk = rows.chunk(first, until)
        kernels.product_rows(first, until, *left, *right, column_scale, *chunk)
        rows.take(first, chunk)

    in_chunks(work, n_items, workers)
    return rows.packed()


def united(first: Csr, second: Csr) -> Csr:
    """Rows with the entries of both tables, each column once: the first table's, then what only the
    second has."""
    n_items = len(first[0]) - 1
    extra = np.zeros(n_items, np.int64)
    kept = np.empty(len(second[1]), np.uint8)
    kernels.not_in(first[0], first[1], second[0], second[1], scratch(n_items).mark, kept, extra)
    offsets = first[0].copy()
    offsets[1:] += np.cumsum(extra)
    column, value = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    own = np.arange(len(first[1])) + np.repeat(offsets[:-1] - first[0][:-1], np.diff(first[0]))
    rest = np.ones(len(column), bool)
    rest[own] = False
    column[own], value[own] = first[1], first[2]
    chosen = kept == 1
    column[rest], value[rest] = second[1][chosen], second[2][chosen]
    return offsets, column, value
