"""What an experiment's counts say: a difference with two intervals, whether the arms got their share,
what interleaving prefers, and how long until a difference that matters could be seen.

Units of one person depend on each other, so errors come from sums by cluster (person), whichever the
unit is. Two intervals stand side by side: one for a look at a time fixed beforehand, and one that holds
at every look (an asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024,
"Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52). Only
the second may stop an experiment early.

Shapes: C clusters; two arms, the control first.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.evaluation.uncertainty import LEVEL, POWER, Interval, t_quantile
from recsys.features.draws import Doubles

LEAST_CLUSTERS: Final = 100
"""Clusters below which no interval is given: both rest on a central limit (assumed)."""
SRM_ALARM: Final = 0.001
"""Chance of such shares, if the split were as planned, below which nothing else is to be read
(Fabijan et al. 2019)."""
SRM_PRIOR: Final = 100.0
"""Strength of the prior around the planned share, in units (Lindon and Malek 2022)."""
MOST_UNITS: Final = 1e12


class Settings(NamedTuple):
    """How intervals are made."""

    level: float = LEVEL
    tightest_at: float = 10_000.0
    """Clusters at which the interval for every look is narrowest."""


@dataclass(frozen=True)
class Estimate:
    """A number with its intervals; both are None where there are too few clusters."""

    value: float | None
    fixed: Interval
    """Holds at one look whose time was fixed beforehand."""
    always: Interval
    """Holds at all looks together."""
    error: float
    """Standard error; NaN where there is none."""

    @property
    def decided(self) -> str | None:
        """`above` or `below` 0 by the interval that holds at every look; None while it holds 0."""
        if self.always.low is not None and self.always.low > 0:
            return "above"
        if self.always.high is not None and self.always.high < 0:
            return "below"
        return None


@dataclass(frozen=True)
class Rates:
    """Two arms' rates and the difference challenger − control."""

    control: float | None
    challenger: float | None
    difference: Estimate

    @property
    def relative(self) -> float | None:
        """The difference as a share of the control's rate."""
        if not self.control or self.difference.value is None:
            return None
        return self.difference.value / self.control


def estimate(value: float, influence: Doubles, settings: Settings) -> Estimate:
    """A mean-like number with its intervals.

    Args:
        value: the number.
        influence: float64[C], what each cluster adds to value − truth, to first order; sums to 0.
        settings: level, and where the interval for every look is narrowest.
    """
    clusters = len(influence)
    bare = Interval(value if np.isfinite(value) else None, None, None, clusters, clusters)
    if clusters < LEAST_CLUSTERS or not np.isfinite(value):
        return Estimate(bare.value, bare, bare, float("nan"))
    error = float(np.sqrt((influence**2).sum() * clusters / (clusters - 1)))
    fixed = fixed_factor(clusters, settings.level) * error
    always = always_factor(clusters, settings) * error
    return Estimate(
        value,
        bare._replace(low=value - fixed, high=value + fixed),
        bare._replace(low=value - always, high=value + always),
        error,
    )


def fixed_factor(clusters: float, level: float) -> float:
    """Standard errors on each side of an interval for one look: a t quantile."""
    return t_quantile(1.0 - (1.0 - level) / 2.0, clusters)


def always_factor(clusters: float, settings: Settings) -> float:
    """Standard errors on each side of an interval for every look, theorem 2.2 of the paper named above:
    √(2 (tρ²+1)/(tρ²) · ln(√(tρ²+1)/α)), where ρ is chosen for `tightest_at` as in its appendix."""
    alpha = 1.0 - settings.level
    rho2 = (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))) / settings.tightest_at
    grown = clusters * rho2 + 1.0
    return float(np.sqrt(2.0 * grown / (clusters * rho2) * np.log(np.sqrt(grown) / alpha)))


def compare_rates(
    above: Doubles,
    below: Doubles,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
) -> Rates:
    """Rates Σ above / Σ below of two arms, and their difference.

    The error of a ratio is that of its first-order influence (delta method; Deng, Knoblich and Lu
    2018). A cluster may have counts in both arms, where sessions of one person are the units: its
    influences are then subtracted before they are squared.

    Args:
        above: float64[C, 2], what is counted, by cluster and arm.
        below: float64[C, 2], what it is counted per; a cluster without any is left out.
        settings: of the intervals.
    """
    seen = (below > 0).any(1)
    above, below = above[seen], below[seen]
    total = below.sum(0)
    rates = [float(above[:, arm].sum() / total[arm]) if total[arm] > 0 else None for arm in (0, 1)]
    if rates[0] is None or rates[1] is None:
        nothing = Interval(None, None, None, 0, len(above))
        return Rates(rates[0], rates[1], Estimate(None, nothing, nothing, float("nan")))
    influence = (above - np.array(rates) * below) / total
    found = estimate(rates[1] - rates[0], influence[:, 1] - influence[:, 0], settings)
    return Rates(rates[0], rates[1], found)


def preference(
    credit: Doubles,
    person: npt.NDArray[np.integer],
    settings: Settings = Settings(),  # noqa: B008 (immutable)
) -> Estimate:
    """How much of what was acted on in interleaved lists was the challenger's: Chapelle, Joachims,
    Radlinski and Yue 2012, "Large-scale validation and analysis of interleaved search evaluation".

    The value is (lists it won + half of the ties) / (lists with credit) − ½, above 0 where the
    challenger is preferred.

    Args:
        credit: float64[L], the challenger's credit minus the control's in each list in which something
            was acted on.
        person: int[L], whose list it was.
        settings: of the intervals.
    """
    if not len(credit):
        nothing = Interval(None, None, None, 0, 0)
        return Estimate(None, nothing, nothing, float("nan"))
    won = np.sign(credit) / 2.0
    code = np.unique(person, return_inverse=True)[1]
    value = float(won.mean())
    lists = np.bincount(code)
    influence = (np.bincount(code, won) - value * lists) / len(credit)
    return estimate(value, influence, settings)


def sample_ratio(units: tuple[int, int], share: float) -> float:
    """Chance-like measure of the arms' sizes under the planned share; small is bad.

    One over the Bayes factor of a beta prior around the share against the share itself: a p-value that
    holds at every look (Lindon and Malek 2022, "Anytime-valid inference for multinomial count data").

    Args:
        units: units in control and challenger.
        share: planned share of the challenger, in (0, 1).
    """
    from scipy.special import betaln

    control, challenger = units
    a, b = SRM_PRIOR * share, SRM_PRIOR * (1.0 - share)
    mixed = betaln(a + challenger, b + control) - betaln(a, b)
    planned = challenger * np.log(share) + control * np.log1p(-share)
    return float(np.exp(min(0.0, planned - mixed)))


def clusters_needed(
    rates: Rates, clusters: int, margin: float, settings: Settings, *, always: bool = True
) -> float | None:
    """Clusters at which a true difference of `margin` (a share of the control's rate) leaves 0 outside
    the interval with chance `POWER`, if people go on as they do; None where nothing can be said."""
    from scipy.special import ndtri

    if not rates.control or not np.isfinite(rates.difference.error) or margin <= 0:
        return None
    per_cluster = rates.difference.error * np.sqrt(clusters)
    wanted, chance = margin * rates.control, float(ndtri(POWER))
    if per_cluster == 0.0:
        return float(LEAST_CLUSTERS)

    def enough(n: float) -> bool:
        factor = always_factor(n, settings) if always else fixed_factor(n, settings.level)
        return bool((factor + chance) * per_cluster / np.sqrt(n) <= wanted)

    low, high = float(LEAST_CLUSTERS), MOST_UNITS
    if enough(low) or not enough(high):
        return low if enough(low) else None
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return float(np.ceil(high))
