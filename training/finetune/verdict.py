"""Whether tuning helped, on the items that were held out of it, beyond what chance would do.

Tuned weights that no validation can tell from untuned ones cost a refresh of all vectors and may do harm
where nobody looks, so the model serves as it came then.

Shapes: V validation examples, U users who gave them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FROZEN: Final = "frozen"
TUNED: Final = "tuned"
STANDARD_ERRORS: Final = 1.645
"""Standard errors of the paired difference by which tuning must be ahead: one chance in twenty of taking it
for better where it is not."""


@dataclass(frozen=True)
class HeldOutGain:
    """What tuning gave on held-out items; nDCG without a cut."""

    frozen: float
    tuned: float
    error: float
    """Standard error of the difference, over users."""
    users: int

    @property
    def helps(self) -> bool:
        """Whether the difference is more than chance."""
        return self.tuned - self.frozen > STANDARD_ERRORS * self.error

    def sentence(self) -> str:
        """The verdict, for the report."""
        change = f"from {self.frozen:.4f} to {self.tuned:.4f} (standard error {self.error:.4f})"
        asked = f"the nDCG of {self.users:,} users' actions on items held out of the fit"
        if self.helps:
            return f"tuning raised {asked} {change}: the tuned text serves"
        return f"tuning moved {asked} {change}, no more than chance: the frozen text serves"


def judge(
    frozen: Sequence[float], tuned: Sequence[float], asker: npt.NDArray[np.int64]
) -> HeldOutGain:
    """Compare the gains [V] of the same examples under two weights; asker [V] is the user of each.

    Empty gains, of weights that gave no numbers, count as nought.
    """
    before, after = (
        np.array(gains, np.float64) if len(gains) else np.zeros(len(asker))
        for gains in (frozen, tuned)
    )
    change = after - before
    users, owner = np.unique(asker, return_inverse=True)
    # A user's examples are no independent witnesses: the error is over users.
    beside = np.bincount(owner, change - change.mean(), len(users))
    error = math.sqrt(float((beside**2).sum()) * len(users) / max(1, len(users) - 1)) / len(asker)
    return HeldOutGain(float(before.mean()), float(after.mean()), error, len(users))
