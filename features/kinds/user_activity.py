"""`UserActivity` and `UserDiversity`: what sort of user this is, from the history."""

from dataclasses import dataclass

import numpy as np

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext
from recsys.features.time_buckets import type_word, window_name


@dataclass(frozen=True)
class UserActivity(HistoryFeature):
    """Events of the user, of one type or of all, in a window up to now.

    Exact to the last event: unlike item counters it reads the history itself. Unit: events.
    Unknown: 0. Cost: one binary search per list, and a pass over the window for one type.
    """

    type: str
    """Event type; empty for all."""
    window_us: int
    """Width in µs; 0 for everything before."""

    entity = "user"
    family = "user"
    unit = "events"
    default = 0.0
    cost = "1 search per list"

    @property
    def column(self) -> str:
        return f"user.{type_word(self.type, 'events')}.{window_name(self.window_us)}"

    def online(self, moment: RankingContext) -> Floats:
        time, kind = moment.history.time, moment.history.kind
        first = 0
        if self.window_us:
            first = int(np.searchsorted(time, moment.now - self.window_us, "left"))
        if not self.type:
            return shared(len(time) - first)
        return shared(int(np.count_nonzero(kind[first:] == moment.kind_code(self.type))))


@dataclass(frozen=True)
class UserDiversity(HistoryFeature):
    """Distinct items or categories per event among the latest `reach` events, or the share liked.

    Unit: 1, between 0 and 1. Unknown: NaN without history. Cost: one pass over `reach` events per
    list.
    """

    of: str
    """item, category or positive (grade of at least 1)."""
    reach: int = 50

    entity = "user"
    family = "user"
    cost = "reach reads per list"

    @property
    def column(self) -> str:
        return f"user.{self.of}.share"

    def online(self, moment: RankingContext) -> Floats:
        item = moment.history.item[-self.reach :]
        if not len(item):
            return shared(np.nan)
        if self.of == "positive":
            return shared(np.count_nonzero(moment.history.grade[-self.reach :] > 0) / len(item))
        codes = moment.catalogue.category_codes[item] if self.of == "category" else item
        return shared(len(set(codes.tolist())) / len(item))
