"""`Overlap`: how much the candidate has in common with what the user did lately."""

from dataclasses import dataclass

import numpy as np

from recsys.features.compiled import compiled
from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


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
    codes = np.empty(size, np.int32)
    at = 0
    for item in seen:
        for t in range(start[item], stop[item]):
            codes[at] = pool[t]
            at += 1
    codes.sort()
    # Each tag once, with how many of the history's items have it.
    times = np.empty(size, np.int32)
    distinct = 0
    for at in range(size):
        if distinct > 0 and codes[distinct - 1] == codes[at]:
            times[distinct - 1] += 1
        else:
            codes[distinct], times[distinct] = codes[at], 1
            distinct += 1
    out = np.empty(len(items), np.float32)
    for i in range(len(items)):
        low, high = start[items[i]], stop[items[i]]
        if low == high:
            out[i] = np.nan
            continue
        hits = 0
        for t in range(low, high):
            left = np.searchsorted(codes[:distinct], pool[t])
            if left < distinct and codes[left] == pool[t]:
                hits += times[left]
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
