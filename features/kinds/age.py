"""`Age`: how long an item has been there."""

from dataclasses import dataclass

import numpy as np

from recsys.features.interactions import DAY, Floats
from recsys.features.kinds.kind import HistoryFeature
from recsys.features.ranking_context import RankingContext
from recsys.features.time_buckets import MISSING_TIME


@dataclass(frozen=True)
class Age(HistoryFeature):
    """Days from the item's `created_at` to now; negative for one announced for later.

    Unit: days. Unknown: NaN. Cost: one read per candidate.
    """

    family = "recency"
    unit = "days"

    @property
    def column(self) -> str:
        return "age.item"

    def online(self, moment: RankingContext) -> Floats:
        created = moment.catalogue.created_at[moment.items]
        days = (moment.now - created) / DAY
        return np.where(created == MISSING_TIME, np.nan, days).astype(np.float32)
