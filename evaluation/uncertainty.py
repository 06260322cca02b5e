"""How sure the numbers are: a paired bootstrap that resamples users.

A user's groups depend on each other, so users, not groups, are drawn with replacement. All columns
(a metric of a system, or a difference of two systems group by group) are resampled with the same
draws, which is what makes a difference paired. Everything is decided by the seed.

Shapes: G groups, M columns, U users, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import Doubles, Longs
from recsys.features.ragged import first_of_runs

LEVEL = 0.95
"""Coverage of every interval."""
CHUNK = 64
"""Resamples drawn at once: 64 × 50,000 users × 8 bytes = 26 MB of weights."""
FEW_USERS = 10
"""Below this many users an interval is not given: a bootstrap of so few is not believed."""
POWER = 0.8
"""Chance of being found that a loss must have to count as visible (the usual 80 %)."""


class Interval(NamedTuple):
    """A mean over groups with its interval; None where there is nothing to say."""

    value: float | None
    low: float | None
    high: float | None
    groups: int
    """Groups in which the metric has a value."""
    users: int
    """Users those groups belong to."""


@dataclass(frozen=True)
class Bootstrapped:
    """Means of M columns and their resampled means: `estimate` [M], `replicates` [B, M],
    `groups` and `users` [M] with a value."""

    estimate: Doubles
    replicates: Doubles
    groups: Longs
    users: Longs

    def interval(self, column: int, level: float = LEVEL) -> Interval:
        """Percentile interval, widened for few users.

        The percentiles are those at which a normal interval would become a t interval with
        variance divided by U - 1 (Hesterberg 2015, "expanded percentile"); without it intervals
        of 20 users cover about 93 %, not 95 %.
        """
        users, groups = int(self.users[column]), int(self.groups[column])
        value = _plain(self.estimate[column])
        if users < FEW_USERS:
            return Interval(value, None, None, groups, users)
        tail = _expanded_tail((1.0 - level) / 2.0, users)
        resampled = self.replicates[:, column]
        resampled = resampled[np.isfinite(resampled)]
        low, high = np.quantile(resampled, [tail, 1.0 - tail])
        return Interval(value, float(low), float(high), groups, users)

    def corrected(self, column: int, comparisons: int, level: float = LEVEL) -> Interval:
        """Interval that holds for all of `comparisons` at once (Bonferroni).

        Its tails lie beyond what B resamples can show, so it is estimate ± t × standard error.
        """
        plain = self.interval(column, level)
        if plain.low is None or plain.value is None:
            return plain
        half = t_quantile(1.0 - (1.0 - level) / (2.0 * comparisons), plain.users)
        half *= self.standard_error(column)
        return plain._replace(low=plain.value - half, high=plain.value + half)

    def differences(self, pairs: Longs) -> "Bootstrapped":
        """Columns pairs[:, 0] minus pairs[:, 1] (int[P, 2]), defined on the same groups."""
        a, b = pairs[:, 0], pairs[:, 1]
        return Bootstrapped(
            self.estimate[a] - self.estimate[b],
            self.replicates[:, a] - self.replicates[:, b],
            self.groups[a],
            self.users[a],
        )

    def standard_error(self, column: int) -> float:
        """Standard deviation over resamples, corrected for few users."""
        users = int(self.users[column])
        spread = float(np.nanstd(self.replicates[:, column]))
        return spread * float(np.sqrt(users / (users - 1))) if users > 1 else float("nan")

    def p_value(self, column: int) -> float | None:
        """Two-sided p of "the mean is 0"; None below `FEW_USERS` users."""
        from scipy.special import stdtr

        users = int(self.users[column])
        if users < FEW_USERS:
            return None
        error, value = self.standard_error(column), float(self.estimate[column])
        if error == 0.0:
            return 1.0 if value == 0.0 else 0.0
        return float(2.0 * stdtr(users - 1, -abs(value) / error))


@dataclass(frozen=True)
class PairedDifference:
    """Mean of one system minus another's over the same groups; see `paired_difference`."""

    value: float
    base: float
    """The other's mean."""
    error: float
    """Standard error of `value`."""
    users: int
    groups: int

    def interval(self, comparisons: int = 1, level: float = LEVEL) -> Interval:
        """value ± t × error, which holds for all of `comparisons` at once (Bonferroni)."""
        if self.users < FEW_USERS:
            return Interval(self.value, None, None, self.groups, self.users)
        half = self._t(comparisons, level) * self.error
        return Interval(self.value, self.value - half, self.value + half, self.groups, self.users)

    def visible_loss(self, comparisons: int = 1, level: float = LEVEL) -> float | None:
        """The smallest true loss, as a share of `base`, whose interval lies below 0 with chance
        `POWER`: (t + z) × error / base. None for few users, or where there is nothing to lose."""
        from scipy.special import ndtri

        if self.users < FEW_USERS or self.base <= 0:
            return None
        return float((self._t(comparisons, level) + ndtri(POWER)) * self.error / self.base)

    def _t(self, comparisons: int, level: float) -> float:
        return t_quantile(1.0 - (1.0 - level) / (2.0 * comparisons), self.users)


def paired_difference(
    ours: Doubles, theirs: Doubles, user: npt.NDArray[np.generic]
) -> PairedDifference:
    """Difference of two systems on the same groups, with users as what was drawn.

    The error is that of a mean over clusters, which is what resampling users comes to, plus that of
    two users who were not seen: one who gains a usual hit and one who loses it. For pairs of hit
    and miss this is Bonett and Price's adjustment (2012); without it a window where by luck
    nobody's list changed would pass for proof that nothing changes.

    Args:
        ours, theirs: float64[G], NaN where undefined; such groups are left out.
        user: [G], whose groups they are; any values that can be sorted.
    """
    defined = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[defined], theirs[defined]
    code = np.unique(user[defined], return_inverse=True)[1]
    groups, users = len(ours), int(code.max(initial=-1)) + 1
    if not groups:
        return PairedDifference(0.0, 0.0, 0.0, 0, 0)
    change = ours - theirs
    value = float(change.mean())
    off = np.bincount(code, weights=change - value, minlength=users)
    seen = float((off**2).sum()) * users / max(users - 1, 1) / groups**2
    hits = theirs[theirs > 0] if (theirs > 0).any() else ours[ours > 0]
    usual = float(hits.mean()) if len(hits) else 0.0
    error = float(np.sqrt(seen + 2.0 * (usual / users) ** 2))
    return PairedDifference(value, float(theirs.mean()), error, users, groups)


def joined(parts: Sequence[Bootstrapped]) -> Bootstrapped:
    """The columns of several parts side by side; all must come of the same users and seed."""
    return Bootstrapped(
        np.concatenate([p.estimate for p in parts]),
        np.concatenate([p.replicates for p in parts], axis=1),
        np.concatenate([p.groups for p in parts]),
        np.concatenate([p.users for p in parts]),
    )


def bootstrap(
    columns: Doubles, user: npt.NDArray[np.integer], *, resamples: int, seed: int
) -> Bootstrapped:
    """Means of columns: `columns` float[G, M] with NaN where undefined, `user` int[G].

    The mean of a resample is Σ weight × values / Σ weight × defined groups, so a user with more
    groups weighs more, as in the plain mean over groups. Undefined groups are left out of both.
    """
    defined = np.isfinite(columns)
    values = np.where(defined, columns, 0.0)
    return bootstrap_ratios(
        values, defined.astype(np.float64), user, resamples=resamples, seed=seed
    )


def bootstrap_ratios(
    above: Doubles,
    below: Doubles,
    user: npt.NDArray[np.integer],
    *,
    resamples: int,
    seed: int,
) -> Bootstrapped:
    """Ratios Σ above / Σ below of M columns, resampled by user. A column's `groups` counts its rows with below > 0.

    Args:
        above: float[G, M], numerators.
        below: float[G, M], denominators, not negative.
        user: int[G], user of each row; users are resampled whole.
        resamples: number of resamples.
        seed: of the draws; the same seed gives the same numbers.
    """
    above_by_user, below_by_user = _by_user(above, user), _by_user(below, user)
    estimate = _ratio(above_by_user.sum(0), below_by_user.sum(0))
    # Many columns share their denominators (the same groups are defined): multiply each once.
    shared, which = _distinct_columns(below_by_user)
    rng = np.random.default_rng(seed)
    replicates = np.empty((resamples, above.shape[1]))
    n = len(above_by_user)
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        weights = _draws(rng, size, n)
        replicates[start : start + size] = _ratio(
            weights @ above_by_user, (weights @ shared)[:, which]
        )
    return Bootstrapped(
        estimate,
        replicates,
        (below > 0).sum(0).astype(np.int64),
        (below_by_user > 0).sum(0).astype(np.int64),
    )


def _draws(rng: np.random.Generator, size: int, n: int) -> Doubles:
    """float64[size, n]: how often each of n users is drawn in n draws with replacement."""
    weights = np.zeros((size, n))
    for row in range(size if n else 0):
        weights[row] = np.bincount(rng.integers(0, n, n), minlength=n)
    return weights


def _distinct_columns(table: Doubles) -> tuple[Doubles, Longs]:
    """The distinct columns, and for each column which of them it is."""
    place: dict[bytes, int] = {}
    which = np.array(
        [place.setdefault(column.tobytes(), len(place)) for column in table.T], np.int64
    )
    first = np.unique(which, return_index=True)[1] if len(which) else which
    return table[:, first], which


def _by_user(rows: Doubles, user: npt.NDArray[np.integer]) -> Doubles:
    """Sums [U, M] of rows [G, M]."""
    if not len(user):
        return np.zeros((0, rows.shape[1]))
    order = np.argsort(user, kind="stable")
    ranked = user[order]
    first = first_of_runs(ranked)
    if first.all():
        return rows[order]
    starts = np.flatnonzero(first)
    return np.asarray(np.add.reduceat(rows[order], starts, axis=0), np.float64)


def jackknife(leave_out: Doubles, whole: float, users: int, level: float = LEVEL) -> Interval:
    """Interval of a number that is not a mean (coverage, Gini) from F leave-one-fold-out values.

    `leave_out` float[F] are the values without each fold of users. The folds' spread gives the
    standard error (delete-a-group jackknife); the interval is value ± t × error, inside [0, 1].
    """
    folds = len(leave_out)
    if users < FEW_USERS or folds < 2 or not np.isfinite(leave_out).all():
        return Interval(_plain(whole), None, None, users, users)
    error = np.sqrt((folds - 1) / folds * ((leave_out - leave_out.mean()) ** 2).sum())
    half = t_quantile(1.0 - (1.0 - level) / 2.0, folds) * float(error)
    return Interval(whole, max(0.0, whole - half), min(1.0, whole + half), users, users)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; None (not tested) stays None and is not counted."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, place) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        corrected[place] = running
    return corrected


def _ratio(above: Doubles, below: Doubles) -> Doubles:
    out = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def t_quantile(probability: float, users: float) -> float:
    """Of Student's distribution for that many independent users."""
    from scipy.special import stdtrit

    return float(stdtrit(users - 1, probability))


def _expanded_tail(tail: float, users: int) -> float:
    from scipy.special import ndtr

    return float(ndtr(np.sqrt(users / (users - 1)) * -t_quantile(1.0 - tail, users)))
