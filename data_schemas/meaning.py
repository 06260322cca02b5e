"""What an event means: the weight it has for collaborative training and the grade it has as a label.

Pure arithmetic on numbers, so that batch and online reading of an event cannot differ. A number says
nothing about liking unless it is a rating: `value` is read as one only for event types that are
declared or named as ratings, on a scale that is declared or was recognised in the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Scale = tuple[float, float]
"""(worst, best) rating."""
STARS: Scale = (0.5, 5.0)
POSITIVE_FROM = 4.0
"""Stars; a rating of at least this much is positive (contract of the events table)."""
NEGATIVE_UNTIL = 2.5
"""Stars; a rating of at most this much is negative."""
NEUTRAL_STARS = 3.0

DEFAULT_TYPES: Mapping[str, tuple[float, int]] = {
    "view": (1.0, 0),
    "click": (2.0, 1),
    "comment": (3.0, 2),
    "share": (4.0, 2),
    "purchase": (5.0, 3),
}
"""event type → (weight, grade)."""
DEFAULT_RATINGS: Mapping[str, Scale] = dict.fromkeys(("rating", "rate", "review", "stars"), STARS)
"""Event types that are ratings by their name → scale."""
UNKNOWN_TYPE: tuple[float, int] = (1.0, 1)
RATING_WEIGHT = 5.0
"""Weight of a positive rating; neutral ones weigh 1."""
RATING_GRADE = 3

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SCALES: tuple[Scale, ...] = ((0.0, 1.0), STARS, (0.0, 10.0), (0.0, 100.0))
"""Scales without dislikes below 0 that are recognised, the narrowest first."""
SIGNED: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 10.0, 100.0)
"""Best ratings of the scales from -best to best that are recognised."""
ENOUGH_RATINGS = 20
"""Ratings of a type below which its values do not tell a scale; assumed."""
OUTLIERS = 0.01
"""Share of a type's ratings that may lie outside a recognised scale; assumed."""


def recognised(lowest: float, low: float, high: float, count: int) -> Scale | None:
    """The scale that a type's ratings are on, None where they are on none that is known.

    Args:
        lowest: the smallest rating.
        low, high: quantiles of the ratings at OUTLIERS and 1 - OUTLIERS.
        count: how many there are.

    >>> recognised(1.0, 1.0, 10.0, 500)
    (1.0, 10.0)
    >>> recognised(-1.0, -1.0, 1.0, 500)
    (-1.0, 1.0)
    >>> recognised(0.0, 0.0, 5.0, 500)
    (0.5, 5.0)
    """
    if count < ENOUGH_RATINGS:
        return STARS
    if low < 0:
        return next(((-best, best) for best in SIGNED if max(-low, high) <= best), None)
    found = next((scale for scale in SCALES if high <= scale[1]), None)
    if found is None or found in (STARS, (0.0, 1.0)) or lowest < 1:
        return found
    return 1.0, found[1]


def stars(value: Numbers, scale: Scale) -> Numbers:
    """float64[E] ratings as stars up to 5; NaN outside the scale.

    From 0 up, stars are the share of the best rating, so 8 of 10 and 80 of 100 are 4 stars. Where
    dislikes lie below 0, 0 is neutral: half of the best is 4 stars, a quarter of the worst 2.5.
    """
    worst, best = scale
    inside = (value >= worst) & (value <= best)
    if worst < 0:
        side = np.where(value >= 0, best, -worst)
        return np.where(inside, NEUTRAL_STARS + 2.0 * value / side, np.nan)
    return np.where(inside, STARS[1] * value / best, np.nan)


@dataclass(frozen=True)
class EventMeaning:
    """Weights and grades of a caller's event types.

    `types` maps an event type to (weight, grade); a type absent from it counts as `UNKNOWN_TYPE`.
    `ratings` maps the types whose `value` is a rating to its scale: positive from 4 stars, negative
    up to 2.5, neutral between and outside the scale; all neutral where the scale is None, unknown.
    A rating without a value counts as its type does; the value of any other type carries no
    polarity.
    """

    types: Mapping[str, tuple[float, int]]
    ratings: Mapping[str, Scale | None] = field(default_factory=lambda: dict(DEFAULT_RATINGS))

    def with_scales(self, scales: Mapping[str, Scale | None]) -> "EventMeaning":
        """The same with other scales for some of the ratings."""
        return replace(self, ratings={**self.ratings, **scales})

    def polarity(
        self, kinds: Sequence[str], kind: npt.NDArray[np.integer], value: npt.NDArray[np.floating]
    ) -> tuple[Flags, Flags, Flags]:
        """(positive, neutral, negative) bool[E] of E events: the ratings among them.

        `kinds` names the codes in `kind` (int[E]); `value` (float[E]) is NaN where absent.
        """
        rated = np.zeros(len(kind), bool)
        on_scale = np.full(len(kind), np.nan)
        for code, name in enumerate(kinds):
            if name not in self.ratings:
                continue
            rows = np.flatnonzero((kind == code) & ~np.isnan(value))
            rated[rows] = True
            scale = self.ratings[name]
            if scale is not None:
                # Tables keep float32, and what comes through the service must read the same.
                on_scale[rows] = stars(value[rows].astype(np.float32).astype(np.float64), scale)
        positive, negative = on_scale >= POSITIVE_FROM, on_scale <= NEGATIVE_UNTIL
        return positive, rated & ~positive & ~negative, negative

    def of(
        self,
        kinds: Sequence[str],
        kind: npt.NDArray[np.integer],
        value: npt.NDArray[np.floating],
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """Weight (float32[E]) and grade (int8[E]) of E events; arguments as for `polarity`.

        A negative rating has weight -1 and grade -1; a neutral one weight 1 and grade 0.
        """
        table = [self.types.get(name, UNKNOWN_TYPE) for name in kinds] or [UNKNOWN_TYPE]
        weight = np.array([w for w, _ in table], dtype=np.float32)[kind]
        grade = np.array([g for _, g in table], dtype=np.int8)[kind]
        positive, neutral, negative = self.polarity(kinds, kind, value)
        for rows, (w, g) in (
            (positive, (RATING_WEIGHT, RATING_GRADE)),
            (neutral, (1.0, 0)),
            (negative, (-1.0, -1)),
        ):
            weight[rows], grade[rows] = w, g
        return weight, grade
