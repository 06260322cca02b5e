"""Place in a list and what was clicked there: estimated on shown lists, used in the ranker's labels.

An item acted on at a late place had little chance to be looked at; its label weighs as much as the
chance it had (inverse propensity, Joachims et al. 2017). Only lists and events before the first
tested cut are read.

Shapes: R candidate rows of M moments.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.data_schemas.errors import DataRefused
from recsys.evaluation.report_context import PositionBias
from recsys.evaluation.shown_lists import bias_of_lists, label_weights
from recsys.features.impressions import Impressions
from recsys.features.interactions import Floats
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import RankingData

MOST_LISTS = 200_000
"""Latest lists that the bias is estimated on (assumed: more change nothing in its second place)."""


@dataclass(frozen=True)
class PlaceWeights:
    """The bias, and what each row's label is worth by it."""

    weight: Floats | None
    """float32[R]; None where every label counts the same."""
    bias: PositionBias | None
    why: str
    """How the bias was estimated and used, or why it was not."""

    def facts(self) -> dict[str, Any]:
        """For the stage; `bias_of` reads it back."""
        bias = None if self.bias is None else vars(self.bias)
        return {"why": self.why, "bias": bias}


def bias_of(facts: dict[str, Any]) -> PositionBias | None:
    """The bias out of a stage's facts."""
    return None if facts["bias"] is None else PositionBias(**facts["bias"])


def place_weights(night: Night) -> PlaceWeights:
    """Weights of the ranker's labels; all the same, with the reason, where no bias can be known."""
    inputs, ranking = night.data, night.learned.product
    lists = inputs.tables.ranked_lists
    if lists is None or not len(lists):
        return PlaceWeights(None, None, "there are no impressions")
    until = inputs.windows.test[0]
    before = np.flatnonzero(lists.time < until)[-MOST_LISTS:]
    events = inputs.interactions.before(until)
    lists = lists.take(before)
    try:
        bias = bias_of_lists(lists, events, seed=night.config.seed)
    except DataRefused as error:
        return PlaceWeights(None, None, str(error))
    if not np.isfinite(bias.examination).all():
        return PlaceWeights(None, None, "some place was never acted on")
    if not night.config.ranker.debias:
        return PlaceWeights(
            None, bias, "ranker.debias is off: labels count the same at every place"
        )
    weight = _of_rows(inputs, ranking, lists, events, bias)
    moved = int((weight != 1).sum())
    return PlaceWeights(
        weight, bias, f"{moved:,} of {int((ranking.table.grade > 0).sum()):,} labels are weighted"
    )


def _of_rows(
    inputs: Inputs, ranking: RankingData, lists: Impressions, events: Any, bias: PositionBias
) -> Floats:
    """float32[R]. A label of a moment of recall takes the place where the item was shown in the
    label's window, one of a shown list the place in that very list."""
    table, moments = ranking.table, ranking.moments
    rows = np.flatnonzero(table.grade > 0)
    moment = np.searchsorted(table.offsets, rows, "right") - 1
    end = moments.time + 1
    recalled = np.flatnonzero(~ranking.shown)
    end[recalled] = [inputs.windows.label_end(int(cut)) for cut in moments.time[recalled]]
    weight = np.ones(len(table.items), np.float32)
    weight[rows] = label_weights(
        lists,
        events,
        bias,
        moments.user[moment],
        table.items[rows],
        (moments.time[moment], end[moment]),
    )
    return weight
