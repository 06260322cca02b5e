"""Does the version in service earn? What the lists of each version led to, with intervals.

Rates are shares of lists in which something followed: at place 1, and among the first ten places. Versions
answer on different days, so a difference is also one of days; an experiment (docs/experiments.md) is
what tells them apart. A sure fall is one whose interval, which holds at every nightly look, lies below 0.

Shapes: L lists, E events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import DriftConfig
from recsys.evaluation.drift import USUAL, Drift, numbers
from recsys.evaluation.experiment_analysis import POSITIVE
from recsys.evaluation.experiment_statistics import Rates, Settings, compare_rates, estimate
from recsys.evaluation.lists import Longs
from recsys.evaluation.logged_lists import LaterEvents, LoggedLists, credited
from recsys.evaluation.uncertainty import Interval

DAY: Final = 86_400 * 1_000_000
PLACES: Final = (1, 10)
CLICK: Final = "click"
DEGRADED, COLD = "degraded lists", "cold items shown"
LEAST_DRIFT: Final = 50
"""Lists, of either version, below which distributions are not compared (assumed)."""
MOST_FEATURES: Final = 20
"""Features shown, those that moved most."""
Flags = npt.NDArray[np.bool_]
Rows = Mapping[str, npt.NDArray[np.floating]]
"""Feature → its values in sampled rows that were served."""


@dataclass(frozen=True)
class VersionLive:
    """What the lists of one version led to."""

    version: str
    lists: int
    persons: int
    rates: dict[str, Interval]
    """`click@1`, `positive@10`, `degraded lists`, `cold items shown` → share with its interval."""
    coverage: float
    """Share of the catalogue among the first ten places."""
    days: dict[str, dict[str, Interval]]
    """Day (UTC) → the same rates of that day."""


@dataclass(frozen=True)
class LiveReport:
    """Versions, the latest in service first, and the champion against the one before it."""

    versions: tuple[VersionLive, ...]
    champion: str | None
    before: str | None
    """The champion before it, where both have lists."""
    change: dict[str, Rates]
    """Rate → the version before, the champion, and their difference; empty without both."""
    drift: tuple[Drift, ...]

    @property
    def fall(self) -> str | None:
        """In words, that the positive rate among the first ten surely fell; None where it did not."""
        found = self.change.get(f"{POSITIVE}@10")
        if found is None or found.difference.decided != "below":
            return None
        always = found.difference.always
        return (
            f"version {self.champion} earns less than version {self.before} did: "
            f"positive@10 {found.control:.4f} → {found.challenger:.4f}, difference "
            f"[{always.low:+.4f}, {always.high:+.4f}]"
        )


def live_report(
    lists: LoggedLists,
    events: LaterEvents,
    grade: npt.NDArray[np.integer],
    *,
    event: str,
    within: int,
    until: int,
    cold: Flags,
    catalogue: int,
    champion: str | None,
    before: str | None,
    features: Mapping[str, Rows] | None = None,
    limits: DriftConfig = USUAL,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
) -> LiveReport:
    """What lists of the last days led to.

    Args:
        lists: lists of these days; interleaved ones and those shown elsewhere are left out here.
        events: what came after.
        grade: int[E], above 0 for positive events.
        event: event type whose rate stands beside the positive rate.
        within: µs after a list in which an event counts.
        until: µs; the window of later lists is still open, so they wait.
        cold: bool[items of `lists`], items on which nearly nobody has acted.
        catalogue: items that could have been shown.
        champion, before: the version in service, and the one that was before it.
        features: version → feature → its values in sampled rows that were served.
        limits: of the drift rows.
        settings: of the intervals.
    """
    whole = np.array([v is not None and "+" not in str(v) for v in lists.version], bool)
    kept = np.flatnonzero(whole & (lists.time + within <= until))
    marks = _marks(lists, events, grade, event, within, cold)
    marks = {name: (above[kept], below[kept]) for name, (above, below) in marks.items()}
    lists = lists.take(kept)
    order = _latest_first(lists)
    found = tuple(_of_version(v, lists, marks, catalogue, settings) for v in order)
    if champion not in order or before not in order or champion == before:
        return LiveReport(found, champion, None, {}, ())
    pair = [np.flatnonzero(lists.version == v) for v in (before, champion)]
    change = {name: _compared(lists, values, pair, settings) for name, values in marks.items()}
    given = features or {}
    rows = given.get(str(before), {}), given.get(str(champion), {})
    drift = _drift(lists, pair, rows, limits)
    return LiveReport(found, champion, before, change, tuple(drift))


def _latest_first(lists: LoggedLists) -> list[str]:
    """Versions by when they began to answer, the latest first."""
    began: dict[str, int] = {}
    for version, time in zip(lists.version, lists.time, strict=True):
        began.setdefault(str(version), int(time))
    return sorted(began, key=lambda v: -began[v])


def _marks(
    lists: LoggedLists,
    events: LaterEvents,
    grade: npt.NDArray[np.integer],
    event: str,
    within: int,
    cold: Flags,
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Rate → (above, below) float64[L] of all lists."""
    row = credited(lists, events, within)
    ones = np.ones(len(lists))
    of_list, place = lists.owner, lists.place + 1
    chosen = {event: np.zeros(len(row), bool), POSITIVE: np.asarray(grade > 0)}
    if event in events.kinds:
        chosen[event] = events.kind == events.kinds.index(event)
    found = {}
    for name, which in chosen.items():
        hit = np.zeros(len(lists.items), bool)
        hit[row[which & (row >= 0)]] = True
        for k in PLACES:
            followed = np.bincount(of_list[hit & (place <= k)], minlength=len(lists)) > 0
            found[f"{name}@{k}"] = (followed.astype(np.float64), ones)
    first = place <= max(PLACES)
    shown = np.bincount(of_list[first], minlength=len(lists)).astype(np.float64)
    new = np.bincount(of_list[first & cold[lists.items]], minlength=len(lists)).astype(np.float64)
    found[DEGRADED] = (lists.degraded.astype(np.float64), ones)
    found[COLD] = (new, shown)
    return found


def _of_version(
    version: str,
    lists: LoggedLists,
    marks: Mapping[str, tuple[Any, Any]],
    catalogue: int,
    settings: Settings,
) -> VersionLive:
    rows = np.flatnonzero(lists.version == version)
    day = lists.time[rows] // DAY
    own = lists.take(rows)
    first = own.items[own.place < max(PLACES)]
    return VersionLive(
        version,
        len(rows),
        len(np.unique(own.users)),
        {name: _share(lists, values, rows, settings) for name, values in marks.items()},
        len(np.unique(first)) / max(catalogue, 1),
        {
            str(np.datetime64(int(d), "D")): {
                name: _share(lists, values, rows[day == d], settings)
                for name, values in marks.items()
            }
            for d in np.unique(day)
        },
    )


def _share(
    lists: LoggedLists, values: tuple[Any, Any], rows: Longs, settings: Settings
) -> Interval:
    """A rate of some lists with its interval for one look, by persons."""
    above, below = (x[rows] for x in values)
    code, total = np.unique(lists.users[rows], return_inverse=True)[1], float(below.sum())
    if total <= 0:
        return Interval(None, None, None, len(rows), int(code.max(initial=-1)) + 1)
    rate = float(above.sum()) / total
    influence = np.bincount(code, above - rate * below) / total
    return estimate(rate, influence.astype(np.float64), settings).fixed


def _compared(
    lists: LoggedLists, values: tuple[Any, Any], pair: Sequence[Longs], settings: Settings
) -> Rates:
    """The version before against the latest; a person may have lists of both."""
    persons, code = np.unique(lists.users, return_inverse=True)
    sides = [
        np.stack([np.bincount(code[rows], x[rows], len(persons)) for rows in pair], 1)
        for x in values
    ]
    return compare_rates(sides[0].astype(np.float64), sides[1].astype(np.float64), settings)


def _drift(
    lists: LoggedLists,
    pair: Sequence[Longs],
    rows: tuple[Rows, Rows],
    limits: DriftConfig,
) -> list[Drift]:
    """Scores at place 1 and sampled feature rows, the version before against the champion."""
    found = []
    before, after = (lists.first_score[chosen] for chosen in pair)
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if min(len(before), len(after)) >= LEAST_DRIFT:
        found.append(numbers("score at place 1", before, after, limits))
    theirs, ours = rows
    moved = [
        numbers(f"served feature {name}", theirs[name].astype(float), values.astype(float), limits)
        for name, values in ours.items()
        if name in theirs and min(len(values), len(theirs[name])) >= LEAST_DRIFT
    ]
    moved.sort(key=lambda row: -row.value)
    return found + moved[:MOST_FEATURES]


def as_json(report: LiveReport, days: int) -> dict[str, Any]:
    """The report for the page, /metrics and /ops; without an id of anybody."""
    return {
        "window_days": days,
        "fall": report.fall,
        "champion": report.champion,
        "before": report.before,
        "versions": [
            {
                "version": one.version,
                "lists": one.lists,
                "persons": one.persons,
                "coverage": one.coverage,
                "rates": {name: list(i[:3]) for name, i in one.rates.items()},
                "days": {
                    day: {name: list(i[:3]) for name, i in rates.items()}
                    for day, rates in one.days.items()
                },
            }
            for one in report.versions
        ],
        "change": {
            name: {
                "before": rates.control,
                "now": rates.challenger,
                "difference": rates.difference.value,
                "low": rates.difference.always.low,
                "high": rates.difference.always.high,
            }
            for name, rates in report.change.items()
        },
        "drift": [row._asdict() for row in report.drift],
    }
