"""Lists of many users, part by part on an engine: processes of this machine or Spark.

A part is a stretch of the users asked for. Its lists depend on the release, the state and the
question alone, so they are the same bits whatever engine makes them and however many parts there
are. What a part made lies in scratch until all are there: a run that was killed goes on with the rest.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pyarrow as pa

from recsys import __version__
from recsys.data_schemas import columns as c
from recsys.query import RankingQuery
from recsys.storage.bundle import MANIFEST
from recsys.storage.engines import LocalEngine, PartWork
from recsys.storage.engines.scratch_parts import (
    RELEASES,
    PartInScratch,
    PartsPlace,
    in_parts,
    stretches_of,
    unfinished,
)
from recsys.storage.files import file_stamp, hash_file, hash_json
from recsys.storage.node_copies import PublishedFolder
from recsys.storage.scratch import ScratchFolder
from recsys.storage.workspace import STATE_MARKER

if TYPE_CHECKING:
    from recsys.recommender import LoadedRelease

SCHEMA: Final = pa.schema(
    [
        (c.USER_ID, pa.string()),
        (c.ITEM_IDS, pa.list_(pa.string())),
        (c.SCORES, pa.list_(pa.float64())),
    ]
)


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


class PublishedRelease(NamedTuple):
    """The same in scratch, for machines that do not see this one's disk."""

    bundle: PublishedFolder
    state: PublishedFolder
    version: str

    def open_whole(self) -> "LoadedRelease":
        """Opened from this machine's own copies."""
        return ReleaseFiles(self.bundle.local(), self.state.local(), self.version).open_whole()


@contextmanager
def lists_here(processes: int | None = None) -> Iterator[PartsPlace]:
    """Processes of this machine over a scratch folder of their own that vanishes: what a notebook
    asks for.

    Args:
        processes: at a time; 1 for a release that lies in memory alone.
    """
    with tempfile.TemporaryDirectory(prefix="lists-") as folder:
        yield PartsPlace(LocalEngine(processes), ScratchFolder(folder), None)


def ranked(
    place: PartsPlace,
    release: ReleaseFiles,
    loaded: "LoadedRelease",
    ask: RankingQuery,
    users: Sequence[str],
    on_part: Callable[[int], object] = lambda users: None,
    unread: frozenset[str] = frozenset(),
) -> Iterator[pa.Table]:
    """Tables (`SCHEMA`) in the order of `users`, when all parts are done.

    Args:
        place: where the parts are made.
        release: what every further process opens for itself; `loaded` is it, opened here.
        loaded: the release, opened here.
        ask: what is asked for everybody, but for the user.
        users: ids, in the order of the rows.
        on_part: told of the users of each part that is done.
        unread: users who are answered as somebody new, whatever is kept of them.

    Raises:
        RecsysError: a part's own, or what became of the engine; finished parts are kept.
    """
    stretches = [users[low:high] for low, high in stretches_of(len(users), place.parts)]

    def asked(part: int) -> pa.Table:
        return pa.table({c.USER_ID: pa.array(stretches[part], pa.string())})

    def work_in(scratch: ScratchFolder) -> PartWork:
        there = within_reach(place, release)
        # Parts that run in this process use what is open here.
        _opened[there] = loaded
        return PartOfLists(scratch, there, ask, unread.intersection(users))

    key, sizes = _key(release, ask, users, unread, len(stretches)), [len(s) for s in stretches]
    try:
        with unfinished(place.scratch, key) as folder:
            for table in in_parts(place.engine, folder, sizes, asked, work_in, on_part):
                yield table.cast(SCHEMA)
    finally:
        _opened.clear()


@dataclass(frozen=True)
class PartOfLists(PartInScratch):
    """The lists of one part's users."""

    release: ReleaseFiles | PublishedRelease
    ask: RankingQuery
    unread: frozenset[str]

    def made(self, asked: pa.Table) -> pa.Table:
        """Their lists, in their order."""
        return lists_of_users(self._loaded(), self.ask, asked[c.USER_ID].to_pylist(), self.unread)

    def _loaded(self) -> "LoadedRelease":
        if self.release not in _opened:
            # One at a time: a worker that outlives a night must not hold the former release.
            _opened.clear()
            _opened[self.release] = self.release.open_whole()
        return _opened[self.release]


_opened: dict[ReleaseFiles | PublishedRelease, "LoadedRelease"] = {}
"""The release as this process has opened it."""


def lists_of_users(
    loaded: "LoadedRelease",
    ask: RankingQuery,
    users: Sequence[str],
    unread: frozenset[str] = frozenset(),
) -> pa.Table:
    """One row for each user, in their order; those of `unread` get the list of somebody new."""
    answers = [
        loaded.answer(replace(ask, user_id="" if user in unread else user)) for user in users
    ]
    columns: list[list[Any]] = [
        list(users),
        [answer.item_ids for answer in answers],
        [[float(score) for score in answer.scores] for answer in answers],
    ]
    return pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )


def _key(
    release: ReleaseFiles,
    ask: RankingQuery,
    users: Sequence[str],
    unread: frozenset[str],
    parts: int,
) -> str:
    """What decides the lists and how they lie."""
    digest = hashlib.sha256()
    for user in users:
        digest.update(user.encode("utf-8", "surrogatepass") + (b"\1" if user in unread else b"\0"))
    decides = [__version__, *names_of(release), repr(ask), digest.hexdigest(), parts]
    return hash_json(decides)[:32]


def names_of(release: ReleaseFiles) -> tuple[str, str]:
    """What a bundle and a state are known by.

    A manifest has a digest of every file. A snapshot's marker tells nothing of its events: its folder
    is named by what it was made from, and forgetting a person writes it anew in place.
    """
    manifest = release.bundle / MANIFEST
    bundle = hash_file(manifest) if manifest.exists() else ""
    state = hash_json([release.state.name, file_stamp(release.state / STATE_MARKER)])
    return f"bundle-{bundle[:32]}", f"state-{state[:32]}"


def within_reach(place: PartsPlace, release: ReleaseFiles) -> ReleaseFiles | PublishedRelease:
    """The release where the engine's processes find it."""
    if place.engine.shares_disk:
        return release
    there = place.scratch.below(RELEASES)
    folders = (release.bundle, release.state)
    bundle, state = (
        PublishedFolder.publish(folder, there, name)
        for folder, name in zip(folders, names_of(release), strict=True)
    )
    return PublishedRelease(bundle, state, release.version)
