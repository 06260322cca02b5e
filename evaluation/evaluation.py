"""The numbers of a report: every metric of every system, with intervals and paired differences."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import UsageError
from recsys.evaluation import metrics
from recsys.evaluation.lists import RELEVANT_FROM, OwnMetric, PastItems, RankedLists, Truth
from recsys.evaluation.metrics import (
    METRICS,
    MatchedLists,
    Measured,
    Metric,
    ReliabilityBin,
)
from recsys.evaluation.own_metrics import declared, values_of
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.segments import SegmentLabels, by_day
from recsys.evaluation.uncertainty import (
    LEVEL,
    Bootstrapped,
    Interval,
    bootstrap,
    holm,
    jackknife,
    joined,
)
from recsys.features.draws import Doubles
from recsys.features.interactions import Floats, Ints, Longs

CURVE_KS = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 200)
"""Where "metric by k" is drawn, as far as the lists reach."""
BLOCK_CELLS = 8_000_000
"""Groups × columns resampled at once: four arrays of 64 MB."""
FOLDS = 20
"""Folds of users in the jackknife of coverage and Gini."""
HISTORY = "users' own history"
AHEAD, BEHIND, UNCLEAR = "ahead", "behind", "cannot tell"


@dataclass(frozen=True)
class Difference:
    """Main system minus another, group by group; `interval` is None-bounded for few users."""

    interval: Interval
    relative: float | None
    """Difference / the other's mean, None where that is 0."""
    p: float | None
    """Two-sided, corrected (Holm) for the comparisons made in the same family."""
    verdict: str
    """`ahead`, `behind` or `cannot tell`: the interval excludes 0 and corrected p < 0.05."""


class Meaning(NamedTuple):
    """What a metric says, as it is declared."""

    about: str
    better: str
    unit: str
    first: bool


@dataclass(frozen=True)
class Segment:
    """One segment of one segmentation, on the main metric; intervals corrected (Bonferroni)
    for all segments × systems looked at."""

    label: str
    groups: int
    users: int
    systems: dict[str, Interval]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Evaluation:
    """Everything measured. Serialises with `to_json`; `per_group` goes to Parquet instead."""

    main: str
    main_metric: str
    ks: tuple[int, ...]
    level: float
    resamples: int
    seed: int
    groups: int
    users: int
    groups_without_truth: int
    catalogue_size: int
    sampled_candidates: int | None
    """Candidates per group when the catalogue was not ranked whole; None: full ranking."""
    systems: dict[str, dict[str, Interval]]
    """system → metric → mean and interval."""
    meanings: dict[str, Meaning]
    """Metric, without its k → what it says."""
    differences: dict[str, dict[str, Difference]]
    """other system → metric → main minus other; for a variant its base minus the variant."""
    variants: dict[str, str]
    """Variant of the main system (an ablation) → the system it is to be held against."""
    segments: dict[str, list[Segment]]
    days: list[Segment]
    curve_ks: tuple[int, ...]
    curves: dict[str, dict[str, list[Interval]]]
    """metric → system → one interval per k of `curve_ks`."""
    score_bins: list[ReliabilityBin]
    """Share of hits by the main system's score; a reliability diagram if scores are chances."""
    scores_are_probabilities: bool
    calibration_error: float | None
    """Expected calibration error; None unless the scores are probabilities."""
    exposure: dict[str, list[float]]
    """Share of shown places that each tenth of the catalogue gets, most popular tenth first;
    under `HISTORY` the same of the users' own past, where that was given."""
    warnings: list[str]
    per_group: dict[str, npt.NDArray[Any]] = field(repr=False, compare=False)
    """Columns of length G: user, time, and `system/metric` values."""

    def numbers(self) -> dict[str, dict[str, list[Any]]]:
        """System → metric → value, low, high."""
        return {
            name: {m: list(i[:3]) for m, i in found.items()} for name, found in self.systems.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and finite numbers (no NaN); without `per_group`."""
        shallow = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "per_group"
        }
        tree = plain(shallow)
        assert isinstance(tree, dict)
        return tree


def evaluate_lists(
    truth: Truth,
    systems: Sequence[RankedLists],
    *,
    main: str,
    ks: Sequence[int],
    segments: Mapping[str, SegmentLabels] | None = None,
    catalogue_size: int,
    item_popularity: npt.NDArray[np.number] | PopularityAt,
    item_vectors: Floats | None = None,
    item_category: npt.NDArray[np.integer] | None = None,
    past_items: PastItems | None = None,
    sampled_candidates: int | None = None,
    variants: Mapping[str, str] | None = None,
    own: Mapping[str, OwnMetric | Metric] | None = None,
    seed: int = 7,
    resamples: int = 1000,
) -> Evaluation:
    """Measure every system on the same groups, and the main one against the others.

    Args:
        truth: G groups with their relevant items.
        systems: their lists, one row per group of `truth`; list them best-known first.
        main: name of the system the differences are taken from.
        ks: cut-offs; nDCG at the smallest is the main metric.
        segments: segmentations by name; one named `day` replaces the days of `truth.time`.
        catalogue_size: N, items that could be listed.
        item_popularity: past events of each item as of each list, or [N] the same for all lists, for
            novelty and popularity bias. Items beyond its end are new and have none.
        item_vectors: L2-normalised [N, d], for diversity; left out of the report when None.
        item_category: codes [N], negative unknown; left out when None.
        past_items: histories of the groups, for popularity bias; left out when None.
        sampled_candidates: set it when lists were made among a sample instead of all items.
        variants: systems that are the main one without something, by the system they are held
            against. They are no competitors: no verdict on them, no segments of them.
        own: further metrics by name, with intervals and differences as all others have.
        seed, resamples: of the bootstrap of users by which each interval is made.

    Raises:
        UsageError: no systems, two of one name, `main` or a variant is not among them, or arrays
            do not fit together.
    """
    bases = dict(variants or {})
    _check([s.name for s in systems], main, ks, bases)
    further = [declared(metric, name) for name, metric in (own or {}).items()]
    popularity = _by_list(item_popularity, truth, catalogue_size)
    about_items = item_category, item_vectors, past_items
    measured = {
        s.name: Measured(metrics.match(truth, s), s, truth, popularity, *about_items)
        for s in systems
    }
    parts = _with_days(segments or {}, truth)
    compared = _Compared(measured, main, sorted(set(ks)), parts, bases, further)
    resampled = compared.resampled(resamples, seed)
    return compared.evaluation(resampled, catalogue_size, sampled_candidates)


@dataclass(frozen=True)
class _Compared:
    """Systems measured on the same groups, and what they are to be held against each other by."""

    measured: dict[str, Measured]
    main: str
    ks: list[int]
    """Cut-offs, ascending."""
    parts: dict[str, SegmentLabels]
    bases: dict[str, str]
    """Variant → the system it is held against."""
    further: list[Metric]

    @property
    def truth(self) -> Truth:
        return self.measured[self.main].truth

    @property
    def systems(self) -> list[RankedLists]:
        return [found.lists for found in self.measured.values()]

    @property
    def competitors(self) -> list[RankedLists]:
        """All but the variants."""
        return [s for s in self.systems if s.name not in self.bases]

    @property
    def matched(self) -> dict[str, MatchedLists]:
        return {name: found.matched for name, found in self.measured.items()}

    @cached_property
    def columns(self) -> dict[str, dict[str, Doubles]]:
        """System → metric → float[G]."""
        return {
            name: _group_metrics(found, self.ks, self.further)
            for name, found in self.measured.items()
        }

    @property
    def curve_ks(self) -> tuple[int, ...]:
        return tuple(k for k in CURVE_KS if k <= max(s.length for s in self.systems))

    def resampled(self, resamples: int, seed: int) -> "_Resampled":
        """Every mean and difference with its resamples, all from the same draws."""
        book = _Book(self.truth.user, resamples, seed)
        _add_means(book, self.columns, self.main, self.bases)
        _add_curves(book, self.measured, self.curve_ks)
        others = self.competitors
        _add_segments(book, self.truth, others, self.matched, self.parts, self.main, self.ks[0])
        return book.bootstrap()

    def evaluation(
        self, resampled: "_Resampled", catalogue_size: int, sampled: int | None
    ) -> Evaluation:
        """What is reported of it all."""
        truth, main, matched, ks = self.truth, self.main, self.matched, self.ks
        names = list(self.measured)
        bins, as_chance, error = _score_reliability(matched[main])
        shown = _read_segments(resampled, self.parts, [s.name for s in self.competitors], main)
        own = self.measured[main]
        return Evaluation(
            main=main,
            main_metric=f"ndcg@{ks[0]}",
            ks=tuple(ks),
            level=LEVEL,
            resamples=resampled.resamples,
            seed=resampled.seed,
            groups=truth.n_groups,
            users=truth.n_users,
            groups_without_truth=int((matched[main].relevant == 0).sum()),
            catalogue_size=catalogue_size,
            sampled_candidates=sampled,
            systems={
                s.name: _read_system(resampled, s.name, self.columns[s.name])
                | _catalogue_metrics(s, truth, ks, catalogue_size, self.further)
                for s in self.systems
            },
            meanings=_meanings(self.further),
            differences=_read_differences(resampled, self.columns, names, main),
            variants=self.bases,
            days=shown.pop(_DAY),
            segments=shown,
            curve_ks=self.curve_ks,
            curves=_read_curves(resampled, names, self.curve_ks),
            score_bins=bins,
            scores_are_probabilities=as_chance,
            calibration_error=error,
            exposure=_exposure(self.systems, ks[0], catalogue_size, own.popularity, own.past),
            warnings=_warnings(truth, self.systems, matched, main, sampled, ks[-1]),
            per_group=_per_group(truth, self.columns),
        )


def _by_list(
    item_popularity: npt.NDArray[np.number] | PopularityAt, truth: Truth, catalogue_size: int
) -> PopularityAt:
    """Past events of each item as of each list."""
    if isinstance(item_popularity, PopularityAt):
        return item_popularity
    return PopularityAt.same(item_popularity, truth.n_groups, catalogue_size)


def _with_days(segments: Mapping[str, SegmentLabels], truth: Truth) -> dict[str, SegmentLabels]:
    """The segmentations with days among them: the caller's own, or those of the queries."""
    parts = {**segments, _DAY: segments.get(DAY, by_day(truth.time))}
    parts.pop(DAY, None)
    return parts


def _meanings(further: Sequence[Metric]) -> dict[str, Meaning]:
    return {
        metric.name: Meaning(metric.about, metric.better, metric.unit, metric.first)
        for metric in (*METRICS, *further)
    }


DAY = "day"
"""Name under which a caller may give days of its own; they have a section of their own."""
_CURVES = [metric for metric in METRICS if metric.curve]
_DAY = "\0day"
"""Key of the days among the segmentations; no caller can have it."""


class _Book:
    """Columns collected under keys and resampled with the same draws, so that everything is
    paired. They are resampled in blocks and then let go, which bounds memory."""

    def __init__(self, user: Ints, resamples: int, seed: int) -> None:
        self.user, self.resamples, self.seed = user, resamples, seed
        self.place: dict[tuple[str, ...], int] = {}
        self.pairs: dict[tuple[str, ...], tuple[int, int]] = {}
        self.waiting: list[Doubles] = []
        self.done: list[Bootstrapped] = []

    def add(self, key: tuple[str, ...], values: Doubles) -> None:
        """A column of values by group, NaN where undefined."""
        self.place[key] = len(self.place)
        self.waiting.append(values)
        if len(self.waiting) * len(values) > BLOCK_CELLS:
            self._flush()

    def add_difference(
        self,
        key: tuple[str, ...],
        a: tuple[str, ...],
        b: tuple[str, ...],
        of: tuple[Doubles, Doubles],
    ) -> None:
        """Column `a` minus column `b` (both added before, with values `of`), over the groups
        where both are defined. Where those are the same groups it follows from the two."""
        if np.array_equal(np.isnan(of[0]), np.isnan(of[1])):
            self.pairs[key] = self.place[a], self.place[b]
        else:
            self.add(key, of[0] - of[1])

    def bootstrap(self) -> "_Resampled":
        self._flush()
        columns = joined(self.done)
        pairs = np.array(list(self.pairs.values()), np.int64).reshape(-1, 2)
        place = dict(self.place)
        place |= {key: len(self.place) + number for number, key in enumerate(self.pairs)}
        found = joined([columns, columns.differences(pairs)])
        return _Resampled(found, place, self.resamples, self.seed)

    def _flush(self) -> None:
        table = np.column_stack(self.waiting) if self.waiting else np.empty((len(self.user), 0))
        self.done.append(bootstrap(table, self.user, resamples=self.resamples, seed=self.seed))
        self.waiting = []


@dataclass(frozen=True)
class _Resampled:
    """Bootstrapped columns, found by key."""

    result: Bootstrapped
    place: dict[tuple[str, ...], int]
    resamples: int
    seed: int

    def interval(self, *key: str) -> Interval:
        return self.result.interval(self.place[key])

    def corrected(self, comparisons: int, *key: str) -> Interval:
        return self.result.corrected(self.place[key], comparisons)

    def p(self, *key: str) -> float | None:
        return self.result.p_value(self.place[key])


def _check(names: list[str], main: str, ks: Sequence[int], variants: Mapping[str, str]) -> None:
    if len(set(names)) != len(names):
        raise UsageError("two systems share a name", where="evaluation", found=", ".join(names))
    if main not in names:
        raise UsageError(
            "the main system is not among those evaluated",
            where="evaluation",
            found=main,
            expected="one of " + (", ".join(names) or "none"),
        )
    strangers = (set(variants) | set(variants.values())) - set(names)
    if strangers or main in variants:
        raise UsageError(
            "a variant is not among the systems evaluated, or is the main one",
            where="evaluation.variants",
            found=", ".join(sorted(strangers)) or main,
            expected="systems of " + ", ".join(names),
        )
    if not ks or min(ks) < 1:
        raise UsageError(
            "cut-offs must be positive", where="evaluation.k", found=list(ks), expected="e.g. [10]"
        )


def _group_metrics(
    measured: Measured, ks: list[int], further: Sequence[Metric]
) -> dict[str, Doubles]:
    """metric → float[G], in the order of the report's columns."""
    found: dict[str, Doubles | None] = {}
    every = [m for m in METRICS if m.of_lists and m.places == "each k"]
    for k in ks:
        found |= {f"{m.name}@{k}": m.of_lists(measured, k) for m in every if m.of_lists}
    for m in METRICS:
        if m.of_lists and m not in every:
            found |= {column: m.of_lists(measured, k) for column, k in m.at(ks)}
    for m in further:
        if m.of_lists:
            found |= {column: values_of(m, measured, k) for column, k in m.at(ks)}
    return {column: values for column, values in found.items() if values is not None}


def _add_means(
    book: _Book, columns: dict[str, dict[str, Doubles]], main: str, bases: Mapping[str, str]
) -> None:
    for name, found in columns.items():
        for metric, values in found.items():
            book.add(("mean", name, metric), values)
    for name, found in columns.items():
        base = bases.get(name, main)
        for metric, values in found.items() if name != main else ():
            book.add_difference(
                ("difference", name, metric),
                ("mean", base, metric),
                ("mean", name, metric),
                (columns[base][metric], values),
            )


def _add_curves(book: _Book, measured: dict[str, Measured], curve_ks: tuple[int, ...]) -> None:
    for name, read in measured.items():
        for k in curve_ks:
            for metric in _CURVES:
                book.add(("curve", metric.name, name, str(k)), metric.needed(read, k))


def _add_segments(
    book: _Book,
    truth: Truth,
    systems: Sequence[RankedLists],
    matched: dict[str, MatchedLists],
    parts: Mapping[str, SegmentLabels],
    main: str,
    k: int,
) -> None:
    whole = {s.name: metrics.ndcg(matched[s.name], k) for s in systems}
    for part, labels in parts.items():
        _check_labels(part, labels, truth)
        for code, label in enumerate(labels.labels):
            inside = labels.code == code
            if labels.of == "group":
                values = {name: np.where(inside, v, np.nan) for name, v in whole.items()}
            else:
                narrow = truth.restricted(inside)
                values = {s.name: metrics.ndcg(metrics.match(narrow, s), k) for s in systems}
            for name, v in values.items():
                book.add(("segment", part, label, name), v)
            for name, v in values.items():
                if name != main:
                    book.add_difference(
                        ("segment-difference", part, label, name),
                        ("segment", part, label, main),
                        ("segment", part, label, name),
                        (values[main], v),
                    )


def _check_labels(part: str, labels: SegmentLabels, truth: Truth) -> None:
    expected = truth.n_groups if labels.of == "group" else len(truth.items)
    if len(labels.code) != expected:
        raise UsageError(
            "a segmentation does not fit the truth",
            where=f"segments.{part} (of {labels.of})",
            found=f"length {len(labels.code)}",
            expected=f"length {expected}",
        )


def _read_system(resampled: _Resampled, name: str, found: Iterable[str]) -> dict[str, Interval]:
    return {metric: resampled.interval("mean", name, metric) for metric in found}


def _catalogue_metrics(
    lists: RankedLists, truth: Truth, ks: list[int], catalogue_size: int, further: Sequence[Metric]
) -> dict[str, Interval]:
    """Coverage, Gini and the like with a jackknife over folds of users.

    A bootstrap would draw users twice and understate coverage; leaving folds out does not, up to
    the shrinkage of the fold, which the spread does not see.
    """
    fold = np.unique(truth.user, return_inverse=True)[1] % FOLDS
    parts = [
        RankedLists(lists.name, lists.items[fold == f], lists.scores[fold == f])
        for f in range(FOLDS)
    ]
    found: dict[str, Interval] = {}
    counted: dict[int, Longs] = {}
    for metric in (*METRICS, *further):
        spread = metric.of_exposure
        if spread is None:
            continue
        for column, place in metric.at(ks):
            k = place or lists.length
            if k not in counted:
                counted[k] = np.stack([metrics.exposure(p, k, catalogue_size) for p in parts])
            whole = counted[k].sum(0)
            without = np.array([spread(row) for row in whole - counted[k]])
            found[column] = jackknife(without, spread(whole), truth.n_users)
    return found


def _read_differences(
    resampled: _Resampled, columns: dict[str, dict[str, Doubles]], names: list[str], main: str
) -> dict[str, dict[str, Difference]]:
    """Corrected over the other systems, metric by metric."""
    others = [n for n in names if n != main]
    found: dict[str, dict[str, Difference]] = {n: {} for n in others}
    for metric in columns[main]:
        corrected = holm([resampled.p("difference", n, metric) for n in others])
        for name, p in zip(others, corrected, strict=True):
            interval = resampled.interval("difference", name, metric)
            base = resampled.interval("mean", name, metric).value
            found[name][metric] = _difference(interval, base, p)
    return found


def _difference(interval: Interval, base: float | None, p: float | None) -> Difference:
    relative = interval.value / base if base and interval.value is not None else None
    return Difference(interval, relative, p, _verdict(interval, p))


def _verdict(interval: Interval, p: float | None) -> str:
    if interval.low is None or interval.high is None or p is None or p >= 1.0 - LEVEL:
        return UNCLEAR
    if interval.low > 0:
        return AHEAD
    return BEHIND if interval.high < 0 else UNCLEAR


def _read_segments(
    resampled: _Resampled, parts: Mapping[str, SegmentLabels], names: list[str], main: str
) -> dict[str, list[Segment]]:
    """Corrected over every segment × other system; days are corrected among themselves."""
    others = [n for n in names if n != main]
    families = [[p for p in parts if p != _DAY], [_DAY]]
    found: dict[str, list[Segment]] = {}
    for family in families:
        cells = [(part, label) for part in family for label in parts[part].labels]
        keys = [(part, label, name) for part, label in cells for name in others]
        corrected = holm([resampled.p("segment-difference", *key) for key in keys])
        p_of = dict(zip(keys, corrected, strict=True))
        comparisons = max(1, len(keys))
        for part in family:
            found[part] = [
                _segment(resampled, part, label, names, main, comparisons, p_of)
                for label in parts[part].labels
            ]
    return found


def _segment(
    resampled: _Resampled,
    part: str,
    label: str,
    names: list[str],
    main: str,
    comparisons: int,
    p_of: dict[tuple[str, str, str], float | None],
) -> Segment:
    systems = {n: resampled.interval("segment", part, label, n) for n in names}
    differences = {}
    for name in names:
        if name == main:
            continue
        interval = resampled.corrected(comparisons, "segment-difference", part, label, name)
        differences[name] = _difference(interval, systems[name].value, p_of[part, label, name])
    own = systems[main]
    return Segment(label, own.groups, own.users, systems, differences)


def _read_curves(
    resampled: _Resampled, names: list[str], curve_ks: tuple[int, ...]
) -> dict[str, dict[str, list[Interval]]]:
    return {
        metric.name: {
            n: [resampled.interval("curve", metric.name, n, str(k)) for k in curve_ks]
            for n in names
        }
        for metric in _CURVES
    }


def _score_reliability(matched: MatchedLists) -> tuple[list[ReliabilityBin], bool, float | None]:
    """Hit share by score; calibration error only where scores can be chances."""
    held = np.arange(matched.grade.shape[1])[None, :] < matched.length[:, None]
    held &= (matched.relevant > 0)[:, None] & np.isfinite(matched.scores)
    score, hit = matched.scores[held], (matched.grade[held] >= RELEVANT_FROM).astype(np.int64)
    bins = metrics.reliability(score, hit)
    as_chance = bool(len(score)) and float(score.min()) >= 0.0 and float(score.max()) <= 1.0
    return bins, as_chance, metrics.expected_calibration_error(bins) if as_chance else None


def _exposure(
    systems: Sequence[RankedLists],
    k: int,
    catalogue_size: int,
    popularity: PopularityAt,
    past: PastItems | None,
) -> dict[str, list[float]]:
    """Share of places by tenth of the catalogue in order of popularity."""
    if catalogue_size == 0:
        return {}
    shown = {s.name: _first(s, k) for s in systems}
    if past is not None:
        groups = past.owner
        shown = {HISTORY: (groups, past.items)} | shown
    found = {}
    for name, (group, item) in shown.items():
        known = item < catalogue_size
        tenth = popularity.tenths[popularity.snapshot[group[known]], item[known]]
        by_tenth = np.bincount(tenth, minlength=10).astype(np.float64)
        found[name] = (by_tenth / max(by_tenth.sum(), 1.0)).tolist()
    return found


def _first(lists: RankedLists, k: int) -> tuple[npt.NDArray[np.intp], Ints]:
    """(group, item) of what the lists show in their first k."""
    shown = lists.items[:, :k]
    group, place = np.nonzero(shown >= 0)
    return group, shown[group, place]


def _warnings(
    truth: Truth,
    systems: Sequence[RankedLists],
    matched: dict[str, MatchedLists],
    main: str,
    sampled: int | None,
    k: int,
) -> list[str]:
    """What a reader must know before believing the table."""
    warnings = []
    if truth.n_groups == 0:
        warnings.append("The evaluation window holds no groups: nothing was measured.")
    empty = int((matched[main].relevant == 0).sum())
    if empty:
        warnings.append(
            f"{empty:,} of {truth.n_groups:,} groups have no relevant item and are left out of "
            "every accuracy metric."
        )
    if truth.n_users and truth.n_users < 100:
        warnings.append(f"Only {truth.n_users} users: intervals are wide and segments say little.")
    if sampled is not None:
        warnings.append(
            f"Ranked among a sample of {sampled:,} candidates, not the whole catalogue: sampled "
            "metrics are far higher than full ones and can order systems differently."
        )
    own = next(lists for lists in systems if lists.name == main)
    warnings += _list_warnings(own, matched[main], k)
    return warnings + _other_warnings(systems, matched, main)


def _list_warnings(lists: RankedLists, matched: MatchedLists, k: int) -> list[str]:
    """What is wrong with the main system's lists."""
    warnings = []
    silent = int((matched.length == 0).sum())
    if silent:
        warnings.append(
            f"{lists.name}: {silent:,} of {lists.n_groups:,} lists are empty; they count as misses."
        )
    short = int(((matched.length > 0) & (matched.length < k)).sum())
    if short:
        warnings.append(
            f"{lists.name}: {short:,} lists are shorter than {k}; the rest counts as misses."
        )
    if matched.repeated:
        warnings.append(
            f"{lists.name}: {matched.repeated:,} positions show an item again; only the first counts."
        )
    return warnings


def _other_warnings(
    systems: Sequence[RankedLists], matched: dict[str, MatchedLists], main: str
) -> list[str]:
    """Empty lists of the others, in one line: a source that knows nobody looks worse by it."""
    silent = {s.name: int((matched[s.name].length == 0).sum()) for s in systems if s.name != main}
    named = ", ".join(f"{name} {count:,}" for name, count in silent.items() if count)
    if not named:
        return []
    return [f"Systems with empty lists, which count as misses: {named} of {systems[0].n_groups:,}."]


def _per_group(truth: Truth, columns: dict[str, dict[str, Doubles]]) -> dict[str, npt.NDArray[Any]]:
    table: dict[str, npt.NDArray[Any]] = {"user": truth.user, "time": truth.time}
    for name, found in columns.items():
        for metric, values in found.items():
            table[f"{name}/{metric}"] = values.astype(np.float32)
    return table


def plain(value: object) -> object:
    """Dataclasses and named tuples become dicts, numbers plain, NaN None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
