"""What `recsys features check` does: both readings compared, and the future taken away.

It tries every feature in small random worlds, so it needs no data, takes seconds, and shows the
first row that is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recsys.data_schemas.columns import ITEM_ID
from recsys.data_schemas.config import FeaturesConfig
from recsys.data_schemas.errors import ExitCode, RecsysError, UsageError
from recsys.features.feature_set import FeatureSet, own_feature
from recsys.features.future_check import seeing_future
from recsys.features.interactions import Floats, Longs
from recsys.features.kinds import KINDS
from recsys.features.kinds.kind import Feature
from recsys.features.parity import LIMIT, relative
from recsys.features.random_world import TYPES, RandomWorld
from recsys.features.time_buckets import BUCKETS, window_buckets, window_us

WORLDS: Final = 3
ITEMS_TRIED: Final = 40
"""Real items that the random worlds are made of."""


@dataclass(frozen=True)
class FeatureFinding:
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
) -> list[FeatureFinding]:
    """Try features in random worlds; the first problem of each, none for those that are sound.

    Args:
        features: declared features, your own or all.
        types: event types that occur in the worlds.
        table: Arrow table of items to draw from; made up when absent.
        bucket: width of the counters' buckets.
        worlds: number of random worlds, each from a seed of its own.
    """
    found: dict[str, FeatureFinding] = {}
    for seed in range(worlds):
        world = RandomWorld.make(seed, types=types, table=table, bucket=bucket)
        left = _readable(features, world, found)
        problems = seeing_future(left, world) | different(left, world)
        for name, problem in problems.items():
            found.setdefault(name, FeatureFinding(name, problem))
    return list(found.values())


def require_sound(
    config: FeaturesConfig, *, types: Sequence[str], table: Any = None, worlds: int = 1
) -> None:
    """Refuse settings that a night would stumble over hours later: windows that are not whole
    buckets, classes that cannot be loaded, readings of one's own that differ or see the future.

    Raises:
        UsageError: the first of these.
    """
    for name in config.windows:
        window_buckets(window_us(name), BUCKETS[config.bucket])
    own = [own_feature(name) for name in config.own]
    found = check(own, types=types, table=table, bucket=config.bucket, worlds=worlds) if own else []
    if found:
        raise UsageError(
            "a feature of your own must not be used",
            where="features.own",
            found=f"{found[0].column}: {found[0].problem}",
            expected="the same value in batch and online, and nothing of the future",
            fix="correct it until `recsys features check` passes, or take it out",
            code=ExitCode.PROMOTION_REFUSED,  # as `recsys features check` says it
        )


def _readable(
    features: Sequence[Feature], world: RandomWorld, found: dict[str, FeatureFinding]
) -> list[Feature]:
    """The features that can be read; those that fail are put into `found`."""
    left = [feature for feature in features if feature.column not in found]
    if _failure(left, world) is None:
        return left
    for feature in left:
        problem = _failure([feature], world)
        if problem is not None:
            found[feature.column] = FeatureFinding(feature.column, problem)
    return [feature for feature in left if feature.column not in found]


def _failure(features: Sequence[Feature], world: RandomWorld) -> str | None:
    """What a reading of one's own raises, in words; nothing when both give values."""
    own = FeatureSet([f for f in features if KINDS.get(type(f).__name__) is not type(f)])
    try:
        world.batch(own)
        world.online(own)
    except RecsysError:
        raise
    except Exception as error:
        # A class of the user's own may raise anything; it is theirs to read.
        return f"a reading failed: {type(error).__name__}: {error}"
    return None


def different(features: Sequence[Feature], world: RandomWorld) -> dict[str, str]:
    """Features whose readings differ, with the first row in words."""
    together = FeatureSet(features)
    batch, online = world.batch(together), world.online(together)
    differs = relative(batch, online) > LIMIT
    return {
        together.columns[f]: "its readings differ: "
        + _row_in_words(world, np.flatnonzero(differs[:, f]), batch[:, f], online[:, f])
        for f in np.flatnonzero(differs.any(axis=0))
    }


def _row_in_words(world: RandomWorld, different: Longs, batch: Floats, online: Floats) -> str:
    row, rows = int(different[0]), world.rows
    group = int(np.searchsorted(rows.offsets, row, "right")) - 1
    item = world.table[ITEM_ID][int(rows.items[row])].as_py()
    user = int(rows.user[group])
    return (
        f"user {f'user-{user}' if user >= 0 else '(unknown)'}, item {item}, "
        f"at {int(rows.now[group])} µs: batch {batch[row]:g}, online {online[row]:g} "
        f"({len(different)} of {len(rows)} rows differ)"
    )
