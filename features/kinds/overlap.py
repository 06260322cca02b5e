"""`Overlap`: how much the candidate has in common with what the user did lately."""

from dataclasses import dataclass

import numpy as np

from recsys.features.compiled import compiled
from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


@compiled
def _slot(tags: Ints, mask: int, tag: int) -> int:
    """Place of a tag in a hash table of `mask` + 1 places, or of the gap where it belongs."""
    at = (tag * 0x9E3779B1 >> 8) & mask
    while tags[at] >= 0 and tags[at] != tag:
        at = (at + 1) & mask
    return at


@compiled
def _tag_overlap(start: Longs, stop: Longs, pool: Ints, seen: Ints, items: Ints) -> Floats:
    """float32[n]: mean over an item's tags of the share of `seen` items that have the tag.

    Args:
        start, stop: int64[N], each item's bounds in `pool`.
        pool: int32[p], tag codes.
        seen: int32[h], items of the history.
        items: int32[n], candidates.
    """
    size = 0
    for item in seen:
        size += stop[item] - start[item]
    # How many of the history's items have each of their tags, found again by open addressing.
    mask = 15
    while mask < 4 * size:
        mask = 2 * mask + 1
    tags, times = np.full(mask + 1, -1, np.int32), np.zeros(mask + 1, np.int32)
    for item in seen:
        for t in range(start[item], stop[item]):
            slot = _slot(tags, mask, pool[t])
            tags[slot] = pool[t]
            times[slot] += 1
    out = np.empty(len(items), np.float32)
    for i in range(len(items)):
        low, high = start[items[i]], stop[items[i]]
        if low == high:
            out[i] = np.nan
            continue
        hits = 0
        for t in range(low, high):
            hits += times[_slot(tags, mask, pool[t])]
        out[i] = hits / ((high - low) * len(seen))
    return out


@dataclass(frozen=True)
class Overlap(HistoryFeature):
    """Share of the latest `last` history items that have the candidate's tags or category.

    Definition: for a category, the share of those items in it; for tags, the mean over the
    candidate's tags of the share that has the tag. Unit: 1, between 0 and 1. Unknown: NaN without
    history, or for a candidate without tags or category. Cost: tags × log(last × tags).
    """

    of: str
    """tag or category."""
    last: int = 20

    entity = "pair"
    family = "attributes"
    cost = "tags × log(last × tags)"

    @property
    def column(self) -> str:
        return f"overlap.{self.of}.last{self.last}"

    def online(self, moment: RankingContext) -> Floats:
        seen = moment.history.item[-self.last :]
        if not len(seen):
            return shared(np.nan)
        catalogue = moment.catalogue
        if self.of == "tag":
            return _tag_overlap(*catalogue.tag_ranges, seen, moment.items)
        wanted = catalogue.category_codes[moment.items]
        counts = np.bincount(
            catalogue.category_codes[seen] + 1, minlength=len(catalogue.category_names) + 1
        )
        share = counts[wanted + 1] / len(seen)
        return np.where(wanted >= 0, share, np.nan).astype(np.float32)
