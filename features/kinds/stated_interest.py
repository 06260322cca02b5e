"""`StatedInterest`: whether the user says of themselves what the candidate is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.features.catalogue import Catalogue
from recsys.features.compiled import compiled
from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


@compiled
def _has_one(start: Longs, stop: Longs, pool: Ints, wanted: Ints, items: Ints) -> Floats:
    """float32[n]: 1 for items with one of some tags, else 0; NaN for those without any tag.

    Args:
        start, stop: int64[N], each item's bounds in `pool`.
        pool: int32[p], tag codes.
        wanted: int32[w], tag codes.
        items: int32[n], candidates.
    """
    out = np.empty(len(items), np.float32)
    for i in range(len(items)):
        low, high = start[items[i]], stop[items[i]]
        out[i] = np.nan if low == high else 0.0
        for t in range(low, high):
            for code in wanted:
                if pool[t] == code:
                    out[i] = 1.0
    return out


@dataclass(frozen=True)
class StatedInterest(HistoryFeature):
    """Whether one of the user's attributes names the candidate's category or one of its tags.

    It is all that is known of somebody who says what they like and has done nothing yet. Unit: 1 or 0.
    Unknown: NaN for a user whose attributes name no category or tag, for a candidate that has neither.
    Cost: tags × names.
    """

    names: tuple[str, ...]
    """Attributes that are looked at."""

    entity = "pair"
    family = "attributes"
    cost = "tags × names"

    @property
    def column(self) -> str:
        return "stated.interest"

    def online(self, moment: RankingContext) -> Floats:
        catalogue = moment.catalogue
        tags, categories = stated(catalogue, {n: moment.user.get(n) for n in self.names})
        if not tags and not categories:
            return shared(np.nan)
        by_tag = _has_one(*catalogue.tag_ranges, np.array(tags or [-1], np.int32), moment.items)
        category = catalogue.category_codes[moment.items]
        by_category = np.where(category < 0, np.nan, np.isin(category, categories))
        found: Floats = np.fmax(by_tag, by_category).astype(np.float32)
        return found


def stated(catalogue: Catalogue, user: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Codes of the tags and of the categories that a user's attributes name."""
    words = [value for value in user.values() if isinstance(value, str)]
    tags = [catalogue.tag_code(word) for word in words]
    categories = [catalogue.category_code(word) for word in words]
    return [code for code in tags if code >= 0], [code for code in categories if code >= 0]
