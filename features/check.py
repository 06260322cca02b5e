"""What `recsys features check` does: both readings compared, and the future taken away.

It tries every feature in small random worlds, so it needs no data, takes seconds, and shows the
first row that is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from data_schemas.columns import ITEM_ID
from data_schemas.errors import RecsysError
from features.feature_set import FeatureSet
from features.kinds.base import Feature
from features.leaks import sees_future
from features.parity import LIMIT, relative
from features.trial import TYPES, Trial

WORLDS: Final = 3


@dataclass(frozen=True)
class Finding:
    """What is wrong with a feature."""

    column: str
    problem: str


def check(
    features: Sequence[Feature],
    *,
    types: Sequence[str] = TYPES,
    table: Any = None,
    bucket: str = "hour",
    worlds: int = WORLDS,
) -> list[Finding]:
    """Try features in random worlds; the first problem of each, none for those that are sound.

    Args:
        types: event types that occur in the worlds.
        table: Arrow table of items to draw from; made up when absent.
        bucket: width of the counters' buckets.
    """
    found: dict[str, Finding] = {}
    for seed in range(worlds):
        trial = Trial.make(seed, types=types, table=table, bucket=bucket)
        for feature in features:
            if feature.column not in found:
                problem = _problem(feature, trial)
                if problem is not None:
                    found[feature.column] = Finding(feature.column, problem)
    return list(found.values())


def _problem(feature: Feature, trial: Trial) -> str | None:
    try:
        difference = first_difference(feature, trial)
        future = None if difference else sees_future(feature, trial)
    except RecsysError:
        raise
    except Exception as error:
        # A class of the user's own may raise anything; it is theirs to read.
        return f"a reading failed: {type(error).__name__}: {error}"
    if difference:
        return f"its readings differ: {difference}"
    return f"it knows the future: {future}" if future else None


def first_difference(feature: Feature, trial: Trial) -> str | None:
    """The first row whose two readings differ, in words; nothing when they agree."""
    one = FeatureSet([feature])
    batch, online = trial.batch(one), trial.online(one)
    different = np.flatnonzero(relative(batch, online)[:, 0] > LIMIT)
    if not len(different):
        return None
    row = int(different[0])
    rows = trial.rows
    group = int(np.searchsorted(rows.offsets, row, "right")) - 1
    item = trial.table[ITEM_ID][int(rows.items[row])].as_py()
    user = int(rows.user[group])
    return (
        f"user {f'user-{user}' if user >= 0 else '(unknown)'}, item {item}, "
        f"at {int(rows.now[group])} µs: batch {batch[row, 0]:g}, online {online[row, 0]:g} "
        f"({len(different)} of {len(rows)} rows differ)"
    )
