"""`Recency`: how long ago the user last acted, in general or on something like the candidate."""

from dataclasses import dataclass

import numpy as np

from recsys.features.compiled import compiled
from recsys.features.interactions import (
    DAY,
    Floats,
    Ints,
    Longs,
)
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


@compiled
def _days_since(wanted: Ints, seen: Ints, time: Longs, now: int) -> Floats:
    """float32[n] days since the latest of the k `seen` codes that equals each wanted one."""
    out = np.empty(len(wanted), np.float32)
    for i in range(len(wanted)):
        out[i] = np.nan
        if wanted[i] < 0:
            continue
        # Events are oldest first. Of 200 a look at each is as fast as a sort, which takes 2 s to compile.
        for at in range(len(seen) - 1, -1, -1):
            if seen[at] == wanted[i]:
                out[i] = (now - time[at]) / DAY
                break
    return out


@dataclass(frozen=True)
class Recency(HistoryFeature):
    """Days since the user's last event at all, on the candidate, or in its category.

    Exact to the last event strictly before now. Unit: days. Unknown: NaN where there was none.
    Cost: one pass over the latest `reach` events, one read per candidate.
    """

    of: str
    """user, item or category."""
    reach: int = 200
    """Events looked back, the latest."""

    entity = "pair"
    family = "recency"
    unit = "days"
    cost = "1 read, reach/n passes"

    @property
    def column(self) -> str:
        return f"recency.{self.of}"

    def online(self, moment: RankingContext) -> Floats:
        history = moment.history
        if not len(history.time):
            return shared(np.nan)
        if self.of == "user":
            return shared((moment.now - int(history.time[-1])) / DAY)
        seen, time = history.item[-self.reach :], history.time[-self.reach :]
        wanted = moment.items
        if self.of == "category":
            seen, wanted = (
                moment.catalogue.category_codes[seen],
                moment.catalogue.category_codes[wanted],
            )
        return _days_since(wanted, seen, time, moment.now)
