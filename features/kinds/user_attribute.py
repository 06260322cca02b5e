"""`UserAttribute`: the caller's own columns of users."""

from dataclasses import dataclass

import numpy as np

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext


@dataclass(frozen=True)
class UserAttribute(HistoryFeature):
    """A numeric attribute as it is, or a categorical one as the place of its value in `values`.

    Unit: the column's; codes from 0. Unknown: NaN. Cost: one look-up per list.
    """

    name: str
    values: tuple[str, ...] = ()
    """Values of a categorical attribute; empty for a numeric one."""

    entity = "user"
    family = "user"
    cost = "1 look-up per list"

    @property
    def column(self) -> str:
        return f"user.{self.name}"

    def online(self, moment: RankingContext) -> Floats:
        value = moment.user.get(self.name)
        if value is None:
            return shared(np.nan)
        if not self.values:
            return shared(float(value) if isinstance(value, int | float) else np.nan)
        return shared(self.values.index(value) if value in self.values else np.nan)
