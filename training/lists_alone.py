"""Lists of each source alone for a stretch of moments, as a table of which many are joined.

Shapes: G moments, D places of a list.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from recsys.evaluation.lists import RankedLists
from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.protocols import Mask, RecallSource
from recsys.training.compared_lists import Compared
from recsys.training.groups import HistoryOf, source_lists
from recsys.training.moment_parts import MomentParts, Moments, PartOfMoments
from recsys.training.source_files import SourceFiles

ALONE, ITEMS, SCORES = "alone ", " items", " scores"
"""Columns of a part: items and scores by each source's label."""
FAILED: Final = b"failed"
"""In the schema of a part: label → why a source could not answer."""


class ListsAlone(NamedTuple):
    """What parts made, joined."""

    lists: dict[str, RankedLists]
    """[G, D] of each source, by its label."""
    failed: dict[str, str]
    """Label → why a source could not answer."""

    @classmethod
    def joined(cls, tables: Sequence[pa.Table], depth: int) -> "ListsAlone":
        """Of all parts, in their order, at least one; a source that failed in one of them is left out: it
        would be evaluated on other moments than the rest."""
        failed: dict[str, str] = {}
        for table in tables:
            for label, why in json.loads(table.schema.metadata[FAILED]).items():
                failed.setdefault(label, why)
        labels = [label for label in _labels(tables[0]) if label not in failed]
        lists = {
            label: RankedLists(label, *read_lists(tables, ALONE + label, depth)) for label in labels
        }
        return cls(lists, failed)


def lists_alone(
    sources: Mapping[str, RecallSource],
    now: Longs,
    history_of: HistoryOf,
    unavailable: Mask,
    *,
    k: int,
    workers: int,
) -> pa.Table:
    """A row for each moment: items and scores of each source that could answer.

    Args:
        sources: by label, fitted before the moments.
        now: int64[G], the moments, µs UTC.
        history_of: moment → what its user had done before.
        unavailable: uint8[N], items that may not be listed.
        k: places of a list.
        workers: threads.
    """
    found = Compared()
    columns: dict[str, pa.Array] = {}
    for label, source in sources.items():
        make = partial(source_lists, source, now, history_of, unavailable, k=k, workers=workers)
        if (lists := found.attempt(label, make)) is not None:
            columns |= list_columns(ALONE + label, *lists)
    return pa.table(columns).replace_schema_metadata({FAILED: json.dumps(found.failed)})


def alone_elsewhere(
    asking: MomentParts,
    sources: Mapping[str, SourceFiles],
    moments: Moments,
    unavailable: Mask,
    depth: int,
) -> ListsAlone:
    """Lists of each source alone, made on an engine.

    Args:
        asking: where.
        sources: by label, fitted before the moments.
        moments: G moments.
        unavailable: uint8[N], items that may not be listed.
        depth: D places of a list.
    """
    work = partial(PartOfListsAlone, depth=depth)
    tables = asking.made(sources, moments, unavailable, ("alone", depth), work)
    return ListsAlone.joined(tables, depth)


@dataclass(frozen=True)
class PartOfListsAlone(PartOfMoments):
    """Lists of each source alone at the moments of one part."""

    depth: int

    def said(
        self, sources: Mapping[str, RecallSource], moments: Moments, unavailable: Mask
    ) -> pa.Table:
        """A row for each moment."""
        now, history_of = moments.truth.time, moments.history_of
        return lists_alone(
            sources, now, history_of, unavailable, k=self.depth, workers=self.workers
        )


def list_columns(name: str, items: Ints, scores: Floats) -> dict[str, pa.Array]:
    """Lists int32[G, D] and float32[G, D] as two columns."""
    width = items.shape[1]
    return {
        f"{name}{kind}": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
        for kind, values in ((ITEMS, items), (SCORES, scores))
    }


def read_lists(tables: Sequence[pa.Table], name: str, width: int) -> tuple[Ints, Floats]:
    """The same of all parts."""
    items, scores = (
        np.concatenate(
            [table[f"{name}{kind}"].combine_chunks().flatten().to_numpy() for table in tables]
        ).reshape(-1, width)
        for kind in (ITEMS, SCORES)
    )
    return items, scores


def _labels(table: pa.Table) -> list[str]:
    """Sources that answered, in the order they were asked."""
    return [
        name[len(ALONE) : -len(ITEMS)]
        for name in table.column_names
        if name.startswith(ALONE) and name.endswith(ITEMS)
    ]
