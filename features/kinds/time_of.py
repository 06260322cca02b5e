"""`TimeOf`: hour of the day and day of the week of the request."""

from dataclasses import dataclass

from recsys.features.interactions import DAY, HOUR, Floats
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


@dataclass(frozen=True)
class TimeOf(HistoryFeature):
    """Hour of the day (0 ≤ h < 24) or day of the week (0 is Monday), in UTC.

    Always known. Cost: one division per list.
    """

    of: str
    """day or week."""

    entity = "request"
    family = "context"
    cost = "1 division per list"

    @property
    def column(self) -> str:
        return f"time.of_{self.of}"

    def online(self, moment: RankingContext) -> Floats:
        if self.of == "day":
            return shared(moment.now % DAY / HOUR)
        # 1970-01-01 was a Thursday, day 3 of a week that starts on Monday.
        return shared((moment.now // DAY + 3) % 7)
