"""What a batch reading gets: G groups of candidates and the tables they are read from.

Shapes: G groups (one user at one moment each), R rows (candidates of all groups), E events.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import SparkConfig
from recsys.features.catalogue import Catalogue
from recsys.features.impressions import Impressions
from recsys.features.interactions import (
    Floats,
    Histories,
    History,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.ragged import Ragged
from recsys.features.time_buckets import BUCKETS
from recsys.features.user_table import UserTable
from recsys.storage.processors import engine_mb

ANY_POSITION: Final = int(np.iinfo(np.int64).max)
"""Position bound of a row that was not served: its time alone decides what it sees."""


@dataclass(frozen=True)
class Rows(Ragged):
    """Groups of candidates: group g has rows offsets[g]:offsets[g+1]."""

    offsets: Longs
    """int64[G+1]."""
    user: Ints
    """int32[G] index in the interactions' user_ids; -1 unknown."""
    now: Longs
    """int64[G] µs."""
    position: Longs
    """int64[G]: a served row sees log positions before this; else `ANY_POSITION`."""
    items: Ints
    """int32[R]."""
    signals: Mapping[str, Floats]
    """float32[R] by name."""
    history_of: Callable[[int], History] | Histories
    """History of a group (by its number), or all users' histories, cut at each group's now."""
    context: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """One value per group by name, as the request gave it."""

    def __len__(self) -> int:
        """R: what an own feature gives a value each."""
        return len(self.items)

    @property
    def n_groups(self) -> int:
        return len(self.now)

    def history(self, group: int) -> History:
        """Events of a group's user strictly before its now."""
        if isinstance(self.history_of, Histories):
            whole = self.history_of.of(int(self.user[group]))
            return whole.before(int(self.now[group]))
        return self.history_of(group)

    def groups(self) -> Iterator[tuple[int, slice]]:
        """(group, its rows)."""
        ends = self.offsets.tolist()
        for group in range(self.n_groups):
            yield group, slice(ends[group], ends[group + 1])


@dataclass(frozen=True)
class BatchInputs:
    """The tables that a batch reading looks into."""

    interactions: Interactions
    catalogue: Catalogue
    users: UserTable | None = None
    impressions: Impressions | None = None
    bucket: str = "hour"
    """Width of a counter's bucket: minute, hour or day."""
    backend: str = "arrays"
    """Where counters are counted: `arrays` in this process; `duckdb`, or `pyspark` with the [spark]
    extra, by SQL."""
    memory_mb: int = field(default_factory=engine_mb)
    """What the SQL's counters may take at once; more work is cut into parts."""

    spark: SparkConfig | None = None
    """How Spark is reached, `engine.spark` of a config; as Spark's own settings say when None."""

    @property
    def bucket_us(self) -> int:
        """Width of a bucket in µs."""
        return BUCKETS[self.bucket]

    def user_attributes(self, user: int) -> dict[str, Any]:
        """Attributes of a user by index in the interactions' user_ids; -1 has none."""
        if self.users is None or user < 0:
            return {}
        return self.users.attributes(self.interactions.user_ids[user])
