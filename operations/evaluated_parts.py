"""The lists that an evaluation measures, part by part on an engine: processes of this machine or Spark.

A part is a stretch of the queries. What the release and each single source list depends on the release,
the state, what it was told before and the query alone, so it is the same bits whatever engine makes it
and in however many parts. References that the release does without are fitted here, on all that was known, and
put in scratch for the parts. What is cheap, or needs all queries at once, is done here as well:
popularity, filling up, caps, metrics.

Shapes: G queries, K places of a list, D places of a single source's list.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pyarrow as pa

from recsys import __version__
from recsys.data_schemas import columns as c
from recsys.data_schemas.log_record import LogRecord
from recsys.evaluation.lists import RankedLists
from recsys.features.interactions import Interactions
from recsys.operations import release_queries
from recsys.operations.batch_lists import (
    PublishedRelease,
    ReleaseFiles,
    names_of,
    within_reach,
)
from recsys.retrieval.source_kinds import source_class
from recsys.rules import ListCaps
from recsys.storage.engines import PartWork
from recsys.storage.engines.local import threads_of_part
from recsys.storage.engines.scratch_parts import (
    RELEASES,
    PartInScratch,
    PartsPlace,
    in_parts,
    stretches_of,
    unfinished,
)
from recsys.storage.files import hash_json, write_json
from recsys.storage.node_copies import PublishedFolder, local_folder
from recsys.storage.progress import Reporter
from recsys.storage.scratch import ScratchFolder
from recsys.training.compared_lists import (
    FROZEN,
    LIST_LENGTH,
    Compared,
    KnownAtMoments,
    label_of,
)
from recsys.training.lists_alone import (
    ListsAlone,
    list_columns,
    lists_alone,
    read_lists,
)
from recsys.training.released_lists import lists_of_release

if TYPE_CHECKING:
    from recsys.features.protocols import RecallSource
    from recsys.operations.release_queries import Queries
    from recsys.recommender import LoadedRelease
    from recsys.retrieval.fitted_source import FittableSource

FACTS: Final = "facts.json"
"""Beside the references: what the release was told before it was asked, and what could not be had."""
OWN: Final = "own"
"""Columns of what a part made: the release's lists; the others are each source's."""


class MadeLists(NamedTuple):
    """What parts made, joined."""

    own: RankedLists
    """[G, K] of the release."""
    alone: ListsAlone
    """[G, D] of each source."""


class AskedLists(NamedTuple):
    """What every part is asked, apart from its queries."""

    length: int
    """K"""
    caps: tuple[tuple[str, int], ...]
    """Column → items of one value in the release's lists at most."""
    depth: int
    """D; 0 where no source is asked alone."""


def lists_in_parts(
    place: PartsPlace,
    release: ReleaseFiles,
    loaded: "LoadedRelease",
    queries: "Queries",
    name: str,
    caps: Mapping[str, int],
) -> RankedLists:
    """A release's own lists, asked as a service with these caps would ask.

    Args:
        place: where the parts are made.
        release: what further processes open; `loaded` is it, told what the queries say.
        loaded: the release, opened here.
        queries: G queries.
        name: of the system.
        caps: column → items of one value in a list at most.
    """
    asked = AskedLists(release_queries.length_of(queries), tuple(caps.items()), 0)
    with _references(place, release, loaded, queries, None) as references:
        return _made(place, release, loaded, queries, asked, references, None, name).own


def evaluated_in_parts(
    place: PartsPlace,
    release: ReleaseFiles,
    loaded: "LoadedRelease",
    queries: "Queries",
    frozen: Path | None,
    caps: ListCaps,
    name: str,
) -> tuple[RankedLists, "Compared"]:
    """(the release's own lists, what it is held against as of the first query, capped alike).

    Args:
        place: where the parts are made.
        release: what further processes open; `loaded` is it, told what the queries say.
        loaded: the release, opened here.
        queries: G queries.
        frozen: folder of the untuned encoder; None without.
        caps: of every list.
        name: of the release as a system.
    """
    found = Compared()
    known = release_queries.known_before(loaded, int(queries.now.min()))
    if queries.shown is not None:
        found.lists += release_queries.of_shown(known, queries)
        return lists_in_parts(place, release, loaded, queries, name, caps.limits), found
    if frozen is None:
        found.absent[FROZEN] = (
            "the workspace holds no vectors of the untuned encoder for these items"
        )
    asked = AskedLists(
        release_queries.length_of(queries), tuple(caps.limits.items()), caps.depth(LIST_LENGTH)
    )
    with _references(place, release, loaded, queries, known) as references:
        made = _made(place, release, loaded, queries, asked, references, frozen, name)
        facts = _facts(references.in_scratch() or references.local())
    moments = KnownAtMoments(
        known,
        queries.past,
        queries.now,
        lambda group: loaded.state.history(queries.users[group], int(queries.now[group])),
        loaded.state.catalogue,
        loaded.bundle.facts["windows"]["scheme"] == "ordinal",
    )
    found.add_lists(moments, made.alone.lists.values(), caps)
    found.absent |= facts["absent"]
    found.failed |= facts["failed"] | made.alone.failed
    return made.own, found


@contextmanager
def _references(
    place: PartsPlace,
    release: ReleaseFiles,
    loaded: "LoadedRelease",
    queries: "Queries",
    known: Interactions | None,
) -> Iterator[PublishedFolder]:
    """What parts need beyond the release, in scratch for as long as it takes: what it was told, and the
    references that it does without, fitted on what was `known`. What an earlier run of the same left
    there is used again."""
    told = [list(record) for record in queries.told]
    decides = [__version__, *names_of(release), told, int(queries.now.min()), known is None]
    there = place.scratch.below(RELEASES)
    published = PublishedFolder(there, f"references-{hash_json(decides)[:32]}")
    if not published.is_there():
        found = Compared()
        with tempfile.TemporaryDirectory(prefix="references-") as aside:
            folder = Path(aside)
            if known is not None:
                release_queries.add_references(found, loaded, known)
            for name, source in found.sources.items():
                (folder / name).mkdir()
                cast("FittableSource", source).save(folder / name)
            facts = {"told": told, "absent": found.absent, "failed": found.failed}
            write_json(folder / FACTS, {**facts, "sources": list(found.sources)})
            PublishedFolder.publish(folder, there, published.name)
    yield published
    published.remove()


def _made(
    place: PartsPlace,
    release: ReleaseFiles,
    loaded: "LoadedRelease",
    queries: "Queries",
    asked: AskedLists,
    references: PublishedFolder,
    frozen: Path | None,
    name: str,
) -> MadeLists:
    """All parts' lists, joined."""
    stretches = stretches_of(len(queries), place.parts)
    tables = [_asked(loaded, queries, *stretch) for stretch in stretches]
    digest = hashlib.sha256()
    for row in (row for table in tables for row in table.to_pylist()):
        digest.update(json.dumps(list(row.values())).encode() + b"\n")
    decides = [__version__, *names_of(release), references.name, list(asked), str(frozen)]
    key = hash_json(["evaluation", *decides, digest.hexdigest(), len(stretches)])[:32]

    def work_in(scratch: ScratchFolder) -> PartWork:
        there = within_reach(place, release)
        beside = references.in_scratch() if place.engine.shares_disk else None
        untuned: Path | PublishedFolder | None = frozen
        if frozen is not None and not place.engine.shares_disk:
            published = place.scratch.below(RELEASES)
            untuned = PublishedFolder.publish(frozen, published, f"frozen-{frozen.name}")
        workers = threads_of_part(len(stretches))
        work = PartOfEvaluation(scratch, there, beside or references, untuned, asked, workers)
        # Parts that run in this process use what is open here.
        _opened[work.world] = Opened(loaded, work.opened_sources(loaded))
        return work

    try:
        with (
            Reporter().task(name, len(queries)) as task,
            unfinished(place.scratch, key) as folder,
        ):
            sizes = [table.num_rows for table in tables]
            parts = in_parts(place.engine, folder, sizes, tables.__getitem__, work_in, task.advance)
            made = list(parts)
    finally:
        _opened.clear()
    own = RankedLists(name, *read_lists(made, OWN, asked.length))
    return MadeLists(own, ListsAlone.joined(made, asked.depth))


def _asked(loaded: "LoadedRelease", queries: "Queries", low: int, high: int) -> pa.Table:
    """Some of the queries, a row each."""
    groups = range(low, high)
    requests = [release_queries.request_of(loaded, queries, group) for group in groups]
    return pa.table(
        {
            c.USER_ID: pa.array(queries.users[low:high], pa.string()),
            c.TIMESTAMP: pa.array(queries.now[low:high], pa.int64()),
            c.ITEM_IDS: pa.array([items for items, _ in requests], pa.list_(pa.string())),
            c.CONTEXT: pa.array([json.dumps(said) for _, said in requests], pa.string()),
        }
    )


class Opened(NamedTuple):
    """What a process has opened for its parts."""

    loaded: "LoadedRelease"
    """Told what the queries say."""
    sources: dict[str, "RecallSource"]
    """By label: the release's, the references and the untuned encoder."""


World = tuple[
    ReleaseFiles | PublishedRelease, Path | PublishedFolder, Path | PublishedFolder | None
]
_opened: dict[World, Opened] = {}
"""What this process has opened, one at a time."""


@dataclass(frozen=True)
class PartOfEvaluation(PartInScratch):
    """The release's lists and each source's alone, for the queries of one part."""

    release: ReleaseFiles | PublishedRelease
    references: Path | PublishedFolder
    frozen: Path | PublishedFolder | None
    asked_for: AskedLists
    workers: int
    """Threads; more than one where no other process works."""

    @property
    def world(self) -> World:
        """What its parts have in common."""
        return self.release, self.references, self.frozen

    def made(self, asked: pa.Table) -> pa.Table:
        """A row for each query: items and scores of the release and of each source."""
        opened = self._world_opened()
        users, now = asked[c.USER_ID].to_pylist(), asked[c.TIMESTAMP].to_numpy()
        items = asked[c.ITEM_IDS].to_pylist()
        contexts = [json.loads(said) for said in asked[c.CONTEXT].to_pylist()]
        own = lists_of_release(
            opened.loaded,
            users,
            now,
            self.asked_for.length,
            name=OWN,
            caps=dict(self.asked_for.caps),
            items_of=items.__getitem__,
            context_of=contexts.__getitem__,
        )
        table = lists_alone(
            opened.sources,
            now,
            lambda group: opened.loaded.state.history(users[group], int(now[group])),
            opened.loaded.state.catalogue.blocked.copy(),
            k=self.asked_for.depth,
            workers=self.workers,
        )
        columns = list_columns(OWN, own.items, own.scores)
        alone = dict(zip(table.column_names, table.columns, strict=True))
        return pa.table(columns | alone, metadata=table.schema.metadata)

    def _world_opened(self) -> Opened:
        if self.world not in _opened:
            _opened.clear()
            loaded = self.release.open_whole()
            facts = _facts(local_folder(self.references))
            loaded.apply([LogRecord(*record) for record in facts["told"]])
            _opened[self.world] = Opened(loaded, self.opened_sources(loaded))
        return _opened[self.world]

    def opened_sources(self, loaded: "LoadedRelease") -> dict[str, "RecallSource"]:
        """By label the sources that are asked alone."""
        if not self.asked_for.depth:
            return {}
        folder = local_folder(self.references)
        found = {label_of(name): source for name, source in loaded.recall.proposing.items()}
        for name in _facts(folder)["sources"]:
            found[label_of(name)] = source_class(name).load(folder / name)
        if self.frozen is not None:
            found[FROZEN] = release_queries.open_frozen(local_folder(self.frozen))
        return found


def _facts(references: Path) -> dict[str, Any]:
    """What lies beside references."""
    found: dict[str, Any] = json.loads((references / FACTS).read_text(encoding="utf-8"))
    return found
