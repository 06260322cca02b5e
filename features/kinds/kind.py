"""What every kind of feature has: a declaration and two readings.

Four bases, by where a feature looks; each gives one of the readings from the other's parts, so
that a kind states its arithmetic once:

- `CounterFeature` adds and divides counts; batch counts come from SQL, online ones from the state.
- `SignalFeature` transforms one score of the recall stage.
- `HistoryFeature` looks at the history, the item and the moment; its batch reading walks the groups.
- `Feature` itself, for a feature whose readings share nothing.

Shapes: n candidates of one moment, R rows of a batch, G groups.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Literal

import numpy as np

from recsys.features.interactions import EMPTY_HISTORY, Floats, Longs
from recsys.features.ranking_context import (
    Count,
    CountPlan,
    Counts,
    OnlineCounts,
    RankingContext,
)
from recsys.features.rows import BatchInputs, Rows

Family = Literal[
    "text", "collaborative", "recall", "counters", "recency", "attributes", "context", "user"
]
NAN: Final = float("nan")


@dataclass(frozen=True)
class Feature(ABC):
    """One column of the ranker's table, declared once and read in two ways."""

    entity: ClassVar[str] = "item"
    """What the value belongs to: item, category, tag, user, pair (user and item) or request."""
    family: ClassVar[Family] = "counters"
    """Group in which the report and the explanations show it."""
    unit: ClassVar[str] = "1"
    default: ClassVar[float] = NAN
    """Value where nothing is known."""
    cost: ClassVar[str] = "1 read"
    """Online work per candidate."""

    @property
    @abstractmethod
    def column(self) -> str:
        """Name of the column."""

    @property
    def group(self) -> str:
        """Family of this very feature; differs from the kind's where the source decides."""
        return self.family

    @abstractmethod
    def online(self, moment: RankingContext) -> Floats:
        """float32[n] for the candidates of a moment."""

    @abstractmethod
    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        """float32[R] for all rows."""

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain values, with the kind's name."""
        declared = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in declared.items()}
        return {"kind": type(self).__name__} | plain


class CounterFeature(Feature):
    """Arithmetic on counts."""

    @property
    @abstractmethod
    def needs(self) -> tuple[Count, ...]:
        """The counts that `read` will ask for."""

    @abstractmethod
    def read(self, counts: Counts) -> Floats:
        """float32[n] from counts, wherever they come from."""

    def online(self, moment: RankingContext) -> Floats:
        plan = CountPlan(self.needs)
        return self.read(OnlineCounts(plan, moment.state, moment.items, moment.now))

    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        # Imported here: the ranking path never needs the SQL side.
        from recsys.features.batch_counts import read_counters

        out = np.empty((len(rows), 1), np.float32)
        read_counters((self,), [0], rows, inputs, out)
        return out[:, 0]


class SignalFeature(Feature):
    """A transformation of one signal of the recall stage, which is as-of both online and offline."""

    entity = "pair"
    cost = "1 copy"
    elementwise: ClassVar[bool] = False
    """Whether `read` is the same for every feature of the kind and takes each number by itself, so that
    the signals of several are read at once."""

    @property
    @abstractmethod
    def signal(self) -> str:
        """Name of the signal read."""

    def read(self, values: Floats) -> Floats:
        """float32[n] from the signal's float32[n]; NaN stays NaN."""
        return values

    def online(self, moment: RankingContext) -> Floats:
        values = moment.signals.get(self.signal)
        if values is None:
            return np.full(len(moment), self.default, np.float32)
        return self.read(values)

    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        values = rows.signals.get(self.signal)
        if values is None:
            return np.full(len(rows), self.default, np.float32)
        return self.read(values)


class HistoryFeature(Feature):
    """A look at the user's history, the candidate's own fields and the moment.

    Needs no counters and no other user's events, so the batch reading is the online one, group by
    group, on the history cut at the group's now.
    """

    @abstractmethod
    def online(self, moment: RankingContext) -> Floats:
        """float32[n], or float32[1] for a value that all candidates share."""

    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        out = np.empty(len(rows), np.float32)
        for group, part in rows.groups():
            out[part] = self.online(moment_of(rows, inputs, group, part))
        return out


class ItemFeature(HistoryFeature):
    """A look at the candidate's own fields only, so that its values can be kept until an item
    changes. All rows of a batch are read at once."""

    def batch(self, rows: Rows, inputs: BatchInputs) -> Floats:
        whole = RankingContext(0, EMPTY_HISTORY, rows.items, {}, None, inputs.catalogue)  # type: ignore[arg-type]
        return np.broadcast_to(self.online(whole), len(rows))


def moment_of(rows: Rows, inputs: BatchInputs, group: int, part: slice) -> RankingContext:
    """The moment of one group of a batch. It has no online state: counters come from SQL."""
    return RankingContext(
        now=int(rows.now[group]),
        history=rows.history(group),
        items=rows.items[part],
        signals={name: values[part] for name, values in rows.signals.items()},
        state=None,  # type: ignore[arg-type]
        catalogue=inputs.catalogue,
        user=inputs.user_attributes(int(rows.user[group])),
        context={name: values[group] for name, values in rows.context.items()},
        kinds=inputs.interactions.kinds,
    )


def shared(value: float) -> Floats:
    """float32[1] of a value that all candidates of a moment share."""
    return np.array([value], np.float32)


def ratio(part: Longs, whole: Longs, prior: float, strength: float) -> Floats:
    """float32[n]: (part + prior·strength) / (whole + strength), in double precision."""
    return ((part + prior * strength) / (whole + strength)).astype(np.float32)
