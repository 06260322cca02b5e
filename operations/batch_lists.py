"""Lists of many users, from as many processes as there are processors.

Ranking one user is mostly Python and small arrays, so threads would wait for one another; the
processes share a release's mapped arrays and each folds no log: all read one state snapshot.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import RecsysError
from recsys.query import RankingQuery
from recsys.storage.processors import processors

if TYPE_CHECKING:
    from recsys.recommender import LoadedRelease

Row = dict[str, Any]

CHUNK = 1000
"""Users ranked and written at a time; bounds memory."""
CHUNKS_FOR_MANY = 4
"""Chunks from which further processes pay for their start (measured: 3 s, as 500 users)."""


class ReleaseFiles(NamedTuple):
    """Where a version and the state it is asked over lie."""

    bundle: Path
    state: Path
    version: str

    def open(self) -> "LoadedRelease":
        """The version over the state; of items newer than the version a few are encoded."""
        from recsys.recommender import LoadedRelease

        return LoadedRelease.open(self.bundle, self.state, version=self.version)

    def open_whole(self) -> "LoadedRelease":
        """The same with every item encoded."""
        loaded = self.open()
        while loaded.encode_new():
            pass
        return loaded


def ranked(
    release: ReleaseFiles,
    loaded: "LoadedRelease",
    ask: RankingQuery,
    users: Sequence[str],
    processes: int | None = None,
) -> Iterator[list[Row]]:
    """Rows (user_id, item_ids, scores) chunk by chunk, in the order of `users`.

    Args:
        release: what each further process opens for itself; `loaded` is it, opened here.
        loaded: the release, opened here.
        ask: what is asked for everybody, but for the user.
        users: ids, in the order of the rows.
        processes: as many as processors, where there is enough to do, when None.

    Raises:
        RecsysError: a process was killed, as happens when memory runs out.
    """
    chunks = [users[start : start + CHUNK] for start in range(0, len(users), CHUNK)]
    if processes is None:
        processes = processors() if len(chunks) >= CHUNKS_FOR_MANY else 1
    if processes <= 1:
        for chunk in chunks:
            yield rows_of(loaded, ask, chunk)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _open, (release,)) as pool:
        try:
            yield from pool.map(partial(_rows_here, ask), chunks)
        except BrokenProcessPool:
            raise RecsysError(
                "a process that ranked lists was ended from outside",
                where="recommend",
                expected="memory for every process: a bundle's arrays once, and 500 MB each",
                fix="free memory, or name fewer processors with `taskset`, and run it again",
            ) from None


def rows_of(loaded: "LoadedRelease", ask: RankingQuery, users: Sequence[str]) -> list[Row]:
    """One row of the output for each user."""
    answers = ((user, loaded.answer(replace(ask, user_id=user))) for user in users)
    return [
        {c.USER_ID: user, c.ITEM_IDS: answer.item_ids, c.SCORES: answer.scores}
        for user, answer in answers
    ]


_loaded: "LoadedRelease | None" = None
"""The release as this further process has opened it."""


def _open(release: ReleaseFiles) -> None:
    global _loaded
    _loaded = release.open_whole()


def _rows_here(ask: RankingQuery, users: Sequence[str]) -> list[Row]:
    assert _loaded is not None
    return rows_of(_loaded, ask, users)
