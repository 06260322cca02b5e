"""`Recency`: how long ago the user last acted, in general or on something like the candidate."""

from dataclasses import dataclass

import numpy as np

from features.interactions import DAY, Floats
from features.kinds.base import HistoryFeature, shared
from features.moment import Moment


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

    def online(self, moment: Moment) -> Floats:
        history = moment.history
        if not len(history.time):
            return shared(np.nan)
        if self.of == "user":
            return shared((moment.now - int(history.time[-1])) / DAY)
        seen, time = history.item[-self.reach :], history.time[-self.reach :]
        wanted = moment.items
        if self.of == "category":
            seen, wanted = moment.catalogue.category[seen], moment.catalogue.category[wanted]
        return _days_since(wanted, seen, time, moment.now)


def _days_since(wanted: Floats, seen: Floats, time: Floats, now: int) -> Floats:
    """float32[n] days since the latest of the k `seen` codes that equals each wanted one."""
    # The last of equal codes wins: reversed first occurrences are last occurrences.
    codes, first = np.unique(seen[::-1], return_index=True)
    at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    found = (codes[at] == wanted) & (wanted >= 0)
    days = (now - time[::-1][first][at]) / DAY
    return np.where(found, days, np.nan).astype(np.float32)
