"""What a new policy would have earned, from a log of what the old one did.

Needs the chance with which each logged choice was made. Estimates are refused, in words, where
too few logged choices speak for the new policy: a weighted mean of a handful of rows is worse
than no number.

Shapes: n logged choices (one shown item or list each).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.evaluation.lists import Doubles
from recsys.evaluation.uncertainty import Interval, bootstrap_ratios

LEAST_EFFECTIVE = 100.0
"""Effective choices below which no estimate is given (assumed)."""
CLIP = 100.0
"""Largest weight; clipping trades variance for a bias towards the logged policy."""


@dataclass(frozen=True)
class LoggedChoices:
    """n choices of the logging policy and what came of them.

    `propensity` is the logging policy's chance of the choice, in (0, 1]; `target` the new
    policy's chance of the same choice, in [0, 1]; `reward` what was earned; `user` the cluster.
    For the doubly robust estimate: `predicted` is a model's reward of the logged choice and
    `expected` its mean reward under the new policy.

    Raises:
        UsageError: lengths differ, or only one of `predicted` and `expected` is given.
        DataRefused: a chance lies outside its range or is missing.
    """

    propensity: Doubles
    target: Doubles
    reward: Doubles
    user: npt.NDArray[np.integer]
    predicted: Doubles | None = None
    expected: Doubles | None = None

    def __post_init__(self) -> None:
        lengths = [len(c) for c in vars(self).values() if c is not None]
        if len(set(lengths)) != 1 or (self.predicted is None) != (self.expected is None):
            raise UsageError(
                "columns of the logged choices do not fit together",
                where="off-policy evaluation",
                found=f"lengths {lengths}",
                expected="one length; predicted and expected both or neither",
            )
        wrong = int((~((self.propensity > 0) & (self.propensity <= 1))).sum())
        wrong += int((~((self.target >= 0) & (self.target <= 1))).sum())
        if wrong:
            raise DataRefused(
                "logged chances are missing or out of range",
                where="impressions, propensities",
                found=f"{wrong} of {2 * len(self.user)} values",
                expected="propensity in (0, 1], target in [0, 1]",
                fix="log the chance of every choice, or leave off-policy estimates out",
            )


@dataclass(frozen=True)
class OffPolicy:
    """What another choice would have earned: estimates by name (`ips`, `snips`, `doubly_robust`), or why
    there are none."""

    reward: str
    """What counts as earned, in words."""
    choices: int
    estimates: Mapping[str, Interval]
    logged: float
    """Mean reward of the logging policy on the same choices."""
    effective: float
    """(Σw)² / Σw²: how many equally weighted choices the estimate rests on."""
    clipped: float
    """Share of choices whose weight was cut at the clip."""
    refused: str | None


def off_policy(
    log: LoggedChoices,
    *,
    reward: str = "",
    clip: float = CLIP,
    least_effective: float = LEAST_EFFECTIVE,
    resamples: int = 1000,
    seed: int = 7,
) -> OffPolicy:
    """Estimate the new policy's mean reward with intervals by user.

    Args:
        log: logged choices with their chances, and the chance under the new policy.
        reward: what counts as earned, in words.
        clip: largest weight of one choice.
        least_effective: effective number of choices below which no estimate is made.
        resamples: bootstrap resamples of users.
        seed: of the draws; the same seed gives the same numbers.
    """
    raw = log.target / log.propensity
    weight = np.minimum(raw, clip)
    squares = float((weight**2).sum())
    effective = float(weight.sum()) ** 2 / squares if squares else 0.0
    clipped = float((raw > clip).mean()) if len(raw) else 0.0
    logged = float(log.reward.mean()) if len(raw) else float("nan")
    if effective < least_effective:
        reason = (
            f"only {effective:.0f} effective choices of {len(raw):,} logged, {least_effective:.0f} "
            "needed: the new policy rarely does what was logged"
        )
        return OffPolicy(reward, len(raw), {}, logged, effective, clipped, reason)
    ones = np.ones(len(raw))
    above, below, names = [weight * log.reward] * 2, [ones, weight], ["ips", "snips"]
    if log.predicted is not None and log.expected is not None:
        names.append("doubly_robust")
        above.append(log.expected + weight * (log.reward - log.predicted))
        below.append(ones)
    result = bootstrap_ratios(
        np.column_stack(above), np.column_stack(below), log.user, resamples=resamples, seed=seed
    )
    found = {name: result.interval(column) for column, name in enumerate(names)}
    return OffPolicy(reward, len(raw), found, logged, effective, clipped, None)
