"""What a report says beside the measured lists. Every part is optional.

A part that is not given is named on the page as missing; nothing is silently blank. Small rows
may be given as plain tuples in the order of the fields here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from recsys.evaluation.off_policy import OffPolicy
from recsys.evaluation.uncertainty import Interval

CAPS = "caps on every list, as served"
"""Name of the fact that says so."""
EXAMPLE_LENGTH = 8
"""Titles of a history, of a list and of what it missed, in an example."""
Facts = Mapping[str, object]
"""Label → value, shown as a two-column table in the order given."""


class StageCost(NamedTuple):
    """What one stage of the run cost."""

    name: str
    seconds: float
    peak_mb: float | None = None
    """Peak memory, MB."""
    bytes_written: int | None = None
    skipped: bool = False
    """Unchanged inputs: the earlier output was used."""


class Importance(NamedTuple):
    """Gain of one feature in the ranker's trees."""

    feature: str
    family: str
    gain: float


class SourceFact(NamedTuple):
    """What became of one source of candidates or scores."""

    name: str
    kept: bool
    reason: str
    """Why it was kept or dropped, or why it failed."""
    recall: float | None = None
    """Recall@100 on validation."""
    params: Facts | None = None
    fit_until: int | None = None
    """µs UTC."""


REFUSE, DROP, WARN = "refuse", "drop", "warn"


class Check(NamedTuple):
    """One check for leakage or parity, with its finding."""

    name: str
    passed: bool
    detail: str = ""
    outcome: str = REFUSE
    """What a failed check means: `refuse` promotion, `drop` an attribute (done already: the night went
    on without it), or `warn`."""

    @property
    def refuses(self) -> bool:
        """Whether it speaks against promotion: one verdict for gate and page."""
        return not self.passed and self.outcome == REFUSE


class ExampleItem(NamedTuple):
    """One place of an example list."""

    title: str
    score: float
    reasons: Sequence[str] = ()
    hit: bool = False
    """The user did act on it."""


@dataclass(frozen=True)
class Example:
    """One user's list beside what the user did before and after."""

    user: str
    history: Sequence[str]
    """Titles, latest first."""
    items: Sequence[ExampleItem]
    missed: Sequence[str] = ()
    """Titles of relevant items that the list does not hold."""

    @classmethod
    def of(
        cls,
        number: int,
        title_of: Callable[[int], str],
        *,
        past: Sequence[int],
        listed: Sequence[int],
        scores: Sequence[float],
        reasons: Mapping[int, Sequence[str]],
        relevant: Iterable[int],
    ) -> "Example":
        """From numbers of the catalogue; the user is called by a number, never by an id.

        Args:
            number: of the example on its page.
            title_of: item → title.
            past: the user's items, oldest first; the latest `EXAMPLE_LENGTH` are shown.
            listed: the list, best first, with its `scores`.
            reasons: item → why it stands there; without is without.
            relevant: items the user then acted on.
        """
        wanted = set(relevant)
        items = [
            ExampleItem(title_of(item), float(score), tuple(reasons.get(item, ())), item in wanted)
            for item, score in zip(listed, scores, strict=False)
        ]
        missed = sorted(wanted - set(listed))
        return cls(
            f"user {number}",
            [title_of(item) for item in reversed(past[-EXAMPLE_LENGTH:])],
            items,
            [title_of(item) for item in missed[:EXAMPLE_LENGTH]],
        )


@dataclass(frozen=True)
class RankerFacts:
    """What the ranker is made of."""

    facts: Facts = field(default_factory=dict)
    """E.g. trees, learning rate, label, groups trained on."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Validation metric of linear alone, trees alone, both."""
    importance: Sequence[Importance | tuple[str, str, float]] = ()
    shap: Mapping[str, float] = field(default_factory=dict)
    """Family → mean |SHAP| over validation rows."""


class GateRow(NamedTuple):
    """One rule of the gate."""

    name: str
    status: str
    """`passed`, `FAILED`, `in doubt`, `policy` or `alarm`."""
    value: float | None = None
    limit: float | None = None
    room: float | None = None
    """How far the value is from its limit, negative beyond it."""
    relative: bool = False
    """Whether the three are shares, shown in percent."""
    detail: str = ""


@dataclass(frozen=True)
class GateDecision:
    """What the gate said about promotion."""

    promoted: bool
    reasons: Sequence[str]
    champion: str | None = None
    """Version compared with; None when there was none."""
    headline: str = ""
    """The decision in one sentence."""
    rules: Sequence[GateRow] = ()
    notes: Sequence[str] = ()
    """What the window could have seen, and what could not be compared."""


@dataclass(frozen=True)
class PositionBias:
    """Chance that a place is looked at, relative to the first; lists run over positions from 1."""

    examination: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    method: str


@dataclass(frozen=True)
class MaskedItems:
    """How well lists find items whose past was taken away; see `training.night.masked_items`."""

    items: int
    """Items that lost their events, of the catalogue."""
    lists: int
    positives: int
    since: int
    """µs; what was acted on from then on is looked for."""
    metrics: tuple[str, ...]
    systems: Mapping[str, Mapping[str, Interval]]
    """System → metric → its mean, the whole first."""
    ahead: Mapping[str, Mapping[str, Interval]]
    """Other system → metric → the whole minus it, list by list."""

    @property
    def text(self) -> str | None:
        """What text is worth there, in one sentence; None where no ranker without it was fitted."""
        gain = self.ahead.get(WITHOUT_TEXT)
        if gain is None:
            return None
        interval = gain[self.metrics[0]]
        if interval.value is None or interval.low is None or interval.high is None:
            return None
        of = f"{self.metrics[0]} {interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
        if interval.low > 0:
            return f"Text is worth {of} there."
        if interval.high < 0:
            return f"Text does harm there: {of}."
        return f"Whether text is worth anything there cannot be told: {of}."


WITHOUT_TEXT = "without text"


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """Everything the page shows that is not computed from the lists."""

    title: str = "Evaluation report"
    created_at: int | None = None
    """µs UTC of the run; said to be unknown when None."""
    model_version: str | None = None
    data: Facts | None = None
    """Rows, users, items, time range and resolution, rules broken, quarantine."""
    split: Facts | None = None
    """fit_until, windows, cuts, label scheme and why it was chosen."""
    release: Facts | None = None
    """What was evaluated (fit until) and what is released, and the overlap of their lists."""
    validation: Mapping[str, float] | None = None
    """Main metric → its value on validation, to be held against the test's."""
    stages: Sequence[StageCost | tuple[object, ...]] | None = None
    """Each output once: those made in this run, and those of earlier runs that were used again."""
    elapsed: float | None = None
    """Seconds from the start of the run until the page was written."""
    usage: Facts | None = None
    """What the run took: hours, bytes and money."""
    budget: Mapping[str, float] | None = None
    """Minutes given to each part of the night."""
    learning_curves: Sequence[Mapping[str, float]] | None = None
    """Encoder: step, loss, and optionally val (validation nDCG)."""
    encoder: Facts | None = None
    """What tuning the encoder gave beside its alternatives, and how its quality has aged."""
    ranker: RankerFacts | None = None
    sources: Sequence[SourceFact | tuple[object, ...]] | None = None
    gate: GateDecision | None = None
    seen: Facts | None = None
    """On the first screen: what each part of the evaluated and of the released models has seen."""
    masked: MaskedItems | None = None
    """On the first screen: items on which nobody has acted."""
    leak_checks: Sequence[Check | tuple[object, ...]] | None = None
    parity: Sequence[Check | tuple[object, ...]] | None = None
    """Batch against online features of served rows."""
    live: Mapping[str, Any] | None = None
    """What the lists of each version in service led to, as `live_outcomes.as_json` says it."""
    drift: Sequence[Mapping[str, object]] | None = None
    """Rows of the drift summary, e.g. from `drift.summary`: what, measure, value, level."""
    alarms: Sequence[str] = ()
    """Shown first, in red."""
    cut_short: Sequence[str] = ()
    """On the first screen: what time ended, a sentence each."""
    device: Facts | None = None
    """What the device affords each part."""
    warnings: Sequence[str] = ()
    failed_systems: Mapping[str, str] = field(default_factory=dict)
    """System that should have been compared with → why it could not be."""
    examples: Sequence[Example] | None = None
    position_bias: PositionBias | None = None
    off_policy: OffPolicy | None = None
    caveats: Sequence[str] = ()


def or_dash(value: float | None, form: str = ".4f") -> str:
    """A number in a format, `–` for none."""
    return "–" if value is None else f"{value:{form}}"


def to_the_minute(microseconds: int) -> str:
    """A moment of the data, `2026-11-01 10:00`."""
    return str(np.datetime64(microseconds, "us").astype("datetime64[m]")).replace("T", " ")


def day_and_time(microseconds: int | None) -> str:
    """A moment in words; the `fit_until` of something never fitted lies far before 1970."""
    if microseconds is None:
        return "not said"
    if microseconds <= 0:
        return "never fitted"
    moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
