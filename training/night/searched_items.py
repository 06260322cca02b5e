"""Which items recall searches at a moment, where the config leaves the catalogue's tail out of lists.

With `sources.recall_days`, lists are made of items that somebody has acted on and of those that were
created within so many days; the rest is scored where it is asked for. What counts is what was known at
the moment: an item that is acted on only later is left out before. Items that the night treats as though
nobody had acted on them stay in: they stand for new ones, which are in.

Shapes: N items.
"""

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import DAY
from recsys.features.protocols import Mask
from recsys.storage.files import hash_json
from recsys.training.night.inputs import NOT_YET, Inputs


def unavailable_at(inputs: Inputs, now: int) -> Mask:
    """uint8[N]: 1 for items that are in no list of a moment (µs): not available, or not searched then."""
    mask = inputs.tables.catalogue.blocked.copy()
    searched = searched_at(inputs, now)
    if searched is not None:
        mask[~searched] = 1
    return mask


def searched_at(inputs: Inputs, now: int) -> npt.NDArray[np.bool_] | None:
    """bool[N]: what lists of a moment (µs) are made of; None where they are made of all items."""
    return _searched(inputs, now, inputs.first_acted_on < now)


def searched_ever(inputs: Inputs) -> npt.NDArray[np.bool_] | None:
    """bool[N]: what lists of some moment of the night's windows or later may be made of; None for all.

    It says of no item that it will be acted on, but of those that no moment may list anyway.
    """
    return _searched(inputs, inputs.windows.encoder_until, inputs.first_acted_on < NOT_YET)


def searched_key(inputs: Inputs) -> str | None:
    """What identifies `searched_ever`."""
    searched = searched_ever(inputs)
    return None if searched is None else hash_json(np.flatnonzero(searched).tolist())


def _searched(
    inputs: Inputs, now: int, acted_on: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_] | None:
    days = inputs.config.sources.recall_days
    if days is None:
        return None
    created = inputs.tables.catalogue.created_at
    return np.asarray(acted_on | (created >= now - round(days * DAY)))
