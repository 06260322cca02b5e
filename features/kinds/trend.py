"""`Trend`: whether an entity is on its way up."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import CounterFeature
from recsys.features.ranking_context import Count, Counts
from recsys.features.time_buckets import type_word, window_name


@dataclass(frozen=True)
class Trend(CounterFeature):
    """Pace of a short window against that of a long one.

    Definition: log((short/short_us + ε) / (long/long_us + ε)) with ε one event per long window, so
    0 means steady and an item never seen is steady. Unit: log ratio. Unknown: 0. Cost: four binary
    searches per candidate.
    """

    type: str
    """Event type; empty for all."""
    short_us: int
    long_us: int

    unit = "log ratio"
    default = 0.0
    cost = "4 searches"

    @property
    def column(self) -> str:
        windows = f"{window_name(self.short_us)}.over.{window_name(self.long_us)}"
        return f"trend.{type_word(self.type, 'any')}.{windows}"

    @cached_property
    def needs(self) -> tuple[Count, ...]:
        types = (self.type,) if self.type else ()
        return Count("item", types, self.short_us), Count("item", types, self.long_us)

    def read(self, counts: Counts) -> Floats:
        short, long = (counts.of(need).astype(np.float64) for need in self.needs)
        pace = short * (self.long_us / self.short_us)
        return np.log((pace + 1.0) / (long + 1.0)).astype(np.float32)
