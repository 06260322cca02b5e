"""`SmoothedRate`: how often an item's being seen led to something."""

from dataclasses import dataclass
from functools import cached_property

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import CounterFeature, ratio
from recsys.features.ranking_context import Count, Counts
from recsys.features.time_buckets import type_word, window_name


@dataclass(frozen=True)
class SmoothedRate(CounterFeature):
    """Events of `type` per appearance in lists, or per event of type `per`.

    Definition: (events + prior·strength) / (opportunities + strength) in the window; the prior is
    part of the declaration, so that both readings use the same number. Unit: 1. Unknown: the
    prior. Cost: four binary searches per candidate.
    """

    type: str
    per: str
    """Event type of the denominator; empty for appearances in lists (`shown`)."""
    window_us: int
    prior: float = 0.05
    """Rate assumed before anything is seen."""
    strength: float = 20.0
    """Opportunities that the prior is worth."""

    unit = "events per opportunity"
    cost = "4 searches"

    @property
    def column(self) -> str:
        return f"rate.{self.type}.per.{type_word(self.per, 'shown')}.{window_name(self.window_us)}"

    @cached_property
    def needs(self) -> tuple[Count, ...]:
        seen = Count("item", (self.per,), self.window_us)
        shown = Count("shown", (), self.window_us)
        return Count("item", (self.type,), self.window_us), seen if self.per else shown

    def read(self, counts: Counts) -> Floats:
        part, whole = (counts.of(need) for need in self.needs)
        return ratio(part, whole, self.prior, self.strength)
