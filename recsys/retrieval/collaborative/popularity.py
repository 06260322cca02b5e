"""What most people act on: over time (popular), and just now (recent)."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.features.draws import Doubles
from recsys.features.interactions import (
    DAY,
    Floats,
    History,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.kinds.kind import Family
from recsys.features.on_disk import stretches
from recsys.features.protocols import Mask, Recalled
from recsys.retrieval import history_kernels as kernels
from recsys.retrieval.fitted_source import (
    NOTHING,
    Cost,
    FittableSource,
    Reads,
    Room,
    SourceFit,
    SourceInputs,
    check_blocked,
    last_time,
    support,
    weight_scale,
)
from recsys.retrieval.history_kernels import Marks
from recsys.retrieval.source_params import SourceParams, param


class Popular(FittableSource):
    """Positive events of an item, each halved every `half_life` days (0: never).

    The order does not depend on the moment: all counts fade alike. Items without any event are
    known with a score of 0, after all others, so that a list is never empty.
    """

    name: ClassVar[str] = "popular"  # type: ignore[misc]
    columns: tuple[str, ...] = ("score", "log")
    family: ClassVar[Family] = "counters"
    reads: ClassVar[frozenset[Reads]] = frozenset({"events", "times"})
    cost = Cost.EVENTS
    always = "for people without a history"
    tells: ClassVar[tuple[str, ...]] = ("popular_in", "popular")

    class Params(SourceParams):
        """Of the count."""

        half_life: float = param(0, 0, 7, 30, 90, 365, unit="days")
        """Age at which an event counts half; 0: all count the same."""

    def __init__(
        self,
        counts: Floats,
        *,
        params: dict[str, float],
        fit_until: int,
        events: Marks | None = None,
    ) -> None:
        super().__init__(params=params, fit_until=fit_until)
        self.counts, self.events = counts, events
        """uint8[N]: positive events, however old, 255 for more; None from a fit that did not say."""
        self.n_items = len(counts)
        self.order = np.lexsort((np.arange(self.n_items), -counts)).astype(np.int32)
        self.scores = np.stack([counts, np.log1p(counts)], axis=1).astype(np.float32)
        """float32[N, 2]: what `score` gives of each item."""

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        return None

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Decayed positive events."""
        until = last_time(fit.interactions)
        counts = decayed_counts(fit.interactions, until, fit.params["half_life"])
        return {"counts": counts.astype(np.float32), "events": few(fit.interactions)}

    def asked(self, history: History, now: int) -> "AskedPopular":
        """For everybody the same."""
        return AskedPopular(self)

    def moment_key(self, history: History, now: int) -> bytes:
        """What of the moment the answers depend on: nothing."""
        return b""

    def score(self, history: History, items: Ints, now: int) -> Floats:
        """float32[n, 2]: the decayed count and its log(1 + count)."""
        return self.asked(history, now).score(items)

    def recall(self, history: History, limit: int, now: int, blocked: Mask) -> Recalled:
        """The first unblocked items of the one order."""
        return self.asked(history, now).recall_each([(limit, blocked)])[0]

    def saved(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        events = {} if self.events is None else {"events": self.events}
        return {}, {"counts": self.counts, **events}


class AskedPopular(NamedTuple):
    """A source for which all histories are alike."""

    source: Popular

    def score(self, items: Ints) -> Floats:
        """As `Popular.score`."""
        out = np.empty((len(items), 2), np.float32)
        kernels.rows_at(self.source.scores, np.ascontiguousarray(items, np.int32), out)
        return out

    def recall_each(self, asks: Sequence[tuple[int, Mask]]) -> list[Recalled]:
        """`Popular.recall` for each (limit, blocked)."""
        found = []
        for limit, blocked in asks:
            check_blocked(self.source.name, blocked, self.source.n_items)
            if limit < 1:
                found.append(NOTHING)
                continue
            items, scores = np.empty(limit, np.int32), np.empty(limit, np.float32)
            count = kernels.listed_top(
                self.source.order, self.source.counts, blocked, items, scores
            )
            found.append(Recalled(items[:count], scores[:count]))
        return found


class Recent(Popular):
    """Newest and trending: counts with a short half-life, an item's creation counting as events.

    `newness` is how many events a creation is worth at the moment it happens.
    """

    name: ClassVar[str] = "recent"  # type: ignore[misc]
    family = "recency"
    reads = frozenset({"events", "times", "creation"})
    always = ""
    tells = ("new",)

    class Params(SourceParams):
        """Of the count."""

        half_life: float = param(7, 1, 3, 7, 21, unit="days")
        """Age at which an event or a creation counts half."""
        newness: float = param(3, 0, 3, 10, unit="events")
        """What a creation counts at the moment it happens."""

    @classmethod
    def applies(cls, interactions: Interactions, inputs: SourceInputs, room: Room) -> str | None:
        if not len(interactions) or interactions.time.min() == interactions.time.max():
            return "all events have the same time: recent would equal popular"
        return None

    @classmethod
    def learned(cls, fit: SourceFit) -> dict[str, Any]:
        """Decayed positive events, and decayed creations where the catalogue dates them."""
        until, half_life = last_time(fit.interactions), max(fit.params["half_life"], 1e-3)
        counts = decayed_counts(fit.interactions, until, half_life)
        created = created_times(fit.inputs, fit.interactions.n_items)
        dated = (created > 0) & (created <= until)
        counts[dated] += fit.params["newness"] * fading(until - created[dated], half_life)
        return {"counts": counts.astype(np.float32), "events": few(fit.interactions)}


def few(interactions: Interactions) -> Marks:
    """uint8[N]: positive events of each item, however old; 255 for more."""
    return np.minimum(support(interactions), 255).astype(np.uint8)


def fading(age: Longs, half_life: float) -> Doubles:
    """2^(-age / half_life) for ages in µs and a half-life in days; 1 when the half-life is 0."""
    if half_life == 0:
        return np.ones(len(age))
    faded: Doubles = np.exp2(-age / (half_life * DAY))
    return faded


def decayed_counts(interactions: Interactions, until: int, half_life: float) -> Doubles:
    """float64[N]: positive events in units of the mean weight, decayed up to `until`."""
    counts, scale = np.zeros(interactions.n_items), weight_scale(interactions)
    for part in stretches(len(interactions)):
        keep = interactions.weight[part] > 0
        faded = fading(until - interactions.time[part][keep], half_life)
        mass = interactions.weight[part][keep] / scale * faded
        np.add.at(counts, interactions.item[part][keep], mass)
    return counts


def created_times(inputs: SourceInputs, n_items: int) -> Longs:
    """int64[N] creation times (µs), 0 where unknown."""
    out = np.zeros(n_items, np.int64)
    if inputs.catalogue is not None:
        known = np.asarray(inputs.catalogue.created_at, np.int64)[:n_items]
        out[: len(known)] = known
    return out
