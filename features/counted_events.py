"""What is counted for each sort of entity, stretch by stretch: counts are added up, so that memory
depends on the stretch and not on all events.

Shapes: n items asked about, E events, N entities, r rows of a stretch.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.catalogue import Catalogue
from recsys.features.counters import Kinds
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions, Ints, Longs
from recsys.features.on_disk import stretches
from recsys.features.ragged import ranges_of

ENTITY_ITEM: Final = "item"
ENTITY_CATEGORY: Final = "category"
ENTITY_TAG: Final = "tag"
ENTITY_SHOWN: Final = "shown"
STRETCH: Final = 1 << 20
"""Events of a stretch (assumed: some 100 MB with their tags)."""
LISTS: Final = 1 << 17
"""Lists shown of a stretch (assumed: some 50 MB with their items)."""


class Counted(NamedTuple):
    """Events to be counted for one sort of entity."""

    entity: Ints
    """int32[r], negative for none."""
    kind: Kinds
    """int16[r]"""
    bucket: Longs
    """int64[r]"""
    known_at: Longs
    """int64[r], log position."""

    def where(self, which: Any) -> "Counted":
        """The events of a mask, or at given places."""
        return Counted(*(column[which] for column in self))


def counted(
    entity: str,
    interactions: Interactions,
    impressions: Impressions | None,
    catalogue: Catalogue,
    bucket_us: int,
) -> Iterator[Counted]:
    """Everything counted for one sort of entity, in the order of the tables; none is negative.

    Args:
        entity: `item`, `category`, `tag` or `shown`.
        interactions: E events.
        impressions: lists that were shown; None where they are not recorded.
        catalogue: items with their categories and tags.
        bucket_us: width of a bucket, µs.
    """
    if entity == ENTITY_SHOWN:
        if impressions is not None:
            yield from _shown(impressions, bucket_us)
        return
    for part in stretches(len(interactions), STRETCH):
        items, kind = interactions.item[part], interactions.kind[part]
        bucket, position = interactions.time[part] // bucket_us, interactions.position[part]
        if entity == ENTITY_TAG:
            row, tags = tag_rows(catalogue, items)
            yield Counted(tags, kind[row], bucket[row], position[row])
            continue
        codes = entity_codes(catalogue, entity, items)
        every, known = Counted(codes, kind, bucket, position), codes >= 0
        yield every if known.all() else every.where(known)


def _shown(impressions: Impressions, bucket_us: int) -> Iterator[Counted]:
    for part in stretches(len(impressions), LISTS):
        lists = impressions.part(part.start, part.stop)
        items, time, position = lists.shown()
        every = Counted(items, np.zeros(len(items), np.int16), time // bucket_us, position)
        known = items >= 0
        yield every if known.all() else every.where(known)


def entity_codes(catalogue: Catalogue, entity: str, items: Ints) -> Ints:
    """int32[n]: the code under which an item's events are counted, -1 for none."""
    return catalogue.category_codes[items] if entity == ENTITY_CATEGORY else items


def tag_rows(catalogue: Catalogue, items: Ints) -> tuple[npt.NDArray[np.int64], Ints]:
    """(row int64[r], tag int32[r]): one row per tag of each of n items."""
    start, stop, pool = catalogue.tag_ranges
    lengths = (stop - start)[items]
    return np.repeat(np.arange(len(items)), lengths), pool[ranges_of(start[items], lengths)]
