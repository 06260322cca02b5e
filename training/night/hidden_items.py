"""Which items a night treats as though nobody had ever acted on them.

One lot per item decides: the ranker practises new items on those with the least lots, the test of
masked items asks for them, and the encoder is tuned without their events. An encoder that had them
as targets knows them as it never knows a new item, and the test of masked items would flatter it.

Shapes: N items.
"""

import numpy as np
import numpy.typing as npt

from recsys.features.draws import chance
from recsys.training.night.inputs import Inputs

PRACTISED_AT_MOST = 0.15
"""Largest share of the items that the ranker's windows mask as new (assumed)."""
TESTED_SHARE = 0.1
"""Share of the catalogue that the test of masked items asks for (assumed: a tenth leaves the warm items'
fits as they are)."""


def surplus(inputs: Inputs) -> npt.NDArray[np.bool_]:
    """bool[N]: items without any event before the test that the ranker's windows leave out.

    Beside the items that are masked they would make new items more numerous in practice than they
    are, and so dearer to show than they are. Nothing is lost: nobody acted on one in these windows.
    """
    known = inputs.interactions.before(inputs.windows.test[0])
    idle = np.asarray(np.bincount(known.item, minlength=inputs.n_items) == 0)
    masked = hidden(inputs, practised_share(inputs)) & ~idle
    if not idle.any():
        return idle
    share = min(1.0, float(masked.sum() / idle.sum()))
    drawn = chance(inputs.item_hashes, "surplus items", inputs.config.seed) < share
    return np.asarray(idle & drawn)


def practised_share(inputs: Inputs) -> float:
    """Share of the items that the ranker's windows treat as new: that of the items on which nobody had
    acted before the test, within `windows.floor_share` and `PRACTISED_AT_MOST`."""
    known = inputs.interactions.before(inputs.windows.test[0])
    events = np.bincount(known.item, minlength=inputs.n_items)
    floor = inputs.config.windows.floor_share
    return float(np.clip((events == 0).mean(), floor, PRACTISED_AT_MOST)) if len(events) else 0.0


def hidden(inputs: Inputs, share: float) -> npt.NDArray[np.bool_]:
    """bool[N]: the items with the least lots; the same ones every night, by a hash of their ids, and
    among them those of every smaller share."""
    return chance(inputs.item_hashes, "masked items", inputs.config.seed) < share


def untaught_share(inputs: Inputs) -> float:
    """Share of the items whose events the encoder is not tuned on."""
    return max(TESTED_SHARE, practised_share(inputs))
