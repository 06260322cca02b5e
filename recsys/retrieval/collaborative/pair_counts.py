"""Counts of pairs of one user's events: each item's row by threads of this process, or in parts on an engine.

A part is a stretch of items. Their rows are summed over all users' events in the order in which these
stand, and the best of each are kept, so a row is the same bits whoever makes it, in any number of parts.
Parts of users would each leave all pairs of their users, which together are more than the events, and
would have to be added up once more.

Shapes: E events, U users, N items, R rows of a part, K neighbours kept of a row.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.features.compiled import compiled
from recsys.features.interactions import Floats, Interactions, Ints, Longs
from recsys.features.on_disk import empty, folder_of_arrays, stretches
from recsys.features.ragged import offsets_of, offsets_of_owners
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.collaborative.neighbours import Csr, NeighbourRows
from recsys.retrieval.fitted_source import in_chunks, positive, strengths, weight_scale
from recsys.storage.engines.local import PARTS_FOR_MANY, threads_of_part
from recsys.storage.engines.scratch_parts import (
    MOST_PARTS,
    PartInScratch,
    PartsPlace,
    UnfinishedWork,
    in_parts,
)
from recsys.storage.files import hash_json
from recsys.storage.node_copies import PublishedFolder, local_folder
from recsys.storage.scratch import ScratchFolder

KEPT_NEIGHBOURS: Final = 300
"""Neighbours kept per item: longer rows change no list of 300 on `games` noticeably."""
EVENTS_OF_A_PART: Final = 1_000_000
"""About a second or two of counting (measured: .9 to 1.8 µs an event); fewer parts' worth than
`PARTS_FOR_MANY` are counted by threads unless a number of parts is set."""
EVENTS: Final = "events"
"""What the names of published events begin with, and a column of a question: events of each row."""
SCALE: Final = "column-scale.parquet"
"""Beside the parts: float32[N]."""
ITEM, VALUE, ROW_SCALE = "item", "value", "row scale"
"""Columns of questions and answers."""
SIZES: Final = b"sizes"
"""In the schema of an answer: neighbours of each item, a list in JSON."""


class PairReach(NamedTuple):
    """Which events of a user pair."""

    before: int
    """Places earlier in a history that pair with an event."""
    after: int
    """Places later that do."""
    gap_decay: float
    """Factor for each further place between the two."""


class PairScale(NamedTuple):
    """What the count of a pair is divided by: n_i^left · n_j^right."""

    left: float
    """Exponent of the row item's support."""
    right: float
    """Exponent of the column item's support."""
    shrink: float
    """Added to both supports, in events."""

    def factors(self, events: "PairEvents", n_items: int) -> tuple[Floats, Floats]:
        """float32[N] of rows and float32[N] of columns."""
        mass = np.zeros(n_items)
        for part in stretches(len(events.item)):
            np.add.at(mass, events.item[part], events.strength[part])
        mass += self.shrink
        mass = np.maximum(mass, 1e-9)
        return (mass**-self.left).astype(np.float32), (mass**-self.right).astype(np.float32)


class PairEvents(NamedTuple):
    """Positive events, users one after the other, each user's in order of time."""

    item: Ints
    """int32[E]"""
    strength: Floats
    """float32[E]; a pair of average events counts 1."""
    user: Ints
    """int32[E], not falling."""
    bounds: Longs
    """int64[U+1]: events of user u are bounds[u]:bounds[u+1]."""

    @classmethod
    def of(cls, interactions: Interactions) -> "PairEvents":
        """Of a table of events."""
        events = positive(interactions)
        strength = strengths(events, weight_scale(interactions))
        bounds = offsets_of_owners(events.user, events.n_users)
        return cls(events.item, strength, events.user, bounds)

    @classmethod
    def open(cls, folder: Path) -> "PairEvents":
        """Map what `write` wrote."""
        # 'c' and asarray: a plain writable view, so kernels compile for one type only
        return cls(*(np.asarray(np.load(folder / f"{n}.npy", mmap_mode="c")) for n in cls._fields))

    def write(self, folder: Path) -> None:
        """A file for each column into an existing folder."""
        for name, column in self._asdict().items():
            np.save(folder / f"{name}.npy", column, allow_pickle=False)

    def digest(self) -> str:
        """Of everything they hold, 32 hexadecimal digits."""
        found = hashlib.sha256(hash_json([len(column) for column in self]).encode())
        for column in self:
            for part in stretches(len(column)):
                found.update(np.ascontiguousarray(column[part]).data)
        return found.hexdigest()[:32]


def count_pairs(
    interactions: Interactions,
    reach: PairReach,
    scale: PairScale,
    workers: int,
    elsewhere: UnfinishedWork | None = None,
) -> Csr:
    """The `KEPT_NEIGHBOURS` best of each item's row, with their values.

    Weights enter as their square root over the mean weight.

    Args:
        interactions: events to count in.
        reach: which events pair.
        scale: what counts are divided by.
        workers: threads.
        elsewhere: where parts are made; None for threads of this process, which also count what is too
            little to be sent anywhere, unless a number of parts is set.

    Raises:
        RecsysError: what became of the engine; finished parts are kept.
    """
    n_items = interactions.n_items
    events = PairEvents.of(interactions)
    offsets = offsets_of_owners(events.item, n_items)
    rows, columns = scale.factors(events, n_items)
    if elsewhere is None or not _worth_parts(elsewhere.place, len(events.item)):
        return pair_rows(events, 0, offsets, reach, rows, columns, workers)
    return _in_parts(elsewhere, events, offsets, reach, rows, columns)


def pair_rows(
    events: PairEvents,
    first: int,
    offsets: Longs,
    reach: PairReach,
    row_scale: Floats,
    column_scale: Floats,
    workers: int,
) -> Csr:
    """The rows of R items.

    Args:
        events: E events.
        first: item of the first row.
        offsets: int64[R+1], bounds of these items' events, laid out by item.
        reach: which events pair.
        row_scale: float32[R].
        column_scale: float32[N].
        workers: threads.
    """
    occurrence = empty(int(offsets[-1]), np.int64)
    _place_by_item(events.item, first, offsets[:-1].copy(), len(offsets) - 1, occurrence)
    rows = NeighbourRows(len(column_scale), KEPT_NEIGHBOURS, len(offsets) - 1)

    def work(low: int, until: int) -> None:
        chunk = rows.chunk(low, until)
        kernels.co_occurrence(
            first + low, first + until, offsets[low : until + 1], occurrence, events.user,
            events.bounds, events.item, events.strength, *reach, row_scale[low:until],
            column_scale, *chunk,
        )  # fmt: skip
        rows.take(low, chunk)

    in_chunks(work, len(offsets) - 1, workers)
    return rows.packed()


@compiled
def _place_by_item(
    item: Ints, first: int, following: Longs, n_rows: int, occurrence: Longs
) -> None:
    """Places of the events of items first..first+n_rows, by item, each item's as they stand."""
    for place in range(len(item)):
        row = item[place] - first
        if 0 <= row < n_rows:
            occurrence[following[row]] = place
            following[row] += 1


# ---------------------------------------------------------------------------- in parts


def _worth_parts(place: PartsPlace, events: int) -> bool:
    return place.parts is not None or events >= PARTS_FOR_MANY * EVENTS_OF_A_PART


def stretches_of_items(offsets: Longs, parts: int | None) -> list[tuple[int, int]]:
    """Items 0..N in parts of about as many events, as (first, end); some may be empty.

    Args:
        offsets: int64[N+1], bounds of the items' events.
        parts: how many; by the events when None.
    """
    if parts is None:
        parts = min(max(1, -(-int(offsets[-1]) // EVENTS_OF_A_PART)), MOST_PARTS)
    # An item without events is a row too.
    work = offsets + np.arange(len(offsets))
    edges = np.searchsorted(work, [int(work[-1]) * part // parts for part in range(parts)])
    return list(pairwise([*map(int, edges), len(offsets) - 1]))


def _in_parts(
    elsewhere: UnfinishedWork,
    events: PairEvents,
    offsets: Longs,
    reach: PairReach,
    row_scale: Floats,
    column_scale: Floats,
) -> Csr:
    """The rows of all items, made on an engine; nothing of them is left in scratch but the events,
    which the next count over the same reads."""
    engine, _, parts = elsewhere.place
    split = stretches_of_items(offsets, parts)
    digest = events.digest()
    known = _published(elsewhere, events, digest)
    key = hash_json([digest, *map(_digest, (row_scale, column_scale)), list(reach), len(split)])
    folder = elsewhere.folder.below(key[:32])

    def asked(part: int) -> pa.Table:
        first, end = split[part]
        return pa.table(
            {
                ITEM: np.arange(first, end, dtype=np.int32),
                EVENTS: np.diff(offsets[first : end + 1]),
                ROW_SCALE: row_scale[first:end],
            }
        )

    def work_in(scratch: ScratchFolder) -> "PartOfPairs":
        scratch.write_table(SCALE, pa.table({SCALE: column_scale}))
        return PartOfPairs(scratch, known, reach, threads_of_part(len(split)))

    sizes = [end - first for first, end in split]
    rows = _joined(in_parts(engine, folder, sizes, asked, work_in))
    folder.remove()
    return rows


def _published(
    elsewhere: UnfinishedWork, events: PairEvents, digest: str
) -> Path | PublishedFolder:
    """Events where an engine's processes map them."""
    published = PublishedFolder(elsewhere.folder, f"{EVENTS}-{digest}")
    if not published.is_there():
        beside = folder_of_arrays()
        if elsewhere.folder.is_local:
            # What a killed process leaves goes with the folder.
            beside = Path(elsewhere.folder.address)
            beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=f"{EVENTS}-") as aside:
            events.write(Path(aside))
            PublishedFolder.publish(Path(aside), published.scratch, published.name)
    here = published.in_scratch() if elsewhere.place.engine.shares_disk else None
    return here or published


@dataclass(frozen=True)
class PartOfPairs(PartInScratch):
    """Rows of the items of one part."""

    events: Path | PublishedFolder
    reach: PairReach
    workers: int
    """Threads; more than one where few other processes work."""
    repeats: ClassVar = False

    def made(self, asked: pa.Table) -> pa.Table:
        """The neighbours of one item after the other."""
        items = asked[ITEM].to_numpy()
        rows = pair_rows(
            PairEvents.open(local_folder(self.events)),
            int(items[0]) if len(items) else 0,
            offsets_of(asked[EVENTS].to_numpy()),
            self.reach,
            np.array(asked[ROW_SCALE].to_numpy()),
            np.array(self.scratch.table(SCALE)[SCALE].to_numpy()),
            self.workers,
        )
        offsets, neighbour, value = rows
        sizes = json.dumps(np.diff(offsets).tolist())
        return pa.table({ITEM: neighbour, VALUE: value}, metadata={SIZES: sizes})


def _joined(tables: Iterator[pa.Table]) -> Csr:
    """The rows of all parts, in their order."""
    sizes: list[int] = []
    found: dict[str, list[npt.NDArray[Any]]] = {ITEM: [], VALUE: []}
    for table in tables:
        sizes += json.loads(table.schema.metadata[SIZES])
        for name, columns in found.items():
            columns.append(table[name].to_numpy())
    items, scores = map(np.concatenate, found.values())
    return offsets_of(sizes), items, scores


def _digest(column: Floats) -> str:
    return hashlib.sha256(column.data).hexdigest()
