"""What people acted on beside each item of a history: behaviour on the side that asks.

A candidate may be new, so it is known by its text alone. The items of a history are not: what else was acted
on by those who acted on them says what they are for, where their text does not. Each item of a history asks
with its own vector and, at a share, with the mean direction of the items beside it.

Shapes: n items, p pairs, h history items, d dimensions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.tower_kernels import add_company
from recsys.features.interactions import Floats, Ints, Longs

COMPANY: Final = "company.npz"


@dataclass(frozen=True)
class Company:
    """The items beside item i are `beside[offsets[i]:offsets[i + 1]]`."""

    offsets: Longs
    """[n + 1]"""
    beside: Ints
    """[p]"""
    weights: Floats
    """[p]: how often they came together, about."""
    share: float
    """Weight of the mean direction of the items beside one, its own vector weighing 1."""

    def asking(self, rows: Floats, items: Ints, vectors: Floats) -> Floats:
        """Unit vectors float32 [h, d] with which items ask, given their own float32 [h, d] and those of the
        catalogue [m, d]; an item that nothing is known to be beside asks with its own."""
        asking = np.array(rows, np.float32)
        wanted = np.ascontiguousarray(items, np.int32)
        add_company(
            asking, wanted, vectors, self.offsets, self.beside, self.weights, np.float32(self.share)
        )
        return asking

    def save(self, folder: Path) -> None:
        """Write company.npz."""
        np.savez(
            folder / COMPANY,
            offsets=self.offsets,
            beside=self.beside,
            weights=self.weights,
            share=self.share,
        )

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote; None where nothing was written.

        Raises:
            RecsysError: the file is damaged.
        """
        file = folder / COMPANY
        if not file.is_file():
            return None
        try:
            with np.load(file) as held:
                return cls(held["offsets"], held["beside"], held["weights"], float(held["share"]))
        except (OSError, ValueError, KeyError) as error:
            raise RecsysError(
                "what was acted on beside each item cannot be read",
                where=str(file),
                found=str(error),
                expected="the file that the encoder's fit wrote",
                fix="train the encoder again, or restore the bundle",
            ) from None
