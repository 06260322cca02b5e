"""The kinds of features. A new one is a file here and a line below."""

from typing import Final

from recsys.features.kinds.age import Age
from recsys.features.kinds.attribute import Attribute
from recsys.features.kinds.kind import Feature
from recsys.features.kinds.overlap import Overlap
from recsys.features.kinds.recency import Recency
from recsys.features.kinds.request_value import Context
from recsys.features.kinds.signals import (
    CollaborativeScore,
    CoOccurrence,
    InterestScore,
    RecallRank,
    Share,
    SourceScore,
    TextSimilarity,
)
from recsys.features.kinds.smoothed_rate import SmoothedRate
from recsys.features.kinds.stated_interest import StatedInterest
from recsys.features.kinds.time_of import TimeOf
from recsys.features.kinds.trend import Trend
from recsys.features.kinds.user_activity import UserActivity, UserDiversity
from recsys.features.kinds.user_attribute import UserAttribute
from recsys.features.kinds.window_count import WindowCount

KINDS: Final[dict[str, type[Feature]]] = {
    kind.__name__: kind
    for kind in (
        Age,
        Attribute,
        CollaborativeScore,
        Context,
        CoOccurrence,
        InterestScore,
        Overlap,
        RecallRank,
        Recency,
        Share,
        SmoothedRate,
        SourceScore,
        StatedInterest,
        TextSimilarity,
        TimeOf,
        Trend,
        UserActivity,
        UserAttribute,
        UserDiversity,
        WindowCount,
    )
}
