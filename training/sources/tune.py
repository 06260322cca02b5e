"""Self-tuning: params of the sources, weights of their fusion, and who earns a place.

Everything is evaluated on labels that lie after the events the sources are fitted on. The defaults
are good starting points, measured on several data sets, so a param moves only when the paired
difference says so. Cheap sources go first; a budget bounds it all.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np

from recsys.features.draws import Doubles
from recsys.features.interactions import History, Interactions, Ints
from recsys.features.protocols import Mask, RecallSource
from recsys.retrieval.fitted_source import SourceInputs
from recsys.retrieval.source_kinds import cheapest_first, is_fitted, source_class
from recsys.retrieval.source_params import declared
from recsys.storage.engines.scratch_parts import UnfinishedWork
from recsys.training.groups import blocking, for_each
from recsys.training.sources.fit_source import SourceFailed, failing_as, fit_one
from recsys.training.sources.fusion import Lists, Quality, better, choose_weights, quality_of

log = logging.getLogger(__name__)

CHEAP_SECONDS: Final = 15.0
"""A source whose fit takes less stays as a signal for the ranker when the fusion does not need it."""
HIT_DEPTH: Final = 100
START_POWER: Final = 1.0
"""Fusion weights start from each source's own nDCG to this power."""


class Label(NamedTuple):
    """What a user did next: the history before `now`, and the items (int32[r], r ≥ 1)."""

    history: History
    now: int
    relevant: Ints


@dataclass
class Outcome:
    """What tuning found out about one source."""

    name: str
    params: dict[str, float]
    ndcg: float
    """nDCG@10 on the tuning labels."""
    recall: float
    """Recall@100 on the tuning labels."""
    fit_seconds: float
    tried: int
    """Settings that were compared."""
    note: str = ""
    """What was not tried, and why."""
    kept: bool = True
    reason: str = ""
    failed: str = ""
    """What stopped its fit; empty where nothing did."""
    gain: tuple[float, float] = (0.0, 0.0)
    """What the fusion loses without the source: nDCG@10 and recall at the limit."""


@dataclass
class TunedPlan:
    """The choice of one night, and everything the report says about it."""

    params: dict[str, dict[str, float]]
    """Of the sources to fit, cheapest first."""
    weights: dict[str, float]
    """Fusion weight of every source that is used; the largest is 1."""
    outcomes: list[Outcome] = field(default_factory=list)
    fused: tuple[float, float] = (0.0, 0.0)
    """nDCG@10 and recall at the limit of the fusion on the tuning labels."""
    labels: int = 0
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """For the manifest and the report."""
        return {
            "sources": [vars(outcome) | {"gain": list(outcome.gain)} for outcome in self.outcomes],
            "fused": {"ndcg@10": self.fused[0], "recall@limit": self.fused[1]},
            "weights": self.weights,
            "labels": self.labels,
            "seconds": round(self.seconds, 1),
        }


class TuningClock:
    """A budget that is being spent."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._started = seconds, perf_counter()

    @property
    def spent(self) -> float:
        return perf_counter() - self._started

    @property
    def left(self) -> float:
        return self.seconds - self.spent


def tune_sources(
    fit_interactions: Interactions,
    labels: Sequence[Label],
    inputs: SourceInputs,
    names: Sequence[str],
    *,
    budget_seconds: float,
    seed: int,
    workers: int = 1,
    fixed: Mapping[str, RecallSource] | None = None,
    params: Mapping[str, Mapping[str, float]] | None = None,
    larger: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    remembered: Mapping[str, Mapping[str, float]] | None = None,
    depth: int = 300,
    limit: int = 200,
    elsewhere: UnfinishedWork | None = None,
) -> TunedPlan:
    """Choose params, fusion weights and sources.

    Args:
        fit_interactions: events before all labels.
        labels: moments after them; those without a relevant item are ignored.
        inputs: catalogue, texts and vectors.
        names: sources to try.
        budget_seconds: time for trying params; each source is fitted at least once, whatever the
            budget, because its lists are needed to fuse and to evaluate it.
        seed: of the fits.
        workers: threads.
        fixed: sources that are there already, such as the encoder's `text`; fused and evaluated,
            never fitted.
        params: the caller's own; they are not tuned.
        larger: what the device affords besides, tried in this order and kept where it is better; its time
            was measured before, so the budget does not bound it.
        remembered: params of an earlier night, tried first in place of the defaults.
        depth: items that each source proposes, as served.
        limit: items kept after fusion, as served.
        elsewhere: where parts of fits are made; None for this process.
    """
    clock = TuningClock(budget_seconds)
    bench = Bench(fit_interactions, inputs, usable(labels), seed, workers, depth, elsewhere)
    outcomes: list[Outcome] = []
    for place, name in enumerate(cheapest_first(names)):
        allowance = clock.left / max(1, len(names) - place)
        own = dict((params or {}).get(name, {}))
        start = {**_known(name, (remembered or {}).get(name, {})), **own}
        more = (larger or {}).get(name, ())
        outcomes.append(_tune_or_leave_out(bench, name, start, frozenset(own), allowance, more))
        log.info("%s", outcomes[-1])
    for name, source in (fixed or {}).items():
        quality = bench.measure(source)
        bench.keep(name)
        outcomes.append(Outcome(name, {}, *quality.means(), fit_seconds=0.0, tried=1))
    plan = _fuse(bench, outcomes, limit)
    plan.seconds = clock.spent
    return plan


def usable(labels: Sequence[Label]) -> list[Label]:
    """Labels with something to find and something to find it by."""
    return [Label(*row) for row in labels if len(row[2]) and len(row[0].item)]


def _known(name: str, remembered: Mapping[str, float]) -> dict[str, float]:
    """Remembered params that the source still has."""
    return {d: v for d, v in remembered.items() if d in source_class(name).Params.model_fields}


class Bench:
    """Fits, lists and their quality on the labels.

    Args:
        interactions: events before all labels.
        inputs: catalogue, texts and vectors.
        labels: moments with a relevant item.
        seed: of the fits.
        workers: threads.
        depth: items that each source proposes.
        elsewhere: where parts of fits are made; None for this process.
    """

    def __init__(
        self,
        interactions: Interactions,
        inputs: SourceInputs,
        labels: Sequence[Label],
        seed: int,
        workers: int,
        depth: int,
        elsewhere: UnfinishedWork | None = None,
    ) -> None:
        self.elsewhere = elsewhere
        self.interactions, self.inputs, self.labels = interactions, inputs, labels
        self.seed, self.workers, self.depth = seed, workers, depth
        self.lists: dict[str, list[Ints]] = {}
        self._latest: list[Ints] = []
        self.owner = np.repeat(np.arange(len(labels)), [len(row.relevant) for row in labels])
        self.sizes = np.array([len(row.relevant) for row in labels], np.float64)
        self._nothing_blocked: Mask = np.zeros(interactions.n_items, np.uint8)

    def fit(self, name: str, params: Mapping[str, float]) -> tuple[RecallSource, float]:
        """A fitted source, and how many seconds it took."""
        started = perf_counter()
        source = fit_one(
            name, self.interactions, self.inputs, params, seed=self.seed, workers=self.workers,
            elsewhere=self.elsewhere,
        )  # fmt: skip
        return source, perf_counter() - started

    def measure(self, source: RecallSource) -> Quality:
        """nDCG@10 and recall@100 of the source alone; its lists stay at hand for `keep`."""
        return self.quality_of(self.ranks(source))

    def ranks(self, source: RecallSource) -> Doubles:
        """1-based rank of every label's relevant items in the source's list, inf where missing."""
        n_items = self.interactions.n_items
        latest: list[Ints] = [np.empty(0, np.int32)] * len(self.labels)

        def one(place: int, blocked: Mask) -> None:
            label = self.labels[place]
            # what a vocabulary has gained since is no item of this fit
            seen = label.history.item[label.history.item < n_items]
            with blocking(blocked, seen, self._nothing_blocked):
                latest[place] = source.recall(label.history, self.depth, label.now, blocked).items

        for_each(len(self.labels), one, self._nothing_blocked, self.workers)
        self._latest = latest
        ranks = [
            _rank(found, item)
            for label, found in zip(self.labels, latest, strict=True)
            for item in label.relevant
        ]
        return np.array(ranks, np.float64)

    def quality_of(self, ranks: Doubles) -> Quality:
        """Quality from ranks in the order of the labels' relevant items."""
        return quality_of(ranks, self.owner, self.sizes, HIT_DEPTH)

    def keep(self, name: str) -> None:
        """Let the lists measured last be the source's."""
        self.lists[name] = self._latest


def _rank(found: Ints, item: int) -> float:
    place = np.flatnonzero(found == item)
    return float(place[0] + 1) if len(place) else np.inf


def _tune_or_leave_out(
    bench: Bench,
    name: str,
    start: Mapping[str, float],
    pinned: frozenset[str],
    allowance: float,
    larger: Sequence[Mapping[str, float]] = (),
) -> Outcome:
    """A source that cannot be fitted is no reason to go without the others, unless it is always there."""
    try:
        with failing_as(name):
            return _tune_one(bench, name, start, pinned, allowance, larger)
    except SourceFailed as problem:
        if source_class(name).always:
            raise
        bench.lists.pop(name, None)
        why = f"could not be fitted: {problem.why}"
        return Outcome(name, {}, 0.0, 0.0, 0.0, 0, kept=False, reason=why, failed=problem.why)


def _tune_one(
    bench: Bench,
    name: str,
    start: Mapping[str, float],
    pinned: frozenset[str],
    allowance: float,
    larger: Sequence[Mapping[str, float]],
) -> Outcome:
    """What the device affords, then a coordinate search over a source's params, those that need no fit
    first."""
    clock = TuningClock(allowance)
    known = declared(source_class(name).Params)
    source, fit_seconds = bench.fit(name, start)
    chosen: dict[str, float] = dict(source.params)  # type: ignore[attr-defined]
    quality = bench.measure(source)
    bench.keep(name)
    tried, skipped = 1, []
    for change in larger:
        candidate, took = bench.fit(name, {**chosen, **change})
        outcome = bench.measure(candidate)
        tried += 1
        if better(outcome.objective, quality.objective):
            source, quality, fit_seconds = candidate, outcome, took
            chosen = dict(candidate.params)  # type: ignore[attr-defined]
            bench.keep(name)
    for param in sorted(known, key=lambda param: not known[param].free):
        free = known[param].free
        for value in _choices(known[param].tries, chosen[param], param in pinned):
            if (not free and clock.left < 1.2 * fit_seconds) or clock.left <= 0:
                skipped.append(f"{param}={value:g}")
                continue
            trial = {**chosen, param: value}
            candidate = source
            if free:
                candidate.params = trial  # type: ignore[attr-defined]
            else:
                candidate, _ = bench.fit(name, trial)
            outcome = bench.measure(candidate)
            tried += 1
            if better(outcome.objective, quality.objective):
                source, chosen, quality = candidate, trial, outcome
                bench.keep(name)
        source.params = chosen  # type: ignore[attr-defined]
    ndcg, recall = quality.means()
    note = f"no time for {', '.join(skipped)}" if skipped else ""
    return Outcome(name, chosen, ndcg, recall, round(fit_seconds, 2), tried, note)


def _choices(values: Sequence[float], current: float, pinned: bool) -> Iterator[float]:
    """Values of a param other than the current one, nearest first."""
    if not pinned:
        yield from sorted((v for v in values if v != current), key=lambda v: abs(v - current))


def _fuse(bench: Bench, outcomes: list[Outcome], limit: int) -> TunedPlan:
    """Weights, then each source's worth: what the fusion loses without it."""
    lists = Lists(bench.lists, [label.relevant for label in bench.labels], limit)
    fitted = [o for o in outcomes if not o.failed]
    start = {o.name: max(o.ndcg, 1e-6) ** START_POWER for o in fitted}
    if not bench.labels:
        for outcome in fitted:
            outcome.reason = "kept: there is no label to evaluate it on"
        params = {o.name: o.params for o in fitted if is_fitted(o.name)}
        return TunedPlan(params, dict.fromkeys(start, 1.0), outcomes)
    weights = choose_weights(lists, start)
    whole = lists.quality(weights)
    for outcome in fitted:
        _decide(outcome, lists, weights, whole)
    kept = {o.name: weights[o.name] for o in outcomes if o.kept}
    return TunedPlan(
        {o.name: o.params for o in outcomes if o.kept and is_fitted(o.name)},
        kept,
        outcomes,
        lists.quality(kept).means(),
        len(bench.labels),
    )


def _decide(outcome: Outcome, lists: Lists, weights: Mapping[str, float], whole: Quality) -> None:
    """Keep a source that the fusion needs, or that is cheap enough to be a signal."""
    without = lists.quality({n: w for n, w in weights.items() if n != outcome.name})
    ndcg, recall = (a - b for a, b in zip(whole.means(), without.means(), strict=True))
    outcome.gain = (ndcg, recall)
    worth = f"without it the fusion's nDCG@10 changes by {-ndcg:+.4f}, its recall by {-recall:+.4f}"
    if float((whole.objective - without.objective).mean()) > 0:
        outcome.reason = f"kept: {worth}"
    elif not is_fitted(outcome.name) or source_class(outcome.name).always:
        outcome.reason = f"kept for people or items without events: {worth}"
    elif outcome.fit_seconds <= CHEAP_SECONDS:
        outcome.reason = f"kept as a cheap signal for the ranker: {worth}"
    else:
        outcome.kept = False
        outcome.reason = f"dropped, it costs {outcome.fit_seconds:.0f} s a fit: {worth}"
