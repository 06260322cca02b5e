"""`Context`: what a request says of its own situation."""

from dataclasses import dataclass

import numpy as np

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


@dataclass(frozen=True)
class Context(HistoryFeature):
    """A value given in the request: a number as it is, a string as its place in `values`.

    Unit: the caller's. Unknown: NaN when the request leaves it out. Cost: one look-up per list.
    """

    name: str
    values: tuple[str, ...] = ()

    entity = "request"
    family = "context"
    cost = "1 look-up per list"

    @property
    def column(self) -> str:
        return f"context.{self.name}"

    def online(self, moment: RankingContext) -> Floats:
        value = moment.context.get(self.name)
        if value is None:
            return shared(np.nan)
        if self.values:
            return shared(self.values.index(value) if value in self.values else np.nan)
        return shared(np.nan if isinstance(value, str) else float(value))
