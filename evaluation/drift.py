"""How far tonight's data lies from the reference it is compared with.

PSI (population stability index) and Jensen-Shannon divergence between two distributions, and the
change of a share. PSI of two samples of one distribution is not 0 but about
(bins - 1) × (1/n + 1/m); limits are raised by twice that, so a small night is no alarm.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import DriftConfig
from recsys.evaluation.lists import Doubles

Level = Literal["ok", "warn", "stop"]


USUAL = DriftConfig()


class Drift(NamedTuple):
    """One row of the drift table; `_asdict()` is what the page takes."""

    what: str
    measure: str
    value: float
    limit: float
    """Where it would have warned."""
    level: Level
    detail: str

    def in_words(self) -> str:
        """The finding as one line."""
        value, limit = in_digits(self.value), in_digits(self.limit)
        return f"{self.what}: {self.measure} {value}, limit {limit} ({self.detail})"


def in_digits(value: float, digits: int = 3) -> str:
    """A number in so many significant digits, whole ones with thousands, never with an exponent.

    >>> in_digits(1132.6), in_digits(3.0), in_digits(0.00012345)
    ('1,133', '3', '0.000123')
    """
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


SMOOTH = 0.5
"""Added to every bin's count, so that an empty bin is finite."""
TOP = 50
"""Categories compared one by one; the rest is one bin."""


def categories(
    what: str,
    reference: Sequence[object] | npt.NDArray[np.generic],
    current: Sequence[object] | npt.NDArray[np.generic],
    limits: DriftConfig = USUAL,
) -> Drift:
    """Drift of a categorical column: event types, items, categories, surfaces."""
    names, code = np.unique(
        np.concatenate([np.asarray(reference).astype(str), np.asarray(current).astype(str)]),
        return_inverse=True,
    )
    before = np.bincount(code[: len(reference)], minlength=len(names)).astype(np.float64)
    after = np.bincount(code[len(reference) :], minlength=len(names)).astype(np.float64)
    order = np.argsort(-(before + after), kind="stable")
    if len(order) > TOP:
        rest = order[TOP:]
        names = np.append(names[order[:TOP]], "all others")
        before = np.append(before[order[:TOP]], before[rest].sum())
        after = np.append(after[order[:TOP]], after[rest].sum())
    return _compared(what, before, after, [str(n) for n in names], limits)


def histograms(
    what: str,
    before: Doubles,
    after: Doubles,
    names: Sequence[str],
    limits: DriftConfig = USUAL,
) -> Drift:
    """Drift of a distribution already counted; a histogram's sum is the number of independent
    observations in it. Count each user once (their events' shares) where users bring many events:
    one user's busy evening is no drift.

    Args:
        what: name of the row.
        before: float64[b], counts of the reference.
        after: float64[b], counts of the current data in the same bins.
        names: [b] what each bin holds.
        limits: PSI from which the row warns and stops.
    """
    return _compared(what, before, after, names, limits)


def numbers(
    what: str,
    reference: npt.NDArray[np.floating],
    current: npt.NDArray[np.floating],
    limits: DriftConfig = USUAL,
    bins: int = 10,
) -> Drift:
    """Drift of a numeric column (a feature, a score): bins of equal reference counts; a missing
    value is a bin of its own.

    Args:
        what: name of the row.
        reference: float[n], earlier values; not finite is missing.
        current: float[m], values of now.
        limits: PSI from which the row warns and stops.
        bins: number of bins, equal in reference counts.
    """
    known = reference[np.isfinite(reference)]
    inside = np.linspace(0, 1, bins + 1)[1:-1] if len(known) else np.empty(0)
    edges = np.unique(np.quantile(known, inside)) if len(known) else inside
    before, after = _binned(reference, edges), _binned(current, edges)
    inner = [in_digits(e, 4) for e in edges]
    names = [f"{a} to {b}" for a, b in zip(["lowest", *inner], [*inner, "highest"], strict=True)]
    return _compared(what, before, after, [*names, "missing"], limits)


RISE = "rise of share"


def share(
    what: str,
    reference: float,
    current: float,
    limits: DriftConfig = USUAL,
) -> Drift:
    """Change of a share, e.g. of cold items or of missing values."""
    change = abs(current - reference)
    level = level_of(change, limits.share_warn, limits.share_stop)
    detail = f"from {reference:.1%} to {current:.1%}"
    return Drift(what, "change of share", change, limits.share_warn, level, detail)


def rise(what: str, reference: float, current: float, limits: DriftConfig = USUAL) -> Drift:
    """Rise of a share of which only more is a fault: of unknown users, items or words. A fall is what
    data looks like that keeps users with a least number of events, or a shop that brings nothing new."""
    found = share(what, reference, current, limits)
    if current >= reference:
        return found._replace(measure=RISE)
    return found._replace(measure=RISE, value=0.0, level="ok")


def vocabulary(
    what: str,
    reference: Sequence[str],
    current: Sequence[str],
    limits: DriftConfig = USUAL,
) -> Drift:
    """Share of current word occurrences that no reference text holds: new topics, a changed
    language, a broken encoding."""
    known = {word for text in reference for word in text.lower().split()}
    words = [word for text in current for word in text.lower().split()]
    fresh = [word for word in words if word not in known]
    value = len(fresh) / len(words) if words else 0.0
    names, counts = np.unique(np.array(fresh, dtype=str), return_counts=True)
    most = [str(n) for n in names[np.argsort(-counts, kind="stable")][:5]]
    detail = "most frequent new words: " + ", ".join(most) if most else "no new words"
    level = level_of(value, limits.share_warn, limits.share_stop)
    return Drift(what, "share of new words", value, limits.share_warn, level, detail)


def summary(rows: Sequence[Drift]) -> list[dict[str, object]]:
    """Rows for the page, the worst first."""
    order = {"stop": 0, "warn": 1, "ok": 2}
    ranked = sorted(rows, key=lambda r: (order[r.level], -r.value / max(r.limit, 1e-12)))
    return [dict(row._asdict()) for row in ranked]


def psi(before: Doubles, after: Doubles) -> float:
    """Σ (q - p) ln(q / p) over bins, p and q the smoothed shares of two histograms."""
    p, q = _shares(before), _shares(after)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(before: Doubles, after: Doubles) -> float:
    """Jensen-Shannon divergence in bits, 0 (equal) to 1 (disjoint)."""
    p, q = before / max(before.sum(), 1e-300), after / max(after.sum(), 1e-300)
    middle = (p + q) / 2.0
    return float((_surprise(p, middle) + _surprise(q, middle)) / 2.0)


def _surprise(p: Doubles, q: Doubles) -> float:
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())


def _shares(counts: Doubles) -> Doubles:
    smoothed = counts + SMOOTH
    return np.asarray(smoothed / smoothed.sum(), np.float64)


def _binned(values: npt.NDArray[np.floating], edges: Doubles) -> Doubles:
    known = np.isfinite(values)
    place = np.searchsorted(edges, values[known], "right")
    counts = np.bincount(place, minlength=len(edges) + 1).astype(np.float64)
    return np.append(counts, float((~known).sum()))


def _compared(
    what: str, before: Doubles, after: Doubles, names: Sequence[str], limits: DriftConfig
) -> Drift:
    n, m = before.sum(), after.sum()
    if n == 0 or m == 0:
        side = "reference" if n == 0 else "current"
        return Drift(what, "PSI", 0.0, limits.psi_warn, "warn", f"no rows in the {side} window")
    noise = 2.0 * (np.count_nonzero(before + after) - 1) * (1.0 / n + 1.0 / m)
    value = psi(before, after)
    level = level_of(value, limits.psi_warn + noise, limits.psi_stop + noise)
    change = after / m - before / n
    most = int(np.argmax(np.abs(change)))
    detail = (
        f"largest change: {names[most]} from {before[most] / n:.1%} to {after[most] / m:.1%}; "
        f"Jensen-Shannon {jensen_shannon(before, after):.3f} bits"
    )
    return Drift(what, "PSI", value, limits.psi_warn + float(noise), level, detail)


def level_of(value: float, warn: float, stop: float) -> Level:
    """What a value comes to against its two limits."""
    return "stop" if value >= stop else "warn" if value >= warn else "ok"
