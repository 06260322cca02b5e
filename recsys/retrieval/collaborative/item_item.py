"""Items that go together, and items that follow one another.

Both count pairs of events of the same user; item_item looks both ways over the whole history,
transitions only ahead within a window, nearer pairs counting more. The count of i and j is divided
by n_i^left · n_j^right: left = right = 0.5 is the cosine; a smaller `right` lets popular items keep
part of their advantage, and `shrink`, added to both supports, keeps pairs of rare items from
leading. Measured on `games`, nDCG@10: cosine .060, (.5, .3) .072, (.5, .15, shrink 10) .076.
"""

from typing import Any, ClassVar

from recsys.features.interactions import Interactions
from recsys.retrieval.collaborative.neighbours import NeighbourSource
from recsys.retrieval.collaborative.pair_counts import PairReach, PairScale, count_pairs
from recsys.retrieval.fitted_source import Cost, Room, SourceFit, SourceInputs, met, no_pairs
from recsys.retrieval.source_params import SourceParams, param

MAX_REACH = 200
"""Events on either side that item_item pairs an event with: bounds the cost of long histories."""


class PairSource(NeighbourSource):
    """What counts pairs of one user's events."""

    family = "collaborative"
    reads = frozenset({"events", "order"})
    cost = Cost.PAIRS
    pairs = True
    in_parts = True
    tells = ("also_chosen",)

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        return no_pairs(interactions)

    @classmethod
    def counted(cls, fit: SourceFit, reach: PairReach) -> dict[str, Any]:
        """The table of a count; see `count_pairs`."""
        scale = PairScale(*(fit.params[name] for name in PairScale._fields))
        rows = count_pairs(fit.interactions, reach, scale, fit.workers, fit.elsewhere)
        return cls.table(fit, rows, met(fit.interactions))


class ItemItem(PairSource):
    """Item-item neighbours with asymmetric normalisation and a decayed history."""

    name: ClassVar[str] = "item_item"  # type: ignore[misc]

    class Params(SourceParams):
        """Of the count of pairs."""

        decay: float = param(0.8, 0.6, 0.7, 0.8, 0.9, 1, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        right: float = param(0.15, 0, 0.15, 0.3, 0.5, unit="exponent")
        """How far the events of the item proposed are divided out."""
        shrink: float = param(10, 0, 2, 10, 30, unit="events")
        """Added to both items' events."""
        left: float = param(0.5, 0.3, 0.5, 0.7, unit="exponent")
        """How far the events of the history's item are divided out."""

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Pairs both ways over each user's latest events."""
        return cls.counted(fit, PairReach(MAX_REACH, MAX_REACH, 1.0))


class Transitions(PairSource):
    """What follows what: pairs ahead within a window, decayed by their distance."""

    name: ClassVar[str] = "transitions"  # type: ignore[misc]

    class Params(SourceParams):
        """Of the count of pairs."""

        decay: float = param(0.8, 0.6, 0.7, 0.8, 0.9, unit="factor", most=1, free=True)
        """Weight of an event of the history relative to the one after it."""
        right: float = param(0.1, 0, 0.1, 0.3, 0.5, unit="exponent")
        """How far the events of the item that follows are divided out."""
        shrink: float = param(10, 0, 2, 10, 30, unit="events")
        """Added to both items' events."""
        gap_decay: float = param(0.9, 0.6, 0.8, 0.9, 1, unit="factor", most=1)
        """Weight of a pair for each further event between the two."""
        left: float = param(0.5, 0.3, 0.5, 0.7, unit="exponent")
        """How far the events of the item that is followed are divided out."""
        window: float = param(20, 5, 20, unit="events", least=1)
        """Later events that an event is paired with."""

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Pairs ahead within the window."""
        reach = PairReach(0, int(fit.params["window"]), fit.params["gap_decay"])
        return cls.counted(fit, reach)
