"""The kinds of features. A new one is a file here and a line below."""

from typing import Final

from features.kinds.age import Age
from features.kinds.attribute import Attribute
from features.kinds.base import Feature
from features.kinds.context import Context
from features.kinds.overlap import Overlap
from features.kinds.recency import Recency
from features.kinds.signals import (
    CollaborativeScore,
    CoOccurrence,
    InterestScore,
    RecallRank,
    Share,
    SourceScore,
    TextSimilarity,
)
from features.kinds.smoothed_rate import SmoothedRate
from features.kinds.time_of import TimeOf
from features.kinds.trend import Trend
from features.kinds.user_activity import UserActivity, UserDiversity
from features.kinds.user_attribute import UserAttribute
from features.kinds.window_count import WindowCount

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
        TextSimilarity,
        TimeOf,
        Trend,
        UserActivity,
        UserAttribute,
        UserDiversity,
        WindowCount,
    )
}
