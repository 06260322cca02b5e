"""The gate: may tonight's candidate take the champion's place?

A decision is a function of its evidence alone: `decide(config, Evidence) -> Decision`. What the
evidence is made of is collected in `gate_evidence`. Lists are always compared moment by moment.

    the champion's recipe, fitted again as of tonight's cuts   is the candidate as good as it?
    its recorded lists, its release at moments it never saw    did the data spoil both alike?
    the recorded lists of the best version of the last nights  did small losses add up?
    fusion of sources, popularity, single sources              is it worth anything at all?

Three answers. *Reject*: something speaks against the candidate (a leak, a guardrail, data beyond a
limit, a loss that is no chance). *Challenger*: nothing does, but it is not shown to be as good.
*Promote* otherwise. Where a window is too small to see a loss of `gate.margin`, the nights before
of the same two recipes are asked too; where that is too little, `gate.when_unsure` decides, and the
decision says that it was policy.

Shapes: G groups (test moments).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import GateConfig
from recsys.evaluation.drift import in_digits
from recsys.evaluation.uncertainty import PairedDifference, paired_difference
from recsys.features.draws import Doubles

PROMOTE, CHALLENGER, REJECT = "promote", "challenger", "reject"
SHOWN, LOSS, TOLERATED, UNSURE = "shown", "loss", "tolerated", "unsure"
"""What a difference says: surely no worse; surely worse; no loss although one beyond the margin
would have been seen; too little to say."""
DATA = "data and drift"
FLOOR = "not behind the fusion, popularity or a single source"


@dataclass(frozen=True)
class Paired:
    """The gate's metric of tonight's lists and of another's on the same moments."""

    ours: Doubles
    """float64[G], NaN where the moment has nothing to be found."""
    theirs: Doubles
    user: npt.NDArray[np.generic]
    """[G], whose moments they are; ids where nights are put together."""
    same: bool = False
    """Whether both list the same items in the same order at every moment."""

    def joined(self, other: "Paired") -> "Paired":
        """The moments of both; users must be named alike."""
        return Paired(
            np.concatenate([self.ours, other.ours]),
            np.concatenate([self.theirs, other.theirs]),
            np.concatenate([self.user, other.user]),
            self.same and other.same,
        )


@dataclass(frozen=True)
class Reference:
    """A system or version whose lists tonight's may not fall behind."""

    name: str
    steps: tuple[Paired, ...]
    """One where both were asked at the same moments; else one for each night between them, each
    night's lists against those it was compared with."""
    note: str = ""


@dataclass(frozen=True)
class OwnNights:
    """The gate's metric of tonight's lists, and of the champion's on its own night, on whatever
    moments each asked: what is left where the two share none."""

    ours: Doubles
    our_user: npt.NDArray[np.generic]
    theirs: Doubles
    their_user: npt.NDArray[np.generic]


@dataclass(frozen=True)
class ChampionEvidence:
    """What is known of the champion tonight."""

    version: int
    how: str
    """How it was made comparable, or why it cannot be compared."""
    lost: bool = False
    """Whether its files are gone, so that nothing can serve it."""
    overall: Paired | None = None
    """Against its lists; None where it cannot be compared."""
    segments: Mapping[str, Paired | None] = field(default_factory=dict)
    """Protected label → the same within it; None where nobody belongs to it."""
    same_recipe: bool = False
    """Whether a person has changed nothing since: the candidate is the same recipe on fresher
    data."""
    earlier: Paired | None = None
    """Moments of nights before, other than tonight's, that compared the same two recipes."""
    earlier_nights: int = 0
    recorded: Sequence[Reference] = ()
    """Its recorded lists at moments of tonight's test too, and its release where it has seen nothing."""
    own_nights: OwnNights | None = None
    """Given where recorded lists share too few moments with tonight's."""
    best: Sequence[Reference] = ()
    """Other versions that served in the last nights, by their recorded lists."""
    notes: Sequence[str] = ()
    """What could not be compared, and why."""


@dataclass(frozen=True)
class Evidence:
    """All that a decision rests on."""

    champion: ChampionEvidence | None
    """None where there is none."""
    floor: Sequence[Reference] = ()
    """What every night compares with: fusion, popularity, single sources."""
    guardrails: Sequence["Guardrail"] = ()
    """Numbers with limits; they warn only where there is no champion."""
    leaks: Sequence[str] = ()
    """Suspects by name; any refuses promotion, of a first model too."""
    stops: Sequence[str] = ()
    """Data or drift beyond a limit that stops; they warn only where there is no champion."""


@dataclass(frozen=True)
class GateRule:
    """One rule with what it found."""

    name: str
    passed: bool
    detail: str
    doubt: bool = False
    """A failure that shows no harm: the candidate is kept as challenger."""
    value: float | None = None
    limit: float | None = None
    room: float | None = None
    """How far the value is from its limit, negative beyond it."""
    relative: bool = False
    """Whether these three are shares of the other's value, to be read in percent."""
    alarm: bool = False
    """It would have refused, had there been a champion."""
    policy: bool = False
    """Decided by `gate.when_unsure`, not by what was seen."""

    @property
    def status(self) -> str:
        """In one word."""
        if self.alarm:
            return "alarm"
        if self.policy:
            return "policy"
        return "passed" if self.passed else "in doubt" if self.doubt else "FAILED"


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
    def room(self) -> float:
        return self.found - self.limit if self.at_least else self.limit - self.found

    @property
    def detail(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{in_digits(self.found, 4)}, limit {sign} {in_digits(self.limit, 4)}"


@dataclass
class Decision:
    """What the gate decided, and why."""

    action: str = PROMOTE
    champion: int | None = None
    rules: list[GateRule] = field(default_factory=list)
    headline: str = ""
    """The decision in one sentence."""
    power: str = ""
    """The smallest loss that could have been seen; empty where nothing was compared."""
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, passed: bool, detail: str, **more: Any) -> GateRule:
        """A rule with what it found; `more` are fields of GateRule."""
        rule = GateRule(name, passed, detail, **more)
        self.rules.append(rule)
        return rule

    @property
    def promoted(self) -> bool:
        return self.action == PROMOTE

    @property
    def failed(self) -> list[GateRule]:
        """Rules that did not pass, those that show harm first."""
        return sorted((r for r in self.rules if not r.passed), key=lambda rule: rule.doubt)

    @property
    def alarms(self) -> list[str]:
        """What would have refused; data and drift raise their own."""
        broken = (rule for rule in self.rules if rule.alarm and rule.name != DATA)
        return [f"{rule.name}: {rule.detail}" for rule in broken]

    @property
    def reasons(self) -> list[str]:
        """One line per rule, failed ones first, then what was policy or would have failed."""
        held = sorted((r for r in self.rules if r.passed), key=lambda r: not (r.policy or r.alarm))
        return [f"{rule.status}: {rule.name}: {rule.detail}" for rule in [*self.failed, *held]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, kept: Mapping[str, Any]) -> "Decision":
        """What `as_json` gave."""
        return cls(**{**kept, "rules": [GateRule(**rule) for rule in kept["rules"]]})


def decide(config: GateConfig, evidence: Evidence) -> Decision:
    """Apply every rule."""
    champion = evidence.champion
    first = champion is None or champion.lost
    decision = Decision(champion=champion.version if champion else None)
    _soundness(decision, evidence, first)
    if champion is None:
        decision.add("champion", True, "there is no champion to be worse than")
    elif champion.lost:
        why = f"nothing can serve version {champion.version}: {champion.how}"
        decision.add("champion", True, why)
    elif champion.overall is None:
        decision.add("champion", False, f"cannot be compared: {champion.how}", doubt=True)
    else:
        decision.add("champion", True, f"version {champion.version}, {champion.how}")
        _as_good_overall(decision, config, champion, champion.overall)
        _as_good_in_segments(decision, config, champion.segments)
    if champion is not None and not first:
        _as_recorded(decision, config, champion)
        _no_ratchet(decision, config, champion.best)
        decision.notes += champion.notes
    _above_the_floor(decision, config, evidence.floor, first)
    if decision.failed:
        decision.action = CHALLENGER if all(r.doubt for r in decision.failed) else REJECT
    decision.headline = _headline(decision)
    return decision


def veto(decision: Decision, name: str, reason: str) -> None:
    """Refuse a promotion that the rules would have allowed, for a reason of the user's own."""
    decision.add(name, False, reason)
    decision.action = REJECT
    decision.headline = _headline(decision)


def _soundness(decision: Decision, evidence: Evidence, first: bool) -> None:
    """Leaks, data and drift, guardrails."""
    for leak in evidence.leaks:
        decision.add("no leak", False, leak)
    if not evidence.leaks:
        decision.add("no leak", True, "nothing suspect was found")
    for stop in evidence.stops:
        decision.add(DATA, first, stop, alarm=first)
    if not evidence.stops:
        decision.add(DATA, True, "nothing is beyond a limit that stops")
    for rail in evidence.guardrails:
        numbers = {"value": rail.found, "limit": rail.limit, "room": rail.room}
        alarm = first and not rail.held
        decision.add(rail.name, rail.held or first, rail.detail, alarm=alarm, **numbers)


def _as_good_overall(
    decision: Decision, config: GateConfig, champion: ChampionEvidence, pairs: Paired
) -> None:
    """Non-inferiority on tonight's moments, then with earlier nights', then by policy."""
    name = "not worse than the champion (overall)"
    found = _difference(pairs)
    decision.power = f"Tonight's window: {_power(found, config.margin)}."
    said = verdict(found, config.margin, same=pairs.same)
    detail = _words(found, config.margin)
    if said == UNSURE and champion.earlier is not None:
        found = _difference(pairs.joined(champion.earlier))
        said = verdict(found, config.margin)
        nights = f"{champion.earlier_nights} earlier night" + "s" * (champion.earlier_nights > 1)
        detail = f"{detail}; with {nights} of the same two recipes {_words(found, config.margin)}"
        decision.power += f" With {nights}: {_power(found, config.margin)}."
    if pairs.same and said == SHOWN:
        detail = f"the same lists at all {len(pairs.ours):,} moments"
    numbers = _numbers(found, _least_as_good(found, config.margin))
    beyond = found.value < -config.margin * found.base
    if said != UNSURE or beyond:
        passed = said in (SHOWN, TOLERATED)
        decision.add(name, passed, detail, doubt=said == UNSURE, **numbers)
        return
    promote = _promotes_when_unsure(config, champion)
    detail = f"policy, not evidence ({_policy(config, champion)}): {detail}"
    decision.add(name, promote, detail, doubt=not promote, policy=True, **numbers)


def _promotes_when_unsure(config: GateConfig, champion: ChampionEvidence) -> bool:
    """The policy where nothing can be seen: a person's choice, or trust in an unchanged recipe."""
    if config.when_unsure == "auto":
        return champion.same_recipe
    return config.when_unsure == PROMOTE


def _policy(config: GateConfig, champion: ChampionEvidence) -> str:
    recipe = "the same recipe on fresher data" if champion.same_recipe else "a changed recipe"
    return f"gate.when_unsure: {config.when_unsure}, {recipe}"


def _as_good_in_segments(
    decision: Decision, config: GateConfig, segments: Mapping[str, Paired | None]
) -> None:
    """Every protected segment that is large enough, corrected for how many there are."""
    large = {
        label: pairs
        for label, pairs in segments.items()
        if pairs is not None and _users(pairs) >= config.min_group
    }
    for label, pairs in segments.items():
        if pairs is None:
            decision.add(label, True, "no list of tonight's test belongs to it: no rule applied")
        elif label not in large:
            few = f"{_users(pairs)} users, too few for its rule ({config.min_group})"
            decision.add(label, True, few)
    for label, pairs in large.items():
        found = _difference(pairs)
        said = verdict(found, config.segment_margin, len(large), same=pairs.same)
        beyond = found.value < -config.segment_margin * found.base
        decision.add(
            f"not worse than the champion ({label})",
            said in (SHOWN, TOLERATED) or (said == UNSURE and not beyond),
            _words(found, config.segment_margin, len(large)),
            doubt=said == UNSURE and beyond,
            **_numbers(found, _least_as_good(found, config.segment_margin, len(large))),
        )


def _as_recorded(decision: Decision, config: GateConfig, champion: ChampionEvidence) -> None:
    """A sure loss against what the champion itself has shown refuses; doubt does not.

    Its recipe fitted again cannot tell: data that spoil the candidate spoil that fit alike.
    """
    for reference in champion.recorded:
        _no_sure_loss(
            decision, config, f"not worse than {reference.name}", reference, champion.recorded
        )
    if champion.own_nights is not None:
        _no_great_fall(decision, config, champion.own_nights)


def _no_great_fall(decision: Decision, config: GateConfig, nights: OwnNights) -> None:
    """Other moments may be harder, so only a sure fall by more than a guardrail's loss counts, and
    it is a doubt: a person should look before such a model serves."""
    ours, theirs = (
        paired_difference(values, np.zeros_like(values), user)
        for values, user in ((nights.ours, nights.our_user), (nights.theirs, nights.their_user))
    )
    found = PairedDifference(
        ours.value - theirs.value,
        theirs.value,
        float(np.hypot(ours.error, theirs.error)),
        min(ours.users, theirs.users),
        min(ours.groups, theirs.groups),
    )
    half = _half(found, 1)
    limit = None if half is None else -(config.guardrail_margin + half)
    fell = limit is not None and found.value < limit * found.base
    detail = f"on other moments than then: {_words(found, config.guardrail_margin)}"
    name = "not far below what the champion's night measured"
    decision.add(name, not fell, detail, doubt=fell, **_numbers(found, limit))


def _no_ratchet(decision: Decision, config: GateConfig, best: Sequence[Reference]) -> None:
    """Losses that are tolerated night by night may not add up."""
    if best:
        worst = _hardest(best, config.margin)
        name = f"not worse than the best of the last {config.best_of_nights} nights"
        _no_sure_loss(decision, config, name, worst, best, prefix=f"{worst.name}: ")


def _above_the_floor(
    decision: Decision, config: GateConfig, floor: Sequence[Reference], first: bool
) -> None:
    """Surely behind what is there without a ranker: worth nothing, whoever is champion."""
    if floor:
        worst = _hardest(floor, config.margin)
        _no_sure_loss(decision, config, FLOOR, worst, floor, first, prefix=f"{worst.name}: ")


def _hardest(family: Sequence[Reference], margin: float) -> Reference:
    """Whom the candidate has the least room to, or is furthest behind of."""

    def room(reference: Reference) -> float:
        found = _of_steps(reference.steps)
        limit = _least_not_sure(found, margin, len(family))
        return np.inf if limit is None else found.value / found.base - limit

    return min(family, key=room)


def _no_sure_loss(
    decision: Decision,
    config: GateConfig,
    name: str,
    reference: Reference,
    family: Sequence[Reference],
    first: bool = False,
    prefix: str = "",
) -> None:
    """Failed where the whole interval, corrected for the family, is a loss and the loss itself is
    beyond the margin; a first model is only warned of."""
    found = _of_steps(reference.steps)
    limit = _least_not_sure(found, config.margin, len(family))
    lost = limit is not None and found.value < limit * found.base
    detail = prefix + _words(found, config.margin, len(family))
    detail += f"; {reference.note}" if reference.note else ""
    numbers = _numbers(found, limit)
    decision.add(name, first or not lost, detail, alarm=first and lost, **numbers)


def verdict(
    found: PairedDifference, margin: float, comparisons: int = 1, *, same: bool = False
) -> str:
    """What a difference says about a loss of `margin` × the other's value; see `SHOWN`."""
    interval, visible = found.interval(comparisons), found.visible_loss(comparisons)
    if interval.low is None or interval.high is None:
        return UNSURE
    limit = -margin * found.base
    if same or (interval.low >= limit and visible is not None):
        return SHOWN
    if interval.high < 0:
        return LOSS
    if visible is not None and visible <= margin and found.value >= limit:
        return TOLERATED
    return SHOWN if interval.low > 0 else UNSURE


def _difference(pairs: Paired) -> PairedDifference:
    return paired_difference(pairs.ours, pairs.theirs, pairs.user)


def _of_steps(steps: Sequence[Paired]) -> PairedDifference:
    """One comparison, or the nights between multiplied: relative differences compound, and their
    errors add as those of independent windows (assumed)."""
    found = [_difference(step) for step in steps]
    if len(found) == 1:
        return found[0]
    if any(f.base <= 0 for f in found):
        return PairedDifference(0.0, 0.0, 0.0, 0, 0)
    change = float(np.prod([1.0 + f.value / f.base for f in found]))
    error = float(np.sqrt(sum((f.error / f.base) ** 2 for f in found)))
    users, groups = min(f.users for f in found), min(f.groups for f in found)
    return PairedDifference(change - 1.0, 1.0, error, users, groups)


def _users(pairs: Paired) -> int:
    return len(np.unique(pairs.user[np.isfinite(pairs.ours)]))


def _words(found: PairedDifference, margin: float, comparisons: int = 1) -> str:
    low, high = found.interval(comparisons)[1:3]
    if not found.base:
        return f"difference {found.value:+.4f} to nothing found by the other; {found.users:,} users"
    ends = ", ".join("–" if end is None else f"{end / found.base:+.1%}" for end in (low, high))
    return (
        f"difference {found.value:+.4f}, {found.value / found.base:+.1%} [{ends}] of its "
        f"{found.base:.4f}, tolerated {-margin:+.1%}; {found.users:,} users"
    )


def _power(found: PairedDifference, margin: float) -> str:
    visible = found.visible_loss()
    if visible is None:
        return f"{found.users:,} users, too few to see any loss"
    enough = "within" if visible <= margin else "above"
    return (
        f"the smallest loss that would have been seen (4 times in 5) is {visible:.1%} of the "
        f"champion's value, {enough} the margin of {margin:.1%}; {found.users:,} users"
    )


def _numbers(found: PairedDifference, limit: float | None) -> dict[str, Any]:
    """Value, limit and room of a rule about a relative loss; no limit where nothing can be sure."""
    if not found.base:
        return {}
    share = found.value / found.base
    room = None if limit is None else share - limit
    return {"value": share, "limit": limit, "room": room, "relative": True}


def _half(found: PairedDifference, comparisons: int) -> float | None:
    """Half of the interval, as a share of the other's value."""
    high = found.interval(comparisons).high
    return None if high is None or not found.base else (high - found.value) / found.base


def _least_as_good(found: PairedDifference, margin: float, comparisons: int = 1) -> float:
    """The smallest difference that `verdict` neither takes for a loss nor doubts: what is shown to
    be within the margin, what is no sure loss, and at any rate what is not beyond the margin."""
    half = _half(found, comparisons)
    return -margin if half is None else max(-margin, min(-half, half - margin))


def _least_not_sure(found: PairedDifference, margin: float, comparisons: int) -> float | None:
    """The smallest difference that is no sure loss beyond the margin."""
    half = _half(found, comparisons)
    return None if half is None else -max(margin, half)


def _headline(decision: Decision) -> str:
    """The decision in one sentence."""
    if not decision.promoted:
        named = "; ".join(dict.fromkeys(rule.name for rule in decision.failed))
        stays = f"version {decision.champion} stays" if decision.champion else "nothing is released"
        if decision.action == CHALLENGER:
            policy = any(rule.policy for rule in decision.failed)
            why = " (policy, not evidence)" if policy else ""
            return f"Kept as challenger{why}, {stays}: {named}."
        return f"Refused, {stays}: {named}."
    broken = len(decision.alarms)
    alarms = f", with {broken} rule{'s' * (broken > 1)} broken" if broken else ""
    overall = next((r for r in decision.rules if r.name.endswith("(overall)")), None)
    if overall is None:
        return f"Promoted{alarms}: there is no champion to be worse than."
    over = f"Promoted over version {decision.champion}"
    if overall.policy:
        return f"{over} by policy, not by evidence: the window is too small to see a loss."
    return f"{over}: {overall.detail}."
