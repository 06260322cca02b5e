"""The gate: may tonight's candidate take the champion's place?

Candidate and champion are compared on the same test moments, both fitted before them: the
champion's recipe, kept in its bundle, is fitted again as of the same cuts, and its ranker, trained
on earlier windows, ranks what that recalls. A model that has seen the window is never compared.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from data_schemas.config import GateConfig
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.metrics import judge, ndcg
from recsys.evaluation.segments import SegmentLabels
from recsys.evaluation.uncertainty import bootstrap

PROMOTE, CHALLENGER, REJECT = "promote", "challenger", "reject"


@dataclass(frozen=True)
class Rule:
    """One rule with what it found."""

    name: str
    passed: bool
    detail: str


@dataclass
class Decision:
    """What the gate decided, and why."""

    action: str = PROMOTE
    champion: int | None = None
    rules: list[Rule] = field(default_factory=list)

    def add(self, name: str, passed: bool, detail: str) -> None:
        self.rules.append(Rule(name, passed, detail))

    @property
    def promoted(self) -> bool:
        return self.action == PROMOTE

    @property
    def reasons(self) -> list[str]:
        """One line per rule, failed ones first."""
        ordered = sorted(self.rules, key=lambda rule: rule.passed)
        return [f"{'passed' if r.passed else 'FAILED'}: {r.name}: {r.detail}" for r in ordered]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(
    config: GateConfig,
    truth: Truth,
    candidate: RankedLists,
    champion: tuple[int, RankedLists] | None,
    segments: Mapping[str, SegmentLabels],
    *,
    guardrails: Mapping[str, tuple[float, float, bool]],
    leaks: list[str],
    resamples: int,
    seed: int,
) -> Decision:
    """Apply every rule.

    Args:
        truth: the test moments.
        candidate: tonight's lists.
        champion: version and lists of the champion on the same moments; None when there is none.
        segments: labels of moments or of relevant items; those named in `protected` have a rule.
        guardrails: name → (found, limit, whether found must be at least the limit).
        leaks: suspects by name; any refuses promotion.
    """
    decision = Decision(champion=champion[0] if champion else None)
    for leak in leaks:
        decision.add("no leak", False, leak)
    if not leaks:
        decision.add("no leak", True, "nothing suspect was found")
    for name, (found, limit, at_least) in guardrails.items():
        held = found >= limit if at_least else found <= limit
        sign = "≥" if at_least else "≤"
        decision.add(name, held or champion is None, f"{found:.4g}, limit {sign} {limit:.4g}")
    if champion is None:
        decision.add("champion", True, "there is no champion to be worse than")
    else:
        _compare(decision, config, truth, candidate, champion[1], segments, resamples, seed)
    if not all(rule.passed for rule in decision.rules):
        decision.action = REJECT
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
    k = int(config.metric.split("@")[1])
    whole = _values(truth, candidate, k), _values(truth, champion, k)
    _non_inferior(decision, "overall", config.margin, truth, *whole, resamples, seed)
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
                np.where(inside, _values(part, lists, k), np.nan) for lists in (candidate, champion)
            ]
            _non_inferior(
                decision, label, config.segment_margin, truth, values[0], values[1], resamples, seed
            )


def _values(truth: Truth, lists: RankedLists, k: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return ndcg(judge(truth, lists), k)


def _non_inferior(
    decision: Decision,
    name: str,
    margin: float,
    truth: Truth,
    ours: np.ndarray[Any, np.dtype[np.float64]],
    theirs: np.ndarray[Any, np.dtype[np.float64]],
    resamples: int,
    seed: int,
) -> None:
    """The lower bound of the difference must not lie below -margin × the champion's value.

    A window too small to show that is not held against the candidate while its own value is not
    below the margin: the interval is stated for the analyst.
    """
    drawn = bootstrap(
        np.column_stack([ours - theirs, theirs]), truth.user, resamples=resamples, seed=seed
    )
    difference, base = drawn.interval(0), drawn.interval(1)
    limit = -margin * (base.value or 0.0)
    value = difference.value or 0.0
    worse = difference.high is not None and difference.high < 0
    held = value >= limit and not worse
    low = "–" if difference.low is None else f"{difference.low:+.4f}"
    high = "–" if difference.high is None else f"{difference.high:+.4f}"
    decision.add(
        f"not worse than the champion ({name})",
        held,
        f"difference {value:+.4f} [{low}, {high}], tolerated {limit:+.4f}",
    )
