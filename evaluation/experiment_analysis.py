"""What an experiment came to: logged lists and what followed them, by arm, with what must hold first.

People forgotten since are in neither arm, for nothing of them is kept; how many there are by arm is
said. So are visits that became a person's: their lists are gone, while the person's own go on. Units
that were seen in two arms are left out of both.

Shapes: L lists, E events, C clusters (persons), K kinds of events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import ExperimentsConfig
from recsys.evaluation.experiment_statistics import (
    SRM_ALARM,
    Estimate,
    Rates,
    Settings,
    clusters_needed,
    compare_rates,
    preference,
    sample_ratio,
)
from recsys.evaluation.lists import Doubles, Longs
from recsys.evaluation.logged_lists import LaterEvents, LoggedLists, credited, credited_lists
from recsys.evaluation.uncertainty import LEVEL

POSITIVE: Final = "positive"
"""Every event that is graded above 0, whatever its type."""
DEGRADED: Final = "degraded answers"
DEGRADED_LIMIT: Final = 0.01
"""Share of lists by which the challenger may be degraded more often (assumed)."""
DAY: Final = 86_400 * 1_000_000
RECENT_DAYS: Final = 7
LEAST_SEGMENT: Final = 100
"""Persons a segment needs before it is shown."""
MOST_SEGMENTS: Final = 12
"""Values of one column that are shown, those of most persons."""
OPEN: Final = "not known yet"
FEW_UNITS: Final = "too few persons yet"


class ExperimentPlan(NamedTuple):
    """How an experiment is counted; `ExperimentsConfig` says what each means."""

    kind: str
    challenger: str
    share: float
    unit: str
    denominator: str
    once: bool
    shown: bool
    within: int
    """µs after a list in which an event counts."""
    metric: str
    margin: float
    guardrails: Mapping[str, float]
    intervals: Settings


class Missing(NamedTuple):
    """Units of an arm of whom nothing is kept."""

    forgotten: int
    merged: int
    """Visits whose events became a person's."""


@dataclass(frozen=True)
class Guard:
    """One number that the challenger must not lose."""

    name: str
    limit: float
    """Largest loss as a share of the control's rate; of degraded answers, the largest rise."""
    relative: float | None
    status: str
    """`kept`, `broken`, or `not known yet`."""


@dataclass(frozen=True)
class ExperimentResult:
    """Everything that the page says. Arms are (control, challenger); of interleaving, one arm."""

    plan: ExperimentPlan
    lists: tuple[int, int]
    units: tuple[int, int]
    persons: int
    crossed: int
    """Units seen in both arms, left out."""
    unripe: int
    """Lists whose window is still open, left out."""
    missing: tuple[Missing, Missing]
    ratio_p: float | None
    """See `sample_ratio`; None of interleaving."""
    rates: dict[str, Rates] = field(default_factory=dict)
    preferences: dict[str, Estimate] = field(default_factory=dict)
    segments: dict[str, dict[str, Rates | Estimate]] = field(default_factory=dict)
    """Column → value → the deciding metric there."""
    guards: tuple[Guard, ...] = ()
    persons_needed: float | None = None
    """In all, until a difference of the margin would be seen."""
    days_left: float | None = None

    @property
    def shares_wrong(self) -> bool:
        """Whether the arms did not get their share, so that nothing else is to be read."""
        return self.ratio_p is not None and self.ratio_p < SRM_ALARM

    @property
    def decision(self) -> str:
        """In a sentence, what may be done now."""
        if self.shares_wrong:
            return (
                "Do not read the rest: the arms did not get their share "
                f"({self.units[0]:,} and {self.units[1]:,} units). Something loses units of one arm."
            )
        broken = [guard.name for guard in self.guards if guard.status == "broken"]
        if broken:
            return f"Stop: the challenger breaks {', '.join(broken)}."
        found = self.deciding
        if found is None or found.value is None:
            return f"Nothing can be said yet: {FEW_UNITS}."
        if found.decided == "above":
            return f"The challenger is ahead on {self.plan.metric}; it may be stopped at any look."
        if found.decided == "below":
            return f"The challenger is behind on {self.plan.metric}; it may be stopped at any look."
        left = (
            ""
            if self.days_left is None
            else f"; about {self.days_left:,.0f} more days at this rate"
        )
        return f"Undecided on {self.plan.metric}{left}."

    @property
    def deciding(self) -> Estimate | None:
        """The difference, or preference, of the metric that decides."""
        if self.plan.kind == "interleave":
            return self.preferences.get(self.plan.metric)
        rates = self.rates.get(self.plan.metric)
        return None if rates is None else rates.difference


@dataclass(frozen=True)
class _Counted:
    """Ripe lists of units that stayed in one arm, with their credit by kind."""

    lists: LoggedLists
    arm: Longs
    """int64[L]: 0 control, 1 challenger."""
    unit: Longs
    """int64[L] codes of units."""
    credit: Mapping[str, Longs]
    """Kind → events of each list."""


def analyse(
    plan: ExperimentPlan,
    lists: LoggedLists,
    events: LaterEvents,
    grade: npt.NDArray[np.integer],
    *,
    now: int,
    segments: Mapping[str, npt.NDArray[np.object_]] | None = None,
    missing: tuple[Missing, Missing] = (Missing(0, 0), Missing(0, 0)),
) -> ExperimentResult:
    """The result of an experiment.

    Args:
        plan: how it is counted.
        lists: lists of the experiment alone, in the order of their times.
        events: what came after, in the lists' codes.
        grade: int[E], above 0 for what counts as positive.
        now: µs; lists whose window is open then are left out.
        segments: column → object[U], value of each coded user; None where unknown.
        missing: what is known of units of whom nothing is kept.
    """
    ripe = lists.time + plan.within <= now
    unit = _units(lists)
    arm = (lists.arm == "challenger").astype(np.int64)
    crossed = np.zeros(0, np.int64)
    if plan.kind == "ab":
        crossed = _crossed(unit, arm)
    kept = np.flatnonzero(ripe & ~np.isin(unit, crossed))
    sizes = _sizes(unit, arm, crossed)
    counted = _counted(plan, lists, events, grade, kept, arm, unit)
    result = ExperimentResult(
        plan,
        lists=(int((counted.arm == 0).sum()), int((counted.arm == 1).sum())),
        units=sizes,
        persons=len(np.unique(counted.lists.users)),
        crossed=len(crossed),
        unripe=int((~ripe).sum()),
        missing=missing,
        ratio_p=sample_ratio(sizes, plan.share) if plan.kind == "ab" else None,
    )
    by_column = segments or {}
    if plan.kind == "interleave":
        return _of_interleaving(result, lists, events, grade, kept, by_column, now)
    return _of_arms(result, counted, by_column, now)


def _units(lists: LoggedLists) -> Longs:
    """Codes of units: the visit where one was dealt, else the person."""
    named = [
        f"v{visit}" if visit is not None else f"u{user}"
        for visit, user in zip(lists.unit, lists.users, strict=True)
    ]
    return np.unique(np.array(named, dtype=str), return_inverse=True)[1].astype(np.int64)


def _crossed(unit: Longs, arm: Longs) -> Longs:
    """Units that were seen in both arms."""
    first = np.unique(unit[arm == 0])
    return np.intersect1d(first, unit[arm == 1])


def _sizes(unit: Longs, arm: Longs, crossed: Longs) -> tuple[int, int]:
    """Units of each arm; those seen in both belong to neither."""
    both = len(crossed)
    return len(np.unique(unit[arm == 0])) - both, len(np.unique(unit[arm == 1])) - both


def _counted(
    plan: ExperimentPlan,
    lists: LoggedLists,
    events: LaterEvents,
    grade: npt.NDArray[np.integer],
    kept: Longs,
    arm: Longs,
    unit: Longs,
) -> _Counted:
    row = credited_lists(lists, events, plan.within, plan.shown)
    credit = {
        kind: np.bincount(row[chosen & (row >= 0)], minlength=len(lists))[kept]
        for kind, chosen in _kinds(events, grade).items()
    }
    return _Counted(lists.take(kept), arm[kept], unit[kept], credit)


def _kinds(events: LaterEvents, grade: npt.NDArray[np.integer]) -> dict[str, npt.NDArray[np.bool_]]:
    """Kind → which events are of it."""
    kinds = {POSITIVE: np.asarray(grade > 0)}
    return kinds | {name: events.kind == code for code, name in enumerate(events.kinds)}


def _of_arms(
    result: ExperimentResult,
    counted: _Counted,
    segments: Mapping[str, npt.NDArray[np.object_]],
    now: int,
) -> ExperimentResult:
    plan = result.plan
    everyone = np.ones(len(counted.arm), bool)
    rates = {kind: _rates(plan, counted, kind, everyone) for kind in counted.credit}
    main = rates.get(plan.metric)
    needed = None
    if main is not None:
        clusters = main.difference.fixed.users
        needed = clusters_needed(main, clusters, plan.margin, plan.intervals)
    return _filled(
        result,
        rates=rates,
        segments={
            column: found
            for column, values in _with_surface(counted, segments).items()
            if (found := _by_value(plan, counted, values))
        },
        guards=_guards(plan, counted, rates, everyone),
        persons_needed=needed,
        days_left=_days_left(needed, counted.lists, now),
    )


def _filled(result: ExperimentResult, **more: Any) -> ExperimentResult:
    return ExperimentResult(**{**vars(result), **more})


def _rates(
    plan: ExperimentPlan,
    counted: _Counted,
    kind: str,
    chosen: npt.NDArray[np.bool_],
    settings: Settings | None = None,
    credit: Longs | None = None,
) -> Rates:
    """Rates of one kind among some of the lists, clustered by person."""
    credit = counted.credit[kind] if credit is None else credit
    rows = np.flatnonzero(chosen)
    person, arm = counted.lists.users[rows], counted.arm[rows]
    value = credit[rows].astype(np.float64)
    if plan.denominator == "unit":
        key = counted.unit[rows]
        first, place = np.unique(key, return_index=True)[1], np.unique(key, return_inverse=True)[1]
        value = np.bincount(place, value).astype(np.float64)
        person, arm = person[first], arm[first]
    if plan.once:
        value = np.minimum(value, 1.0)
    clusters, code = np.unique(person, return_inverse=True)
    above, below = (_by_arm(code, arm, x, len(clusters)) for x in (value, np.ones(len(value))))
    return compare_rates(above, below, settings or plan.intervals)


def _by_arm(code: Longs, arm: Longs, value: Doubles, clusters: int) -> Doubles:
    """float64[C, 2] sums."""
    sums = np.bincount(code * 2 + arm, value, 2 * clusters)
    return sums.astype(np.float64).reshape(clusters, 2)


def _with_surface(
    counted: _Counted, segments: Mapping[str, npt.NDArray[np.object_]]
) -> dict[str, npt.NDArray[np.object_]]:
    """Column → value of each list."""
    lists = counted.lists
    by_list = {column: values[lists.users] for column, values in segments.items()}
    return {"surface": lists.surface, **by_list}


def _values(values: npt.NDArray[np.object_], persons: Longs) -> list[Any]:
    """Values with enough persons, those of most first; none where a column does not divide."""
    known = sorted({v for v in values if v is not None}, key=str)
    size = {value: len(np.unique(persons[values == value])) for value in known}
    chosen = [v for v in sorted(known, key=lambda v: -size[v]) if size[v] >= LEAST_SEGMENT]
    return chosen[:MOST_SEGMENTS] if len(known) > 1 else []


def _by_value(
    plan: ExperimentPlan, counted: _Counted, values: npt.NDArray[np.object_]
) -> dict[str, Rates | Estimate]:
    """The deciding metric by the values of a column; intervals hold for all of them at once."""
    chosen = _values(values, counted.lists.users)
    if plan.metric not in counted.credit:
        return {}
    wide = _for_all(plan.intervals, len(chosen))
    return {str(v): _rates(plan, counted, plan.metric, values == v, wide) for v in chosen}


def _for_all(settings: Settings, comparisons: int) -> Settings:
    """Bonferroni."""
    return settings._replace(level=1.0 - (1.0 - settings.level) / max(comparisons, 1))


def _guards(
    plan: ExperimentPlan,
    counted: _Counted,
    rates: Mapping[str, Rates],
    everyone: npt.NDArray[np.bool_],
) -> tuple[Guard, ...]:
    found = []
    for name, limit in plan.guardrails.items():
        held = rates.get(name)
        status, relative = OPEN, None
        if held is not None and held.control:
            relative = held.relative
            status = _side(held.difference, -limit * held.control)
        found.append(Guard(name, limit, relative, status))
    often = _rates(
        plan._replace(denominator="list", once=True), counted, DEGRADED, everyone,
        credit=counted.lists.degraded.astype(np.int64),
    ).difference  # fmt: skip
    status = {"kept": "broken", "broken": "kept"}.get(_side(often, DEGRADED_LIMIT), OPEN)
    found.append(Guard(DEGRADED, DEGRADED_LIMIT, often.value, status))
    return tuple(found)


def _side(found: Estimate, floor: float) -> str:
    """Whether a difference is surely above a floor (kept), below it (broken), or neither."""
    low, high = found.always.low, found.always.high
    if low is None or high is None:
        return OPEN
    return "kept" if low > floor else "broken" if high < floor else OPEN


def _days_left(needed: float | None, lists: LoggedLists, now: int) -> float | None:
    """Days until so many persons took part, as they came in the last days."""
    if needed is None or not len(lists):
        return None
    first = lists.time[np.unique(lists.users, return_index=True)[1]]
    end = int(lists.time.max()) + 1
    span = min(RECENT_DAYS * DAY, max(end - int(lists.time.min()), DAY // 24))
    daily = float((first >= end - span).sum()) / (span / DAY)
    if needed <= len(first):
        return 0.0
    return (needed - len(first)) / daily if daily > 0 else None


def _of_interleaving(
    result: ExperimentResult,
    lists: LoggedLists,
    events: LaterEvents,
    grade: npt.NDArray[np.integer],
    kept: Longs,
    segments: Mapping[str, npt.NDArray[np.object_]],
    now: int,
) -> ExperimentResult:
    """Whose items were acted on. Items that a rule put where they are speak for nobody."""
    plan = result.plan
    row = credited(lists, events, plan.within)
    side = np.where(lists.team == plan.challenger, 1.0, -1.0)
    side[lists.ruled | np.array([team is None for team in lists.team], bool)] = 0.0
    found: dict[str, Estimate] = {}
    parts: dict[str, dict[str, Rates | Estimate]] = {}
    for kind, chosen in _kinds(events, grade).items():
        acted = np.unique(row[chosen & (row >= 0)])
        acted = acted[np.isin(lists.owner[acted], kept) & (side[acted] != 0)]
        of_list = lists.owner[acted]
        credit = np.bincount(of_list, side[acted], len(lists))
        with_credit = np.unique(of_list)
        person = lists.users[with_credit]
        found[kind] = preference(credit[with_credit], person, plan.intervals)
        if kind == plan.metric:
            columns = {"surface": lists.surface} | {n: v[lists.users] for n, v in segments.items()}
            parts = {
                column: by_value
                for column, values in columns.items()
                if (by_value := _preferred(plan, values[with_credit], credit[with_credit], person))
            }
    return _filled(result, preferences=found, segments=parts)


def _preferred(
    plan: ExperimentPlan, values: npt.NDArray[np.object_], credit: Doubles, person: Longs
) -> dict[str, Rates | Estimate]:
    chosen = _values(values, person)
    wide = _for_all(plan.intervals, len(chosen))
    return {str(v): preference(credit[values == v], person[values == v], wide) for v in chosen}


def plan_of(
    kind: str, challenger: str, share: float, settings: ExperimentsConfig, level: float = LEVEL
) -> ExperimentPlan:
    """The plan of an experiment out of the settings kept with it."""
    return ExperimentPlan(
        kind,
        challenger,
        share,
        settings.unit,
        settings.denominator,
        settings.count == "once",
        settings.attribution == "shown",
        int(settings.attribution_hours * 3600 * 1_000_000),
        settings.metric or POSITIVE,
        settings.margin,
        dict(settings.guardrails),
        Settings(level, float(settings.expected_clusters)),
    )


def as_json(result: ExperimentResult) -> dict[str, Any]:
    """What a machine needs of a result."""
    return {
        "decision": result.decision,
        "decided": None if result.deciding is None else result.deciding.decided,
        "metric": result.plan.metric,
        "lists": list(result.lists),
        "units": list(result.units),
        "persons": result.persons,
        "crossed": result.crossed,
        "unripe": result.unripe,
        "missing": [m._asdict() for m in result.missing],
        "sample_ratio_p": result.ratio_p,
        "rates": {kind: _rates_json(rates) for kind, rates in result.rates.items()},
        "preferences": {kind: _estimate_json(e) for kind, e in result.preferences.items()},
        "segments": {
            column: {
                value: _rates_json(f) if isinstance(f, Rates) else _estimate_json(f)
                for value, f in by_value.items()
            }
            for column, by_value in result.segments.items()
        },
        "guardrails": [vars(guard) for guard in result.guards],
        "persons_needed": result.persons_needed,
        "days_left": result.days_left,
    }


def _rates_json(rates: Rates) -> dict[str, Any]:
    return {
        "control": rates.control,
        "challenger": rates.challenger,
        "relative": rates.relative,
        "difference": _estimate_json(rates.difference),
    }


def _estimate_json(found: Estimate) -> dict[str, Any]:
    return {
        "value": found.value,
        "fixed": list(found.fixed[1:3]),
        "always": list(found.always[1:3]),
        "persons": found.fixed.users,
    }
