"""`WindowCount`: how often something happened to an entity lately."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.features.counted_events import ENTITY_TAG
from recsys.features.interactions import Floats
from recsys.features.kinds.kind import CounterFeature
from recsys.features.ranking_context import Count, Counts
from recsys.features.time_buckets import type_word, window_name


@dataclass(frozen=True)
class WindowCount(CounterFeature):
    """Events of one type on the candidate, its category or its tags, in a window.

    Definition: events in the whole buckets before the moment's bucket, at most `window_us` back;
    for tags the mean over the item's tags. Unit: events. Unknown: 0 for an item never seen, NaN
    for an item without category or tags. Cost: two binary searches per candidate.
    """

    of: str
    """item, category, tag or shown (appearances in lists)."""
    type: str
    """Event type; empty for all types."""
    window_us: int
    """Width in µs; 0 for everything before."""

    unit = "events"
    default = 0.0
    cost = "2 searches"

    @property
    def column(self) -> str:
        what = "shown" if self.of == "shown" else f"{self.of}.{type_word(self.type, 'any')}"
        return f"count.{what}.{window_name(self.window_us)}"

    @cached_property
    def needs(self) -> tuple[Count, ...]:
        return (Count(self.of, (self.type,) if self.type else (), self.window_us),)

    def read(self, counts: Counts) -> Floats:
        count = counts.of(self.needs[0]).astype(np.float32)
        if self.of in ("item", "shown"):
            return count
        known = counts.known(self.of)
        if self.of == ENTITY_TAG:
            count = (count / np.maximum(known, 1)).astype(np.float32)
        return np.where(known > 0, count, np.float32(np.nan)).astype(np.float32)
