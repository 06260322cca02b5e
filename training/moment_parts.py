"""What sources say at moments, part by part on an engine: processes of this machine or Spark.

A part is a stretch of the moments of one cut. Its question holds the moments with what their users had
done before; the sources are opened where the part is done. What they say of a moment depends on
nothing else, so it is the same bits in any number of parts, and as from threads of one process.

Shapes: M moments, N items, R rows (candidates of all moments).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.evaluation.lists import Truth
from recsys.features.interactions import EMPTY_HISTORY, History, Longs
from recsys.features.protocols import Mask, RecallSource
from recsys.features.ragged import list_column, offsets_of
from recsys.retrieval.candidates import CandidateGenerator
from recsys.storage.engines import PartWork
from recsys.storage.engines.local import threads_of_part
from recsys.storage.engines.scratch_parts import (
    RELEASES,
    PartInScratch,
    PartsPlace,
    in_parts,
    stretches_of,
)
from recsys.storage.files import hash_json
from recsys.storage.scratch import ScratchFolder
from recsys.training.groups import (
    CandidateTable,
    HistoryOf,
    collect,
    collect_shown,
)
from recsys.training.impression_groups import ShownGroups
from recsys.training.source_files import SourceFiles, within_reach

MOMENTS_OF_A_PART: Final = 250
"""About a second of recall with all sources (measured: 2 to 5 ms a moment)."""
UNAVAILABLE: Final = "unavailable.parquet"
"""Beside the parts: uint8[N] of items that may not be listed."""
USER, TIME, RELEVANT, GRADES, SHOWN = "user", "time", "relevant", "grades", "shown"
"""Columns of a question: the moment, what its user did next, and a list that was shown then."""
PAST: Final = "past "
"""Before the names of a history's columns in a question."""
GRADE, ITEM, SIGNAL = "grade", "item", "signal "
"""Columns of candidates."""
LENGTHS: Final = b"lengths"
"""In the schema of candidates: int64[M], how many each moment has."""


class Moments(NamedTuple):
    """What a part is asked at."""

    truth: Truth
    """M moments of users."""
    history_of: HistoryOf
    """Moment → what its user had done before."""
    shown: ShownGroups | None = None
    """Lists that were shown at these moments, where it is these that are asked about."""


class CandidatesAsked(NamedTuple):
    """How candidates are collected."""

    depth: int
    """Items a source may propose."""
    limit: int
    """Candidates of a moment at most."""
    weights: Mapping[str, float]
    """Of the fusion, by source."""
    learn: bool
    """Whether moments in which recall found nothing that was acted on are emptied."""

    def collected(
        self,
        sources: Mapping[str, RecallSource],
        moments: Moments,
        unavailable: Mask,
        workers: int,
    ) -> CandidateTable:
        """Candidates of all moments.

        Args:
            sources: by name, fitted before the moments.
            moments: M moments.
            unavailable: uint8[N], items that may not be listed.
            workers: threads.
        """
        stage = CandidateGenerator(sources, self.depth, self.limit, self.weights)
        history_of = moments.history_of
        if moments.shown is not None:
            return collect_shown(moments.shown, history_of, stage, unavailable, workers=workers)
        found = collect(
            moments.truth, history_of, stage, unavailable, limit=self.limit, workers=workers
        )
        return found.to_learn_from() if self.learn else found


@dataclass(frozen=True)
class MomentParts:
    """Asks sources about moments on an engine; what is finished stays until its folder goes."""

    place: PartsPlace
    folder: ScratchFolder

    def candidates(
        self,
        sources: Mapping[str, SourceFiles],
        moments: Moments,
        unavailable: Mask,
        ask: CandidatesAsked,
    ) -> CandidateTable:
        """As `CandidatesAsked.collected`."""
        work = partial(PartOfCandidates, ask=ask)
        tables = self.made(sources, moments, unavailable, ask, work)
        return CandidateTable.join([_candidates(table) for table in tables])

    def made(
        self,
        sources: Mapping[str, SourceFiles],
        moments: Moments,
        unavailable: Mask,
        ask: object,
        work: "Callable[[ScratchFolder, World, int], PartOfMoments]",
    ) -> list[pa.Table]:
        """What all parts made, in the order of the moments.

        Args:
            sources: on this machine's disk, by name, fitted before the moments.
            moments: M moments.
            unavailable: uint8[N], items that may not be listed.
            ask: all else that decides the answer, told apart by its `repr`.
            work: folder of the parts, sources, threads → the work.
        """
        engine, scratch, parts = self.place
        stretches = stretches_of(len(moments.truth), parts, MOMENTS_OF_A_PART)

        def asked(part: int) -> pa.Table:
            return _asked(moments, *stretches[part])

        digest = hashlib.sha256(unavailable.tobytes())
        for part in range(len(stretches)):
            _update(digest, asked(part))
        there = within_reach(sources, engine.shares_disk, scratch.below(RELEASES))
        world = tuple(there.items())
        stamps = [files.stamp for files in sources.values()]
        key = hash_json([repr(ask), repr(world), stamps, digest.hexdigest(), len(stretches)])[:32]
        workers = threads_of_part(len(stretches))

        def work_in(folder: ScratchFolder) -> PartWork:
            folder.write_table(UNAVAILABLE, pa.table({UNAVAILABLE: unavailable}))
            return work(folder, world, workers)

        sizes = [end - low for low, end in stretches]
        try:
            return list(in_parts(engine, self.folder.below(key), sizes, asked, work_in))
        finally:
            _opened.clear()


World = tuple[tuple[str, SourceFiles], ...]
_opened: dict[World, dict[str, RecallSource]] = {}
"""The sources as this process has opened them, of one cut at a time."""


@dataclass(frozen=True)
class PartOfMoments(PartInScratch):
    """What sources say at the moments of one part."""

    world: World
    workers: int
    """Threads; more than one where few other processes work."""

    def made(self, asked: pa.Table) -> pa.Table:
        """A part's answer."""
        if self.world not in _opened:
            _opened.clear()
            _opened[self.world] = {name: files.open() for name, files in self.world}
        unavailable = self.scratch.table(UNAVAILABLE)[UNAVAILABLE].to_numpy()
        return self.said(_opened[self.world], _moments(asked), np.array(unavailable))

    def said(
        self, sources: Mapping[str, RecallSource], moments: Moments, unavailable: Mask
    ) -> pa.Table:
        """What the sources say."""
        raise NotImplementedError


@dataclass(frozen=True)
class PartOfCandidates(PartOfMoments):
    """Candidates of the moments of one part."""

    ask: CandidatesAsked

    def said(
        self, sources: Mapping[str, RecallSource], moments: Moments, unavailable: Mask
    ) -> pa.Table:
        """A row for each candidate."""
        return _written(self.ask.collected(sources, moments, unavailable, self.workers))


def _asked(moments: Moments, low: int, end: int) -> pa.Table:
    """The question of a part, a row for each of the moments low..end-1."""
    some = moments.truth.part(low, end)
    pasts = [moments.history_of(moment) for moment in range(low, end)]
    bounds = offsets_of(np.array([len(past.item) for past in pasts], np.int64))
    columns = {
        USER: pa.array(some.user),
        TIME: pa.array(some.time),
        RELEVANT: _lists(some.offsets, some.items),
        GRADES: _lists(some.offsets, some.grades),
    }
    for name, column in zip(History._fields, zip(EMPTY_HISTORY, *pasts, strict=True), strict=True):
        columns[PAST + name] = _lists(bounds, np.concatenate(column))
    if moments.shown is not None:
        shown = moments.shown.part(low, end)
        columns[SHOWN] = _lists(shown.offsets, shown.items)
    return pa.table(columns)


def _moments(asked: pa.Table) -> Moments:
    """What `_asked` wrote."""
    past = [_values(asked, PAST + name) for name in History._fields]
    bounds = past[0][0]
    events = History(*(values for _, values in past))

    def history_of(moment: int) -> History:
        low, high = bounds[moment], bounds[moment + 1]
        return events.each(lambda column: column[low:high])

    offsets, relevant = _values(asked, RELEVANT)
    grades = _values(asked, GRADES)[1]
    truth = Truth(offsets, relevant, grades, asked[USER].to_numpy(), asked[TIME].to_numpy())
    shown = None
    if SHOWN in asked.column_names:
        offsets, items = _values(asked, SHOWN)
        shown = ShownGroups(truth, offsets, items, np.arange(len(truth)))
    return Moments(truth, history_of, shown)


def _lists(offsets: Longs, values: npt.NDArray[Any]) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def _values(asked: pa.Table, name: str) -> tuple[Longs, npt.NDArray[Any]]:
    """(offsets, values) of a column of lists; the values are a copy that may be written, so that kernels
    are compiled for one type only."""
    offsets, values = list_column(asked[name])
    return offsets, np.array(values.to_numpy())


def _written(table: CandidateTable) -> pa.Table:
    """Candidates as a row each."""
    columns = {ITEM: table.items, GRADE: table.grade}
    columns |= {SIGNAL + name: values for name, values in table.signals.items()}
    return pa.table(columns, metadata={LENGTHS: json.dumps(table.lengths.tolist())})


def _candidates(made: pa.Table) -> CandidateTable:
    """What `_written` wrote."""
    lengths = np.array(json.loads(made.schema.metadata[LENGTHS]), np.int64)
    signals = {
        name[len(SIGNAL) :]: made[name].to_numpy()
        for name in made.column_names
        if name.startswith(SIGNAL)
    }
    return CandidateTable(
        offsets_of(lengths), made[ITEM].to_numpy(), signals, made[GRADE].to_numpy()
    )


def _update(digest: Any, table: pa.Table) -> None:
    """Take what a table holds into a digest."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    digest.update(sink.getvalue())
