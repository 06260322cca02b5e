"""`Attribute`: the caller's own columns of items."""

from dataclasses import dataclass

import numpy as np

from recsys.features.catalogue import Catalogue
from recsys.features.interactions import Floats
from recsys.features.kinds.kind import ItemFeature, shared
from recsys.features.ranking_context import RankingContext


@dataclass(frozen=True)
class Attribute(ItemFeature):
    """A numeric attribute as it is, or a categorical one as the place of its value in `values`.

    The values are part of the declaration, so a code means the same in every release that shares
    it. Unit: the column's; codes from 0. Unknown: NaN, also for a value not declared or a column
    that the catalogue lacks. Cost: one or two reads per candidate.
    """

    name: str
    values: tuple[str, ...] = ()
    """Values of a categorical attribute, most frequent first; empty for a numeric one."""

    family = "attributes"

    @property
    def column(self) -> str:
        return f"item.{self.name}"

    def online(self, moment: RankingContext) -> Floats:
        catalogue = moment.catalogue
        if not self.values:
            if self.name not in catalogue.numeric_names:
                return shared(np.nan)
            return catalogue.numeric(self.name)[moment.items]
        table = self._table(catalogue)
        # The table's last place is NaN, which is where code -1 points.
        return table[catalogue.categorical(self.name)[moment.items]]

    def _table(self, catalogue: Catalogue) -> Floats:
        """float32[values of the catalogue + 1]: declared code of each catalogue code."""
        cached = catalogue.derived.get((self.name, self.values))
        names = catalogue.values_of(self.name)
        if cached is None or len(cached) != len(names) + 1:
            place = {value: code for code, value in enumerate(self.values)}
            declared = [place.get(name, np.nan) for name in names]
            cached = np.array([*declared, np.nan], np.float32)
            catalogue.derived[self.name, self.values] = cached
        return cached
