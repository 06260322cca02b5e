"""A source of one's own as small as can be, to copy from."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import Floats, History, Interactions
from recsys.retrieval.fitted_source import Params, SourceInputs
from recsys.retrieval.own_source import OwnSource


class MostMet(OwnSource):
    """The items that most people met; how much that counts is a param."""

    name = "most_met"
    PARAMS: ClassVar[Params] = {"power": (1.0, (0.5, 1.0))}

    def learn(
        self, interactions: Interactions, inputs: SourceInputs
    ) -> dict[str, npt.NDArray[Any]]:
        """Events of each item."""
        del inputs
        return {"met": np.bincount(interactions.item, minlength=interactions.n_items)}

    def scores(self, history: History, now: int) -> Floats:
        """The same for everybody."""
        del history, now
        met = self.arrays["met"].astype(np.float32)
        return np.where(met > 0, met ** self.params["power"], np.nan).astype(np.float32)
