"""Draws that follow the identifier: who is in a sample, a fold or a mask is decided by a hash of the
id, the seed and the purpose, never by the number a user or an item happens to have.

The same person is drawn the same way tonight and tomorrow, on one machine and on many, whatever came
in between; and two purposes draw independently.

Shapes: N identifiers.
"""

import numpy as np
import numpy.typing as npt

from recsys.features.ids import Hashes, hash_ids
from recsys.features.on_disk import filled, stretches

__all__ = ["Doubles", "at_moments", "chance", "hash_ids", "least"]

Doubles = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(value: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * _FIRST
        value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


def chance(hashes: npt.NDArray[np.integer], purpose: str, seed: int) -> Doubles:
    """float64[N] in [0, 1), even and independent for each purpose and seed.

    Args:
        hashes: of the identifiers (`hash_ids`), or any integers that name them.
        purpose: what is drawn, so that a fold says nothing of a mask.
        seed: of the config.

    >>> a, b = chance(hash_ids(["ann", "bob"]), "folds", 7), chance(hash_ids(["bob"]), "folds", 7)
    >>> bool(a[1] == b[0])
    True
    """
    salt = _mix(hash_ids([purpose]) ^ np.array([seed], np.int64).view(np.uint64))

    def some(part: slice) -> Doubles:
        mixed = _mix(hashes[part].astype(np.int64).view(np.uint64) ^ salt)
        return np.asarray((mixed >> np.uint64(11)) * 2.0**-53, np.float64)

    return filled(len(hashes), np.float64, some)


def at_moments(hashes: Hashes, time: npt.NDArray[np.int64]) -> Hashes:
    """uint64[N] that name a user at a moment: `hashes` of the users, `time` µs, both [N]."""
    return _mix(hashes ^ _mix(time.view(np.uint64)))


def least(chances: Doubles, count: int) -> npt.NDArray[np.int64]:
    """Places of the `count` smallest chances (all where there are fewer), in ascending order."""
    if len(chances) <= count:
        return np.arange(len(chances))
    found = np.empty(0, np.int64)
    for part in stretches(len(chances)):
        places = np.concatenate([found, np.arange(part.start, part.stop)])
        found = places[np.argsort(chances[places], kind="stable")[: max(0, count)]]
    return np.sort(found)
