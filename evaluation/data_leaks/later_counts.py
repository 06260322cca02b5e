"""Columns that know how often something is going to happen to an item, or how much a user is going to do.

Three signs, each for every kind of event:

*Below chance.* Counts vary at least as chance does (Poisson), whatever is known beforehand. Where the later
counts of items with like values vary less than that, the values were made from the counts.

*A sharp edge.* A flag that parts the later counts with hardly an overlap was made from them.

*A sudden gain.* What a column adds to a forecast of a stretch from the counts before it is about the same all
along the log. Where it adds much to the last stretch and little to those before, it knows that stretch.

Shapes: n items (or users), K slices of the log.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.evaluation.data_leaks.leaky_columns import ITEMS, SuspectColumn
from recsys.evaluation.data_leaks.logged_data import SLICES, LoggedData
from recsys.evaluation.data_leaks.numbers import Doubles, separation
from recsys.features.interactions import Bools, Interactions, Longs
from recsys.features.on_disk import stretches
from recsys.features.ragged import sizes_of_groups

MOST_KINDS: Final = 6
"""Event types looked at apart."""
MOSTLY: Final = 0.8
"""A type of this share of the events is counted well enough with all events together."""
BELOW_CHANCE: Final = 0.7
"""Variance over mean of the later counts below which a column knows them. Chance alone gives at least 1; the
lowest of sound columns was 1.6 (measured: films, office goods, generated logs)."""
ENOUGH: Final = 60.0
"""Effective number of items and least number of events in a judged stretch, a fifth of it (assumed)."""
FROM: Final = 0.6
"""Share of the log after which the stretches at its end begin."""
PEOPLE: Final = 25
"""Users (of items; items, of users) active in a last stretch, at least, for its counts to be forecast: what
fewer do is no sum of many chances (assumed)."""
ALIKE: Final = 0.1
"""Variance over mean of the later counts about nothing at all under which there is nothing to know: where
every history ends with one last event, say."""
CROWDED: Final = 0.1
"""An item that this share of the active users acts on varies less than chance: left out."""
MOST_CLASSES: Final = 12
"""Values of a column up to which it is looked at as classes."""
LEAST_CLASS: Final = 20
"""Items on either side of an edge."""
SHARP: Final = 0.985
"""Share of pairs across an edge in the right order. The best sellers so far came to .93 (measured: films)."""
OF_AN_AGE: Final = 0.9
"""AUC of the first event's time from which the two sides differ in age (assumed)."""
STRETCHES: Final = (5, 3, 2)
"""Slices of the last stretch and of those it is compared with."""
GAIN, SURE = 0.05, 3.5
"""Share of the forecast's deviance that a column must take away from the last stretch beyond twice what it
takes from any other, and in standard errors (sound columns: up to 0.03; measured)."""
RARE: Final = 0.05
"""Share of all events under which a type is not forecast: its own few counts tell less of it than how much
happens at all, and so does any column that says that."""
BANDS: Final = 16
"""Bands of a number within which the gain is counted."""


class Known(NamedTuple):
    """What a column knows of later counts."""

    kind: str
    """What is counted, in words."""
    how: str
    """The finding in words."""
    strength: float
    """Larger is worse; to name the worst kind."""


class Forecast(NamedTuple):
    """What the earlier counts say of a stretch, before any column is asked."""

    known: Bools
    """bool[n]: entities with events before; the m of them are in the two below."""
    y: Doubles
    """float64[m]: what happened."""
    base: Doubles
    """float64[m]: what was to be expected."""
    error: Doubles
    """float64[m]: deviance of the two."""
    spread: float
    """Variance over mean of what happened about it; at least 1."""


class LaterCounts:
    """Events of one kind by entity and slice.

    Args:
        kind: what is counted, in words.
        by_slice: float64[n, K].
        active: int64[K], how many of the other side are active from a slice on.
        share: of all events.
    """

    def __init__(self, kind: str, by_slice: Doubles, active: Longs, share: float) -> None:
        self.kind, self.by_slice, self.active, self.share = kind, by_slice, active, share
        self._forecasts: dict[tuple[int, int], Forecast | None] = {}

    @property
    def slices(self) -> int:
        return int(self.by_slice.shape[1])

    def forecast(self, first: int, end: int) -> Forecast | None:
        """The slices [first, end) from those before; None where too little happens."""
        if (first, end) not in self._forecasts:
            self._forecasts[first, end] = _forecast(self.by_slice, first, end)
        return self._forecasts[first, end]


def _forecast(by_slice: Doubles, first: int, end: int) -> Forecast | None:
    size = end - first
    past = by_slice[:, :first]
    known = np.asarray(past.any(axis=1))
    past = past[known]
    age = first - (past > 0).argmax(axis=1)
    rate = past.sum(axis=1) / age
    near = past[:, max(first - size, 0) :].sum(axis=1) / np.minimum(age, size)
    y = by_slice[known, first:end].sum(axis=1)
    if y.sum() < 5 * ENOUGH or known.sum() < ENOUGH:
        return None
    base = forecast_from_counts(rate * size, near * size, y)
    spread = max(1.0, float(((y - base) ** 2).sum() / base.sum()))
    return Forecast(known, y, base, deviance(y, base), spread)


def counts_of(log: LoggedData, table: str) -> tuple[Longs, list[LaterCounts]]:
    """(entities looked at, their counts by kind)."""
    events = log.events
    mine, other = (events.item, events.user) if table == ITEMS else (events.user, events.item)
    size = events.n_items if table == ITEMS else events.n_users
    entities = log.items_looked_at if table == ITEMS else log.users_looked_at
    place = np.full(size, -1, np.int64)
    place[entities] = np.arange(len(entities))
    others = events.n_users if table == ITEMS else events.n_items
    found = []
    for kind, counted in _kinds(log):
        cells = np.zeros(len(entities) * log.slices, np.int64)
        last, total = np.full(others, -1, np.int8), 0
        for part in stretches(len(events)):
            mask = counted(part)
            row, slice_ = place[mine[part][mask]], log.slice_of[part][mask]
            inside = row >= 0
            cell = row[inside] * log.slices + slice_[inside]
            cells += np.bincount(cell, minlength=len(cells))
            np.maximum.at(last, other[part][mask], slice_)
            total += len(row)
        by_slice = cells.reshape(len(entities), log.slices).astype(np.float64)
        active = _active(last, log.slices)
        found.append(LaterCounts(kind, by_slice, active, total / max(len(events), 1)))
    return entities, found


def _kinds(log: LoggedData) -> Iterator[tuple[str, Callable[[slice], Bools]]]:
    """What may have been counted, in words, and which events of a stretch it is: all, the positive ones,
    those of one type."""
    events = log.events
    yield "events", lambda part: np.ones(part.stop - part.start, bool)
    if log.graded:
        yield "positive events", lambda part: log.positive[part]
    if len(events.kinds) > 1:
        times = sizes_of_groups(events.kind, len(events.kinds))
        for kind in np.argsort(-times)[:MOST_KINDS].tolist():
            if times[kind] > MOSTLY * len(events):
                continue
            yield f"events of type {events.kinds[kind]}", partial(_of_type, events, kind)


def _of_type(events: Interactions, kind: int, part: slice) -> Bools:
    return np.asarray(events.kind[part] == kind)


def _active(last: npt.NDArray[np.int8], slices: int) -> Longs:
    """int64[K]: those with an event in a slice or later, by the slice of the last of each, -1 for none."""
    return np.asarray(np.bincount(last[last >= 0], minlength=slices)[::-1].cumsum()[::-1])


def what_it_knows(
    column: SuspectColumn, entities: Longs, counts: Sequence[LaterCounts]
) -> Known | None:
    """The surest sign that a column knows later counts; None where there is none."""
    values = column.values[entities]
    picked = SuspectColumn(column.table, column.name, values, column.named)
    found = [
        known
        for counted in counts
        for sign in (below_chance, sharp_edge, sudden_gain)
        if (known := sign(picked, counted)) is not None
    ]
    return max(found, key=lambda known: known.strength, default=None)


# -- below chance ---------------------------------------------------------------------------------


class CountedGroups(NamedTuple):
    """The distinct values of a column."""

    place: Longs
    """int64[n]: number of each entity's value, ascending."""
    sizes: Longs
    value: Doubles
    """The values; unknown ones lie below all."""
    named: bool

    @classmethod
    def of(cls, column: SuspectColumn) -> "CountedGroups":
        values, place, count = np.unique(column.values, return_inverse=True, return_counts=True)
        if np.isnan(values).any():
            values, count = np.roll(values, 1), np.roll(count, 1)
            place = (place + 1) % len(values)
            values[0] = values[1] - 1 if len(values) > 1 else 0.0
        return cls(place.astype(np.int64), count.astype(np.int64), values, column.named)

    def mean_of_others(self, y: Doubles) -> Doubles:
        """float64[n]: mean of the others with the same value; for a value of its own, what lies between
        the next lower and higher ones, or the mean of all where values are names."""
        total = np.bincount(self.place, y)
        others = (total[self.place] - y) / np.maximum(self.sizes[self.place] - 1, 1)
        alone = np.full(len(total), y.mean()) if self.named else self._between(total / self.sizes)
        return np.asarray(np.where(self.sizes[self.place] > 1, others, alone[self.place]))

    def _between(self, mean: Doubles) -> Doubles:
        """float64[values]: the straight line through the means of the next values."""
        last = len(mean) - 1
        if last < 2:
            return np.full(len(mean), mean.mean())
        at = np.arange(len(mean))
        low, high = np.where(at == 0, 1, at - 1), np.where(at == last, last - 1, at + 1)
        low, high = np.where(at == last, last - 2, low), np.where(at == 0, 2, high)
        step = (self.value - self.value[low]) / np.maximum(
            self.value[high] - self.value[low], 1e-12
        )
        return np.asarray(np.maximum(mean[low] + (mean[high] - mean[low]) * step, 0.0))


def below_chance(column: SuspectColumn, counted: LaterCounts) -> Known | None:
    """Later counts, or those of all time, that vary less about the column than chance allows."""
    slices, groups = counted.slices, CountedGroups.of(column)
    best = np.inf, ""
    late = np.zeros(len(counted.by_slice))
    for first in range(slices - 1, int(FROM * slices) - 1, -1):
        late = late + counted.by_slice[:, first]
        judged = _judged(late, groups, counted.active[first])
        if judged is None:
            continue
        limit = _limit(late[judged])
        spread = _spread(late, late, groups, judged)
        if spread < limit:
            best = min(best, (spread, f"the last {(slices - first) / slices:.0%} of the log"))
        if first == slices - max(slices // 10, 1):
            spread = _spread(counted.by_slice.sum(axis=1), late, groups, judged)
            best = min(best, (spread if spread < limit else np.inf, "the whole log"))
    if best[0] == np.inf:
        return None
    how = (
        f"it knows the number of {counted.kind} in {best[1]}: they vary {best[0]:.2f} times as much "
        "about it as chance alone makes them"
    )
    return Known(counted.kind, how, 10.0 - best[0])


def _judged(late: Doubles, groups: CountedGroups, active: int) -> Bools | None:
    """bool[n]: entities whose later count can be judged; None where they are too few."""
    judged = groups.mean_of_others(late) <= CROWDED * active
    if groups.named:
        judged &= groups.sizes[groups.place] > 1
    mean = late[judged]
    enough = mean.sum() >= 5 * ENOUGH and _effective(mean) >= ENOUGH
    return judged if enough and np.ptp(groups.place[judged]) > 0 else None


def _effective(mean: Doubles) -> float:
    """How many counts of equal size would tell as much of the variance."""
    return float(mean.sum() ** 2 / max((mean**2).sum(), 1e-9))


def _limit(mean: Doubles) -> float:
    """Variance over mean under which chance gives it to nobody: three standard errors below 1."""
    return float(min(BELOW_CHANCE, 1 - 3 * np.sqrt(2 / _effective(mean))))


def _spread(y: Doubles, late: Doubles, groups: CountedGroups, judged: Bools) -> float:
    """Variance of `y` about the column, against that which chance gives the later part of it, or
    against what is left about a shuffled column where that is smaller still; infinite where hardly
    anything is."""
    chance = float(late[judged].sum())
    found = float(((y - groups.mean_of_others(y))[judged] ** 2).sum()) / chance
    if found >= BELOW_CHANCE:
        return found
    mixed = groups._replace(place=np.random.default_rng(0).permutation(groups.place))
    blind = float(((y - mixed.mean_of_others(y))[judged] ** 2).sum()) / chance
    return np.inf if blind < ALIKE else found / min(1.0, blind)


# -- a sharp edge ---------------------------------------------------------------------------------


def sharp_edge(column: SuspectColumn, counted: LaterCounts) -> Known | None:
    """A flag, or one of a few classes, that parts the later counts with hardly an overlap."""
    groups, slices = CountedGroups.of(column), counted.slices
    if not 2 <= len(groups.sizes) <= MOST_CLASSES:
        return None
    late = np.zeros(len(counted.by_slice))
    for first in range(slices - 1, slices - max(slices // 4, 1) - 1, -1):
        late = late + counted.by_slice[:, first]
        if late.sum() < 5 * ENOUGH or counted.active[first] < PEOPLE:
            continue
        ranked = np.argsort(np.argsort(np.bincount(groups.place, late) / groups.sizes))
        for edge in range(1, len(ranked)):
            high = ranked[groups.place] >= edge
            if _parts(high, late, counted):
                part = (slices - first) / slices
                how = (
                    f"it parts those with many {counted.kind} in the last {part:.0%} of the log from "
                    f"those with few (AUC {separation(late, high):.3f})"
                )
                return Known(counted.kind, how, 1.0)
    return None


def _parts(high: Bools, late: Doubles, counted: LaterCounts) -> bool:
    """Whether the later counts lie apart on the two sides, and not because the sides are of different
    age: what is new has more to come, and that may be known."""
    if min(high.sum(), (~high).sum()) < LEAST_CLASS or separation(late, high) < SHARP:
        return False
    seen = counted.by_slice.any(axis=1)
    age = separation(counted.by_slice[seen].argmax(axis=1).astype(np.float64), high[seen])
    return max(age, 1 - age) < OF_AN_AGE


# -- a sudden gain --------------------------------------------------------------------------------


def sudden_gain(column: SuspectColumn, counted: LaterCounts) -> Known | None:
    """The last stretch of the log, forecast far better with the column than any stretch before."""
    slices = counted.slices
    if slices < SLICES // 2 or counted.share < RARE:
        return None
    codes = column.codes(BANDS)
    best: tuple[float, str] | None = None
    for size in (max(1, round(width * slices / SLICES)) for width in STRETCHES):
        gain, sure = gain_of(codes, counted.forecast(slices - size, slices))
        if gain < GAIN or sure < SURE or counted.active[slices - size] < PEOPLE:
            continue
        earlier = [
            forecast
            for end in range(slices - size, slices // 4 + size, -size)
            if (forecast := counted.forecast(end - size, end)) is not None
        ]
        if not earlier:
            continue
        usual = max(gain_of(codes, forecast)[0] for forecast in earlier)
        beyond = gain - 2 * max(usual, 0.0)
        if beyond >= GAIN and (best is None or beyond > best[0]):
            best = (
                beyond,
                (
                    f"it foretells the number of {counted.kind} in the last {size / slices:.0%} of the log: "
                    f"it takes {gain:.0%} off the error of a forecast, at most {max(usual, 0.0):.0%} before"
                ),
            )
    return None if best is None else Known(counted.kind, best[1], best[0])


def gain_of(codes: Longs, forecast: Forecast | None) -> tuple[float, float]:
    """(share of a forecast's deviance that the column takes away, the same in standard errors)."""
    if forecast is None:
        return 0.0, 0.0
    y, base = forecast.y, forecast.base
    place = codes[forecast.known]
    seen, expected = np.bincount(place, y), np.bincount(place, base)
    prior = BANDS / 4 * forecast.spread
    ratio = (seen[place] - y + prior) / (expected[place] - base + prior)
    less = forecast.error - deviance(y, base * np.maximum(ratio, 1e-6))
    return float(less.sum() / forecast.error.sum()), float(
        less.sum() / np.sqrt((less**2).sum() + 1e-12)
    )


def forecast_from_counts(before: Doubles, near: Doubles, y: Doubles) -> Doubles:
    """float64[n]: the later count of entities with like earlier ones, from the others alone. The earlier
    count is a mixture of the long past and the near one, whichever foretells best."""
    best: tuple[float, Doubles] | None = None
    for share in (0.2, 0.5, 0.8, 0.95):
        found = np.maximum(_smooth(before * (1 - share) + near * share, y), 1e-3)
        error = float(deviance(y, found).sum())
        if best is None or error < best[0]:
            best = error, found
    assert best is not None
    return best[1]


def _smooth(x: Doubles, y: Doubles) -> Doubles:
    """float64[n]: y of the nearest others in the order of x, scaled by how x goes on within them."""
    order = np.argsort(x, kind="stable")
    n = len(y)
    reach = max(5, min(100, n // 20))
    total, base = (np.concatenate([[0.0], v[order].cumsum()]) for v in (y, x))
    low, high = np.maximum(np.arange(n) - reach, 0), np.minimum(np.arange(n) + reach + 1, n)
    others, theirs = total[high] - total[low] - y[order], base[high] - base[low] - x[order]
    found = np.empty(n)
    found[order] = others / np.maximum(theirs, 1e-9) * x[order]
    flat = others / np.maximum(high - low - 1, 1)
    found[order] = np.where(theirs > 0.5, found[order], flat)
    return found


def deviance(y: Doubles, mean: Doubles) -> Doubles:
    """float64[n]: Poisson deviance of each count."""
    safe = np.where(y > 0, y, 1.0)
    return np.asarray(2 * (np.where(y > 0, y * np.log(safe / mean), 0.0) - (y - mean)))
