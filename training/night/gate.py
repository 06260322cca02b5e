"""The gate: may tonight's candidate take the champion's place?

Candidate and champion are compared on the same test moments, both fitted before them: the
champion's recipe, kept in its bundle, is fitted again as of the same cuts, and its ranker, trained
on earlier windows, ranks what that recalls. A model that has seen the window is never compared.

Three answers. *Reject*: something speaks against the candidate (a leak, a guardrail, data beyond a
limit, a loss that is no chance). *Challenger*: nothing does, but it is not shown to be as good (a
loss that may be chance, a champion that cannot be compared). *Promote* otherwise.

Shapes: G groups (test moments).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import GateConfig
from recsys.evaluation import metrics
from recsys.evaluation.drift import in_digits
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.metrics import MatchedLists
from recsys.evaluation.segments import SegmentLabels
from recsys.evaluation.uncertainty import bootstrap

PROMOTE, CHALLENGER, REJECT = "promote", "challenger", "reject"
METRICS: Mapping[str, Callable[[MatchedLists, int], npt.NDArray[np.float64]]] = {
    "ndcg": metrics.ndcg,
    "recall": metrics.recall,
    "precision": metrics.precision,
    "hit_rate": metrics.hit_rate,
    "mrr": metrics.mrr,
}
"""What `gate.metric` may name before its @."""


@dataclass(frozen=True)
class GateRule:
    """One rule with what it found."""

    name: str
    passed: bool
    detail: str
    doubt: bool = False
    """A failure that shows no harm: the candidate is kept as challenger."""


@dataclass(frozen=True)
class Guardrail:
    """A number with a limit on one side."""

    name: str
    found: float
    limit: float
    at_least: bool
    """Whether `found` must be at least the limit; at most otherwise."""

    @property
    def held(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit

    @property
    def detail(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{in_digits(self.found, 4)}, limit {sign} {in_digits(self.limit, 4)}"


@dataclass(frozen=True)
class ChampionResult:
    """The champion's side of the comparison."""

    version: int
    lists: RankedLists | None
    """Its lists on tonight's test moments; None where it cannot be compared."""
    how: str
    """How it was made comparable, or why it cannot be compared."""
    lost: bool = False
    """Whether its files are gone, so that nothing can serve it."""


@dataclass
class Decision:
    """What the gate decided, and why."""

    action: str = PROMOTE
    champion: int | None = None
    rules: list[GateRule] = field(default_factory=list)

    def add(self, name: str, passed: bool, detail: str, *, doubt: bool = False) -> None:
        self.rules.append(GateRule(name, passed, detail, doubt and not passed))

    @property
    def promoted(self) -> bool:
        return self.action == PROMOTE

    @property
    def reasons(self) -> list[str]:
        """One line per rule, failed ones first, those that show harm before those in doubt."""
        ordered = sorted(self.rules, key=lambda rule: (rule.passed, rule.doubt))
        return [f"{_word(rule)}: {rule.name}: {rule.detail}" for rule in ordered]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _word(rule: GateRule) -> str:
    return "passed" if rule.passed else "in doubt" if rule.doubt else "FAILED"


def decide(
    config: GateConfig,
    truth: Truth,
    candidate: RankedLists,
    champion_result: ChampionResult | None,
    segments: Mapping[str, SegmentLabels],
    *,
    guardrails: Sequence[Guardrail],
    leaks: Sequence[str],
    stops: Sequence[str],
    resamples: int,
    seed: int,
) -> Decision:
    """Apply every rule.

    Args:
        truth: the test moments.
        candidate: tonight's lists.
        rival: the champion; None when there is none.
        segments: labels of moments or of relevant items; those named in `protected` have a rule.
        guardrails: numbers with limits; they warn only where there is no champion.
        leaks: suspects by name; any refuses promotion, of a first model too.
        stops: data or drift beyond a limit that stops; they warn only where there is no champion.
    """
    decision = Decision(champion=champion_result.version if champion_result else None)
    first = champion_result is None or champion_result.lost
    for leak in leaks:
        decision.add("no leak", False, leak)
    if not leaks:
        decision.add("no leak", True, "nothing suspect was found")
    for stop in stops:
        decision.add("data and drift", first, stop)
    if not stops:
        decision.add("data and drift", True, "nothing is beyond a limit that stops")
    for guardrail in guardrails:
        decision.add(guardrail.name, guardrail.held or first, guardrail.detail)
    if champion_result is None:
        decision.add("champion", True, "there is no champion to be worse than")
    elif champion_result.lost:
        decision.add(
            "champion",
            True,
            f"nothing can serve version {champion_result.version}: {champion_result.how}",
        )
    elif champion_result.lists is None:
        decision.add("champion", False, f"cannot be compared: {champion_result.how}", doubt=True)
    else:
        decision.add("champion", True, f"version {champion_result.version}, {champion_result.how}")
        _compare(
            decision, config, truth, candidate, champion_result.lists, segments, resamples, seed
        )
    failed = [rule for rule in decision.rules if not rule.passed]
    if failed:
        decision.action = CHALLENGER if all(rule.doubt for rule in failed) else REJECT
    return decision


def _compare(
    decision: Decision,
    config: GateConfig,
    truth: Truth,
    candidate: RankedLists,
    champion: RankedLists,
    segments: Mapping[str, SegmentLabels],
    resamples: int,
    seed: int,
) -> None:
    """Non-inferiority overall and in every protected segment that is large enough."""
    ours, theirs = (_values(truth, lists, config.metric) for lists in (candidate, champion))
    _non_inferior(decision, "overall", config.margin, truth, ours, theirs, resamples, seed)
    known = {label for labels in segments.values() for label in labels.labels}
    for name in config.protected:
        if name not in known:
            decision.add(name, True, "no list of tonight's test belongs to it: no rule applied")
    for labels in segments.values():
        for code, label in enumerate(labels.labels):
            if label not in config.protected:
                continue
            part = truth if labels.of == "group" else truth.restricted(labels.code == code)
            inside = labels.code == code if labels.of == "group" else np.diff(part.offsets) > 0
            users = len(np.unique(truth.user[inside]))
            if users < config.min_group:
                decision.add(
                    label, True, f"{users} users, too few for its rule ({config.min_group})"
                )
                continue
            values = [
                np.where(inside, _values(part, lists, config.metric), np.nan)
                for lists in (candidate, champion)
            ]
            _non_inferior(
                decision, label, config.segment_margin, truth, values[0], values[1], resamples, seed
            )


def _values(truth: Truth, lists: RankedLists, metric: str) -> npt.NDArray[np.float64]:
    """float64[G] of the gate's metric, e.g. `ndcg@10`."""
    name, k = metric.split("@")
    return METRICS[name](metrics.match(truth, lists), int(k))


def _non_inferior(
    decision: Decision,
    name: str,
    margin: float,
    truth: Truth,
    ours: npt.NDArray[np.float64],
    theirs: npt.NDArray[np.float64],
    resamples: int,
    seed: int,
) -> None:
    """The difference against a loss of margin × the champion's value, with its paired interval.

    Shown to be no worse (the whole interval above the tolerated loss): passed. Otherwise the
    window is too small to show it: passed while the difference itself is tolerated and not all of
    the interval is a loss; in doubt while the interval reaches zero; failed where all of it is a
    loss.
    """
    drawn = bootstrap(
        np.column_stack([ours - theirs, theirs]), truth.user, resamples=resamples, seed=seed
    )
    difference, base = drawn.interval(0), drawn.interval(1)
    limit = -margin * (base.value or 0.0)
    value = difference.value or 0.0
    shown = difference.low is not None and difference.low >= limit
    loss = difference.high is not None and difference.high < 0
    low = "–" if difference.low is None else f"{difference.low:+.4f}"
    high = "–" if difference.high is None else f"{difference.high:+.4f}"
    decision.add(
        f"not worse than the champion ({name})",
        shown or (value >= limit and not loss),
        f"difference {value:+.4f} [{low}, {high}], tolerated {limit:+.4f}",
        doubt=not loss,
    )
