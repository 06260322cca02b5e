"""What an event means: the weight it has for collaborative training and the grade it has as a label.

Pure arithmetic on numbers, so that batch and online reading of an event cannot differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

POSITIVE_FROM = 4.0
"""Stars; a rating of at least this much is positive (contract of the events table)."""
NEGATIVE_UNTIL = 2.5
"""Stars; a rating of at most this much is negative."""

DEFAULT_TYPES: Mapping[str, tuple[float, int]] = {
    "view": (1.0, 0),
    "click": (2.0, 1),
    "comment": (3.0, 2),
    "share": (4.0, 2),
    "purchase": (5.0, 3),
}
"""event type → (weight, grade)."""
UNKNOWN_TYPE: tuple[float, int] = (1.0, 1)
RATING_WEIGHT = 5.0
"""Weight of a positive star rating; neutral ones weigh 1."""
RATING_GRADE = 3


@dataclass(frozen=True)
class EventMeaning:
    """Weights and grades of a caller's event types.

    `types` maps an event type to (weight, grade); a type absent from it counts as `UNKNOWN_TYPE`.
    Events that carry a star `value` (0.5–5) are read as ratings, whatever their type:
    positive from 4, negative up to 2.5, neutral between.
    """

    types: Mapping[str, tuple[float, int]]

    def of(
        self,
        kinds: Sequence[str],
        kind: npt.NDArray[np.integer],
        value: npt.NDArray[np.floating],
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """Weight (float32[E]) and grade (int8[E]) of E events.

        `kinds` names the codes in `kind` (int[E]); `value` (float[E]) is NaN where absent.
        A negative rating has weight -1 and grade -1; a neutral one weight 1 and grade 0.
        """
        table = [self.types.get(name, UNKNOWN_TYPE) for name in kinds] or [UNKNOWN_TYPE]
        weight = np.array([w for w, _ in table], dtype=np.float32)[kind]
        grade = np.array([g for _, g in table], dtype=np.int8)[kind]
        stars = (value >= 0.5) & (value <= 5.0)
        positive, negative = stars & (value >= POSITIVE_FROM), stars & (value <= NEGATIVE_UNTIL)
        neutral = stars & ~positive & ~negative
        weight = np.where(positive, np.float32(RATING_WEIGHT), weight)
        grade = np.where(positive, np.int8(RATING_GRADE), grade)
        weight = np.where(neutral, np.float32(1.0), weight)
        grade = np.where(neutral, np.int8(0), grade)
        weight = np.where(negative, np.float32(-1.0), weight)
        grade = np.where(negative, np.int8(-1), grade)
        return weight.astype(np.float32), grade.astype(np.int8)
