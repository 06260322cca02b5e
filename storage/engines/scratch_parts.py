"""Parts whose question and answer lie in scratch: a run that was killed goes on with what is not done.

A part's answer depends on its question alone, so it is the same bits whatever engine makes it, in
however many parts, and however often.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final, NamedTuple

import pyarrow as pa

from recsys.data_schemas.config import RecsysConfig
from recsys.storage.engines import Engine, PartWork, open_engine
from recsys.storage.node_copies import forget_copies
from recsys.storage.scratch import QUERY_ROWS, ScratchFolder, scratch_of

ROWS_OF_A_PART: Final = 1000
"""Users or queries ranked and written at a time, some seconds; bounds memory and what a kill costs."""
MOST_PARTS: Final = 20_000
"""Above it parts grow instead (assumed: files that an object store lists in seconds)."""
LISTS, RELEASES = "lists", "releases"
"""Folders of scratch: unfinished work by what was asked, published releases, sources and states."""


class PartsPlace(NamedTuple):
    """Where parts are made."""

    engine: Engine
    scratch: ScratchFolder
    parts: int | None
    """How many; by the number of rows when None."""


class UnfinishedWork(NamedTuple):
    """A piece of work whose parts are made somewhere."""

    place: PartsPlace
    folder: ScratchFolder
    """Where what is finished waits for the rest, in a folder of its own for each question."""


def place_of(config: RecsysConfig) -> PartsPlace:
    """The engine and scratch that a config names.

    Raises:
        UsageError: the engine cannot be had as it is configured.
    """
    settings = config.engine
    parts = None if settings.parts == "auto" else settings.parts
    return PartsPlace(open_engine(settings), scratch_of(config), parts)


@contextmanager
def unfinished(scratch: ScratchFolder, key: str) -> Iterator[ScratchFolder]:
    """A folder for what is asked under a key; it goes when all went well, and is found again after a
    failure. What was asked for days ago and never finished goes, and what was published as long ago.

    Args:
        scratch: of the config.
        key: names what is asked, with all that decides the answer.
    """
    for kind in (LISTS, RELEASES):
        scratch.below(kind).remove_stale()
    folder = scratch.below(f"{LISTS}/{key}")
    yield folder
    folder.remove()


def in_parts(
    engine: Engine,
    folder: ScratchFolder,
    sizes: Sequence[int],
    asked: Callable[[int], pa.Table],
    work_in: Callable[[ScratchFolder], PartWork],
    on_part: Callable[[int], object] = lambda rows: None,
) -> Iterator[pa.Table]:
    """What each part made, in their order, when all are done; parts that an earlier run of the same
    finished are not done again.

    Args:
        engine: does the parts.
        folder: of `unfinished`, for this question and number of parts alone.
        sizes: rows of each part.
        asked: part → what it is asked, a row each.
        work_in: scratch folder → the work; called only if something is to be done.
        on_part: told of the rows of each part that is done.

    Raises:
        RecsysError: a part's own, or what became of the engine; finished parts are kept.
    """
    done = folder.names()
    parts = range(len(sizes))
    for part in parts:
        if _asked(part) not in done:
            folder.write_table(_asked(part), asked(part))
    todo = [part for part in parts if _made(part) not in done]
    on_part(sum(sizes[part] for part in set(parts) - set(todo)))
    if todo:
        for facts in engine.each_part(work_in(folder), todo):
            on_part(int(facts["rows"]))
    for part in parts:
        yield folder.table(_made(part))


@dataclass(frozen=True)
class PartInScratch:
    """Work whose question and answer lie in scratch, a file each for every part."""

    scratch: ScratchFolder
    repeats: ClassVar[bool] = True
    """Whether values of an answer repeat, so that it is worth to look for them."""

    def __call__(self, part: int) -> dict[str, int]:
        asked = self.scratch.table(_asked(part))
        self.scratch.write_table(_made(part), self.made(asked), repeats=self.repeats)
        return {"rows": asked.num_rows}

    def made(self, asked: pa.Table) -> pa.Table:
        """The answer to a part's question."""
        raise NotImplementedError


def stretches_of(
    count: int, parts: int | None, rows_of_a_part: int = ROWS_OF_A_PART
) -> list[tuple[int, int]]:
    """Rows 0..count in parts of about equal length, as (first, end); some may be empty.

    Args:
        count: of the rows.
        parts: how many; by the rows when None.
        rows_of_a_part: of about so many each then.
    """
    if parts is None:
        parts = min(-(-count // rows_of_a_part), MOST_PARTS)
    edges = [count * part // max(parts, 1) for part in range(max(parts, 1) + 1)]
    return list(pairwise(edges))


def forget_scratch(config: RecsysConfig) -> int:
    """Remove unfinished work, published states and rows of queries, which hold persons, here and in
    scratch; returns how many folders."""
    scratch = scratch_of(config)
    removed = 0
    for kind in (LISTS, RELEASES, QUERY_ROWS):
        for name, _ in scratch.below(kind).folders():
            scratch.below(f"{kind}/{name}").remove()
            removed += 1
    return removed + forget_copies()


def _asked(part: int) -> str:
    return f"asked-{part:06d}.parquet"


def _made(part: int) -> str:
    return f"made-{part:06d}.parquet"
