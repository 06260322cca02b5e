"""Where the past is cut: what each part may see, which moments train the ranker, which are tested.

Windows are consecutive, and every cut lies on the data's grid of moments (`MomentGrid`), at which all
that is known is also counted. With cuts c0 < c1 < … < cn and the data's end e:

    encoder ≤ c0 │ ranker's moments at c0 … cr-1, labels in [ci, ci+1) │ test at cr … cn, labels to e

A row at a cut t sees events strictly before t; its label window begins at t. Everything that scores
a row was fitted on events strictly before its cut. On ordinal data (undated histories spread a
fixed step apart, ending together) the last step of every user is the test and the one before it
trains the ranker; that is the same rule on the same axis.

Shapes: E events, M moments. Times are int64 microseconds.

Example:
    >>> import numpy as np
    >>> Windows("time", "", (10, 20, 30), 40, 2).label_end(20)
    30
    >>> Windows("time", "", (10, 20, 30), 40, 2).test
    (30,)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import WindowsConfig
from recsys.data_schemas.errors import DataRefused
from recsys.features.draws import Doubles, least
from recsys.features.grouped import chosen_groups
from recsys.features.interactions import (
    DAY,
    HOUR,
    SECOND,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.time_buckets import MomentGrid

MINUTE = 60 * SECOND
HOURLY = MomentGrid(HOUR)
LEAST_STEPS = 3
"""Steps of the grid that the data must span for one to be cut into."""
REGION_SHARES = (0.1, 0.2, 0.35, 0.6)
"""Shares of the events, from the end, in which cuts may lie; the smallest that gives enough."""
ENOUGH_MOMENTS = 4000
CUT_COUNTS = (6, 12, 24)
FEW_MOMENTS = 400
"""Returning users' moments wanted in all cuts together before their number is raised (assumed:
a third of them is tested, and fewer than a hundred tested users decide nothing)."""


@dataclass(frozen=True)
class Windows:
    """Consecutive windows; see the module's picture."""

    scheme: str
    """`time` or `ordinal`."""
    why: str
    """One sentence for the log and the report."""
    cuts: tuple[int, ...]
    end: int
    """The first moment of the grid after the last event: when lists are asked for next."""
    first_test: int
    """Place in `cuts` of the first tested cut."""
    grid: MomentGrid = HOURLY
    """All cuts and the end lie on it."""

    @property
    def ranker(self) -> tuple[int, ...]:
        return self.cuts[: self.first_test]

    @property
    def test(self) -> tuple[int, ...]:
        return self.cuts[self.first_test :]

    @property
    def encoder_until(self) -> int:
        """The encoder sees events strictly before this."""
        return self.cuts[0]

    def label_end(self, cut: int) -> int:
        """End of a cut's label window: the next cut, or the end of the data."""
        place = self.cuts.index(cut)
        return self.cuts[place + 1] if place + 1 < len(self.cuts) else self.end

    def longer(self, end: int, times: Longs, growth: float, days: float) -> "Windows | None":
        """The same cuts with the last window up to a later end; None where too much has come since.

        Args:
            times: of all events, ascending (µs).
            growth: share of further events, against those from the first cut to the end as planned.
            days: of data since then.
        """
        edges = np.searchsorted(times, [self.cuts[0], self.end, end])
        planned, more = int(edges[1] - edges[0]), int(edges[2] - edges[1])
        if end < self.end or end - self.end > days * DAY or more > growth * planned:
            return None
        if not more:
            return replace(self, end=end)
        return replace(
            self, end=end, why=f"{self.why}; planned earlier, {more:,} events have come since"
        )

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> "Windows":
        """What `facts` said."""
        return cls(**{**facts, "cuts": tuple(facts["cuts"]), "grid": MomentGrid(**facts["grid"])})

    def facts(self) -> dict[str, object]:
        """For manifests and the report."""
        return {
            "scheme": self.scheme,
            "why": self.why,
            "cuts": list(self.cuts),
            "end": self.end,
            "first_test": self.first_test,
            "grid": self.grid._asdict(),
        }


@dataclass(frozen=True)
class Moments:
    """M ranking moments: a user at a time, and what they acted on next (first-time positives)."""

    user: Ints
    now: Longs
    offsets: Longs
    """int64[M+1] into the two below."""
    relevant: Ints
    grade: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: npt.NDArray[np.int64]) -> "Moments":
        """The named moments (int[n])."""
        offsets, rows = chosen_groups(self.offsets, chosen)
        return Moments(
            self.user[chosen],
            self.now[chosen],
            offsets,
            self.relevant[rows],
            self.grade[rows],
        )

    def sample(self, limit: int, chances: Doubles) -> "Moments":
        """The at most `limit` moments with the smallest chances (float64[M]), order kept."""
        return self if len(self) <= limit else self.take(least(chances, limit))

    @classmethod
    def join(cls, parts: "list[Moments]") -> "Moments":
        """Several sets of moments, one after the other."""
        sizes = np.concatenate([p.offsets[1:] - p.offsets[:-1] for p in parts])
        return cls(
            np.concatenate([p.user for p in parts]),
            np.concatenate([p.now for p in parts]),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([p.relevant for p in parts]),
            np.concatenate([p.grade for p in parts]),
        )


def plan_windows(
    interactions: Interactions,
    config: WindowsConfig,
    *,
    ordinal_until: int | None,
    bucket: int = HOUR,
    step: int = 0,
) -> Windows:
    """Choose scheme and cuts from the data.

    Args:
        interactions: all accepted events.
        config: the caller's wishes.
        ordinal_until: time up to and including which timestamps are ordinal only; None if never.
        bucket: width of a counter bucket, µs.
        step: unit of the data's times or the fixed step of ordinal histories, µs; 0 for seconds.

    Raises:
        DataRefused: fewer than two moments in time, so that nothing can be held out, or nothing
            happens in the test windows that a list could be judged by.
    """
    times = interactions.time
    if not len(times) or times.min() == times.max():
        raise DataRefused(
            "the events cannot be split by time",
            where="events.timestamp",
            found="no event" if not len(times) else "one single timestamp",
            expected="events at two or more moments",
            fix="give events with their real times",
        )
    wholly_ordinal = ordinal_until is not None and (times > ordinal_until).mean() < 0.05
    if config.scheme == "ordinal" or (config.scheme == "auto" and wholly_ordinal):
        last = int(times.max())
        windows = _ordinal_windows(interactions, MomentGrid.of(bucket, step, last))
    else:
        grid = _fine_enough(MomentGrid.of(bucket, step), times)
        windows = _time_windows(interactions, config, grid, ordinal_until)
    _refuse_without_a_test(interactions, windows)
    return windows


def _refuse_without_a_test(interactions: Interactions, windows: Windows) -> None:
    """Before hours of work: lists must have something to be judged by."""
    for cut in windows.test:
        if len(moments_at(interactions, cut, windows.label_end(cut))):
            return
    start = np.datetime64(windows.test[0], "us").astype("datetime64[s]")
    raise DataRefused(
        "nothing can be tested",
        where="events",
        found=f"from {start} on, nobody acts positively on an item that is new to them"
        if (interactions.grade > 0).any()
        else "no event is positive: all are dislikes or neutral",
        expected="at least one such event: lists leave out what a user has had",
        fix="give more items or more events, or move the test with windows.cuts",
    )


def _fine_enough(grid: MomentGrid, times: Longs) -> MomentGrid:
    """The grid, or a finer one where all events lie within three of its steps: then there is nothing
    to train on and to test otherwise, and a bucket has to be cut."""
    span = int(times.max() - times.min())
    finer = (grid, *(MomentGrid(step) for step in (MINUTE, SECOND) if step < grid.step))
    return next((g for g in finer if span >= LEAST_STEPS * g.step), MomentGrid(1))


def _ordinal_windows(interactions: Interactions, grid: MomentGrid) -> Windows:
    last = grid.origin
    cuts = tuple(c for c in (last - grid.step, last) if c > interactions.time.min())
    why = (
        "timestamps carry order only (every history ends at the same moment), so each user's last "
        "event is the test and the one before it trains the ranker"
    )
    return Windows("ordinal", why, cuts, grid.after(last), max(0, len(cuts) - 1), grid)


def _time_windows(
    interactions: Interactions,
    config: WindowsConfig,
    grid: MomentGrid,
    ordinal_until: int | None,
) -> Windows:
    """Cuts at equal shares of the events in the latest region that holds enough moments."""
    times = np.sort(interactions.time)
    floor = int(times[0]) if ordinal_until is None else ordinal_until
    end = grid.after(int(times[-1]))
    counts = CUT_COUNTS if config.cuts is None else (3 * config.cuts,)

    def cut(share: float, count: int) -> tuple[tuple[int, ...], int]:
        start = max(int(times[int(len(times) * (1 - share))]), floor + 1)
        cuts = _spread(times, start, count, grid)
        return cuts, count_returning(interactions, cuts, end)

    for share in REGION_SHARES:
        cuts, moments = cut(share, counts[0])
        if moments >= ENOUGH_MOMENTS:
            return _described(cuts, end, moments, share, grid)
    for count in counts:
        cuts, moments = cut(REGION_SHARES[-1], count)
        if moments >= FEW_MOMENTS:
            break
    return _described(cuts, end, moments, REGION_SHARES[-1], grid)


def _spread(times: Longs, start: int, count: int, grid: MomentGrid) -> tuple[int, ...]:
    """At most `count` moments of the grid from `start` on, about equal numbers of events between them,
    each with an event at or after it."""
    region = times[np.searchsorted(times, start) :]
    places = (np.arange(count) * len(region) / count).astype(np.int64)
    cuts = sorted({grid.after(int(t)) for t in region[places]})
    inside = tuple(cut for cut in cuts if cut <= times[-1])
    return inside or (grid.after(int(times[-1])) - grid.step,)


def count_returning(interactions: Interactions, cuts: tuple[int, ...], end: int) -> int:
    """Moments of users with a history and a positive in the window, over all cuts."""
    first = np.full(interactions.n_users, np.iinfo(np.int64).max)
    np.minimum.at(first, interactions.user, interactions.time)
    edges = np.array([*cuts, end])
    window = np.searchsorted(edges, interactions.time, "right") - 1
    usable = (window >= 0) & (interactions.grade > 0)
    usable &= first[interactions.user] < edges[np.maximum(window, 0)]
    pairs = interactions.user[usable].astype(np.int64) * len(edges) + window[usable]
    return len(np.unique(pairs))


def _described(
    cuts: tuple[int, ...], end: int, moments: int, share: float, grid: MomentGrid
) -> Windows:
    tested = max(1, len(cuts) // 3)
    why = (
        f"labels after dates: {len(cuts)} rolling cuts over the last {share:.0%} of the events give "
        f"{moments} moments of returning users; the last {tested} cuts are the test"
    )
    first = len(cuts) - tested if len(cuts) > 1 else 0
    return Windows("time", why, cuts, end, first, grid)


def moments_at(interactions: Interactions, cut: int, label_end: int) -> Moments:
    """Every user with a first-time positive in [cut, label_end), as a ranking moment at `cut`.

    New users (no event before the cut) are included. An item already acted on before the cut, in
    whatever way, is not relevant: it is not recommended again.
    """
    inside = (interactions.time >= cut) & (interactions.time < label_end) & (interactions.grade > 0)
    user, item = interactions.user[inside], interactions.item[inside]
    grade = interactions.grade[inside]
    theirs = np.zeros(interactions.n_users, bool)
    theirs[user] = True
    before = (interactions.time < cut) & theirs[interactions.user]
    n = np.int64(interactions.n_items)
    seen = interactions.user[before] * n + interactions.item[before]
    pair = user * n + item
    fresh = ~np.isin(pair, seen)
    pair, grade = pair[fresh], grade[fresh]
    order = np.lexsort((-grade, pair))
    pair, first = np.unique(pair[order], return_index=True)
    grade = grade[order][first]
    users, counts = np.unique(pair // n, return_counts=True)
    return Moments(
        users.astype(np.int32),
        np.full(len(users), cut, np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        (pair % n).astype(np.int32),
        grade.astype(np.int8),
    )
