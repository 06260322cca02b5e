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
from recsys.evaluation.lists import Truth
from recsys.features.interactions import (
    DAY,
    EMPTY_HISTORY,
    HOUR,
    SECOND,
    Histories,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.on_disk import empty, stretches
from recsys.features.ragged import offsets_of
from recsys.features.time_buckets import MomentGrid

MINUTE = 60 * SECOND
HOURLY = MomentGrid(HOUR)
REGION_SHARES = (0.1, 0.2, 0.35, 0.6)
"""Shares of the events, from the end, in which cuts may lie; the smallest that gives enough."""
ENOUGH_MOMENTS = 4000
CUT_COUNTS = (6, 12, 24)
FEW_MOMENTS = 400
"""Returning users' moments wanted in all cuts together before their number is raised (assumed:
a third of them is tested, and fewer than a hundred tested users decide nothing)."""
LEAST_MOMENTS = 20
"""Moments below which the ranker's windows or the test are empty for all purposes (assumed); cuts are
then placed by where people did something new, not by shares of the events."""
EXCEPTIONS = 0.05
"""Share of events with a date of their own up to which data counts as ordinal (assumed)."""


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
class FirstPositives:
    """P pairs of a user and an item with a positive event: what moments can be made of.

    A cut up to the first event on the item leaves it new to the user, and relevant where the first
    positive one lies in the cut's window.
    """

    user: Ints
    first_event: Longs
    """The pair's first event, µs."""
    first_positive: Longs
    """Its first positive event, µs."""

    @classmethod
    def of(cls, interactions: Interactions) -> "FirstPositives":
        """Of all events, which come in the order of time."""
        histories, found = interactions.histories(), 0
        most = int(np.count_nonzero(histories.events.grade > 0))
        user, first_event, first_positive = (
            empty(most, kind) for kind in (np.int32, np.int64, np.int64)
        )
        for users in histories.stretches():
            some = histories.part(users.start, users.stop)
            pair = some.owner * interactions.n_items + some.events.item
            pairs, first = np.unique(pair, return_index=True)
            positive = np.flatnonzero(some.events.grade > 0)
            of_pair, best = np.unique(pair[positive], return_index=True)
            part = slice(found, found + len(of_pair))
            user[part] = users.start + of_pair // interactions.n_items
            first_event[part] = some.events.time[first[np.searchsorted(pairs, of_pair)]]
            first_positive[part] = some.events.time[positive[best]]
            found = part.stop
        return cls(user[:found], first_event[:found], first_positive[:found])

    def before(self, time: int) -> "FirstPositives":
        """Those whose positive event lies before a time."""
        early = self.first_positive < time
        return FirstPositives(self.user[early], self.first_event[early], self.first_positive[early])

    def moments(self, cut: int, label_end: int) -> int:
        """How many moments `moments_at` gives."""
        inside = (self.first_event >= cut) & (self.first_positive < label_end)
        return len(np.unique(self.user[inside]))

    def latest(self, wanted: int, grid: MomentGrid) -> int | None:
        """The latest moment of the grid from which on `wanted` users first meet an item that they then act
        on positively; None without so many."""
        users, place = np.unique(self.user, return_inverse=True)
        if not 0 < wanted <= len(users):
            return None
        last = np.full(len(users), np.iinfo(np.int64).min)
        np.maximum.at(last, place, self.first_event)
        return grid.before(int(np.sort(last)[-wanted]))


def plan_windows(
    interactions: Interactions,
    config: WindowsConfig,
    *,
    ordinal_until: int | None,
    bucket: int = HOUR,
    step: int = 0,
    ordinal_step: int = 0,
) -> Windows:
    """Choose scheme and cuts from the data.

    Whatever the data, the ranker has a window where two moments, with something before the first, have
    somebody who acts positively on something new.

    Args:
        interactions: all accepted events.
        config: the caller's wishes.
        ordinal_until: time up to and including which timestamps are ordinal only; None if never.
        bucket: width of a counter bucket, µs.
        step: unit of the data's times, µs; 0 for seconds.
        ordinal_step: step of the histories up to `ordinal_until`, µs; 0 for a day.

    Raises:
        DataRefused: fewer than two moments in time, so that nothing can be held out, or nothing
            happens in the test windows that a list could be evaluated on.
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
    firsts = FirstPositives.of(interactions)
    later = 1.0 if ordinal_until is None else float((times > ordinal_until).mean())
    if config.scheme == "ordinal" or (config.scheme == "auto" and later < EXCEPTIONS):
        last = common_end(interactions, ordinal_until)
        grid = MomentGrid.of(bucket, ordinal_step, last)
        windows = _ordinal_windows(interactions, last, grid)
        windows = _with_ranker(interactions, firsts, windows, None)
    else:
        grid = MomentGrid.of(bucket, step)
        windows = _time_windows(interactions, firsts, config, grid, ordinal_until)
    _refuse_without_a_test(interactions, firsts, windows)
    if not windows.ranker:
        why = f"{windows.why}; no window is left for the ranker: between the first events and the "
        windows = replace(windows, why=f"{why}test nobody acts positively on anything new")
    return windows


def common_end(interactions: Interactions, until: int | None) -> int:
    """The moment (µs), at most `until`, at which most users have their last event up to `until`.

    Where histories end together this is where, whatever a few others do.
    """
    events = interactions if until is None else interactions.where(interactions.time <= until)
    last = np.full(interactions.n_users, np.iinfo(np.int64).min)
    np.maximum.at(last, events.user, events.time)
    moments, users = np.unique(last[np.unique(events.user)], return_counts=True)
    return int(moments[len(users) - 1 - np.argmax(users[::-1])])


def _refuse_without_a_test(
    interactions: Interactions, firsts: FirstPositives, windows: Windows
) -> None:
    """Before hours of work: lists must have something to be evaluated on."""
    if _moments_of(firsts, windows)[1]:
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


def _ordinal_windows(interactions: Interactions, last: int, grid: MomentGrid) -> Windows:
    first, final = int(interactions.time.min()), grid.before(last)
    cuts = tuple(c for c in (final - grid.step, final) if c > first) or (grid.after(first),)
    why = (
        "timestamps carry order only (every history ends at the same moment), so each user's last "
        "event is the test and the one before it trains the ranker"
    )
    end = grid.after(int(interactions.time.max()))
    return Windows("ordinal", why, cuts, end, len(cuts) - 1, grid)


def _time_windows(
    interactions: Interactions,
    firsts: FirstPositives,
    config: WindowsConfig,
    grid: MomentGrid,
    ordinal_until: int | None,
) -> Windows:
    """Windows on the grid of the data, or on a finer one where all of it lies within so few steps that
    nothing would be left to train on: then a counter's bucket has to be cut."""
    rolling = [_rolling_windows(interactions, firsts, config, grid, ordinal_until)]
    for step in (MINUTE, SECOND, 1):
        if rolling[-1].ranker:
            return rolling[-1]
        if step < grid.step:
            finer = MomentGrid(step)
            rolling.append(_rolling_windows(interactions, firsts, config, finer, ordinal_until))
    return rolling[-1] if rolling[-1].ranker else rolling[0]


def _rolling_windows(
    interactions: Interactions,
    firsts: FirstPositives,
    config: WindowsConfig,
    grid: MomentGrid,
    ordinal_until: int | None,
) -> Windows:
    """Cuts at equal shares of the events in the latest region that holds enough moments."""
    times = interactions.time if interactions.ordered else np.sort(interactions.time)
    floor = int(times[0]) if ordinal_until is None else ordinal_until
    end = grid.after(int(times[-1]))
    counts = CUT_COUNTS if config.cuts is None else (3 * config.cuts,)

    def cut(share: float, count: int) -> tuple[tuple[int, ...], int]:
        start = max(int(times[int(len(times) * (1 - share))]), floor + 1)
        cuts = _spread(times, start, count, grid)
        return cuts, count_returning(interactions, cuts, end)

    for share in REGION_SHARES:
        cuts, moments = cut(share, counts[0])
        # Where much of the data lies at one moment, all cuts may fall onto it.
        if moments >= ENOUGH_MOMENTS and len(cuts) > 1:
            break
    else:
        for count in counts:
            cuts, moments = cut(REGION_SHARES[-1], count)
            if moments >= FEW_MOMENTS:
                break
    windows = _described(cuts, end, moments, share, grid)
    return _with_ranker(interactions, firsts, windows, ordinal_until)


def _with_ranker(
    interactions: Interactions, firsts: FirstPositives, windows: Windows, ordinal_until: int | None
) -> Windows:
    """The windows, or two cuts in their place where the ranker or the test would have next to nothing;
    without the ranker's cuts where there is nothing at all."""
    found = _moments_of(firsts, windows)
    if min(found) >= LEAST_MOMENTS:
        return windows
    floors = [int(interactions.time.min())]
    if ordinal_until is not None and windows.scheme == "time":
        floors.insert(0, ordinal_until)
    why = (
        "cuts at equal shares of the events would leave the ranker or the test next to nothing, so one "
        "is placed for each where enough people did something new"
    )
    for floor in floors:
        cuts = _two_cuts(firsts, windows.grid, floor)
        if not cuts:
            continue
        other = replace(windows, cuts=cuts, first_test=len(cuts) - 1, why=why)
        counted = _moments_of(firsts, other)
        if _worth(counted) > _worth(found):
            windows, found = other, counted
    if not found[0]:
        return replace(windows, cuts=windows.test, first_test=0)
    return windows


def _worth(found: tuple[int, int]) -> tuple[int, int]:
    """What windows are preferred by: the moments of the worse side, up to enough, then the test's."""
    return min(*found, LEAST_MOMENTS), min(found[1], LEAST_MOMENTS)


def _moments_of(firsts: FirstPositives, windows: Windows) -> tuple[int, int]:
    """How many moments the ranker's windows have, and the test's."""
    ranker, test = (
        sum(firsts.moments(cut, windows.label_end(cut)) for cut in cuts)
        for cuts in (windows.ranker, windows.test)
    )
    return ranker, test


def _two_cuts(firsts: FirstPositives, grid: MomentGrid, floor: int) -> tuple[int, ...]:
    """The latest cuts after `floor` (µs) for the ranker and for the test that give both enough moments,
    or as many as can be had; only the test's where nothing is left for the ranker, none for neither."""
    once: tuple[int, ...] = ()
    wanted = FEW_MOMENTS
    while wanted:
        test = firsts.latest(wanted, grid)
        if test is not None and test > floor:
            once = once or (test,)
            ranker = firsts.before(test).latest(wanted, grid)
            if ranker is not None and ranker > floor:
                return ranker, test
        wanted //= 2
    return once


def _spread(times: Longs, start: int, count: int, grid: MomentGrid) -> tuple[int, ...]:
    """At most `count` moments of the grid from `start` on, about equal numbers of events between them,
    each with an event at or after it."""
    region = times[np.searchsorted(times, start) :]
    places = (np.arange(count) * len(region) / count).astype(np.int64)
    cuts = sorted({grid.after(int(t)) for t in region[places]}) if len(region) else []
    inside = tuple(cut for cut in cuts if cut <= times[-1])
    return inside or (grid.before(int(times[-1])),)


def count_returning(interactions: Interactions, cuts: tuple[int, ...], end: int) -> int:
    """Truth of users with a history and a positive in the window, over all cuts."""
    first = np.full(interactions.n_users, np.iinfo(np.int64).max)
    np.minimum.at(first, interactions.user, interactions.time)
    edges, counted = np.array([*cuts, end]), []
    for part in stretches(len(interactions)):
        user, grade = interactions.user[part], interactions.grade[part]
        window = np.searchsorted(edges, interactions.time[part], "right") - 1
        usable = (window >= 0) & (grade > 0)
        usable &= first[user] < edges[np.maximum(window, 0)]
        counted.append(np.unique(user[usable].astype(np.int64) * len(edges) + window[usable]))
    return len(np.unique(np.concatenate([np.empty(0, np.int64), *counted])))


def _acted_on(
    interactions: Interactions, user: Ints, item: Ints, cut: int
) -> npt.NDArray[np.bool_]:
    """bool[n]: pairs of a user and an item, int32[n] both, with an event before a time (µs)."""
    histories, n = interactions.histories(), np.int64(interactions.n_items)
    known = np.zeros(len(user), bool)
    order = np.argsort(user, kind="stable")
    whose, first = np.unique(user[order], return_index=True)
    edges = np.append(first, len(user))
    for some in Histories(offsets_of(histories.lengths[whose]), EMPTY_HISTORY).stretches():
        past = histories.take(whose[some])
        early = past.events.time < cut
        seen = whose[some][past.owner[early]] * n + past.events.item[early]
        rows = order[edges[some.start] : edges[some.stop]]
        known[rows] = np.isin(user[rows] * n + item[rows], seen)
    return known


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


def moments_at(interactions: Interactions, cut: int, label_end: int) -> Truth:
    """Every user with a first-time positive in [cut, label_end), as a ranking moment at `cut`.

    New users (no event before the cut) are included. An item already acted on before the cut, in
    whatever way, is not relevant: it is not recommended again.
    """
    inside = (interactions.time >= cut) & (interactions.time < label_end) & (interactions.grade > 0)
    user, item = interactions.user[inside], interactions.item[inside]
    grade = interactions.grade[inside]
    fresh = ~_acted_on(interactions, user, item, cut)
    users, group = np.unique(user[fresh], return_inverse=True)
    return Truth.of(group, item[fresh], grade[fresh], users, np.full(len(users), cut, np.int64))
