"""`UserAttribute`: the caller's own columns of users."""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from recsys.features.interactions import Floats
from recsys.features.kinds.kind import HistoryFeature, shared
from recsys.features.ranking_context import RankingContext

_TAKEN: Final = re.compile(r"\.(share|all|\d+(d|h|m|us))\Z")
"""Ends of the columns that tell what a user did."""


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
        # What a user did has columns of their own: `user.click.7d`, `user.category.share`.
        return f"{'of_user' if _TAKEN.search(self.name) else 'user'}.{self.name}"

    def online(self, moment: RankingContext) -> Floats:
        value = moment.user.get(self.name)
        if value is None:
            return shared(np.nan)
        if not self.values:
            return shared(float(value) if isinstance(value, int | float) else np.nan)
        return shared(self.values.index(value) if value in self.values else np.nan)
