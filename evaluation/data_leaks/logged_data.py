"""The tables of a night as the checks read them.

Shapes: E events, N items, U users, L lists.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.columns import DESCRIPTION, TITLE
from recsys.evaluation.data_leaks.leaky_words import Words, words_of
from recsys.evaluation.data_leaks.numbers import Doubles, slices_of
from recsys.features.catalogue import Catalogue
from recsys.features.draws import chance, hash_ids, least
from recsys.features.impressions import Impressions
from recsys.features.interactions import Bools, Interactions, Longs
from recsys.features.on_disk import filled, taken
from recsys.features.ragged import sizes_of_groups
from recsys.features.time_buckets import MISSING_TIME
from recsys.features.user_table import UserTable

SLICES = 20
"""Consecutive parts of the log with equal numbers of events, at most: a leak that begins anywhere begins
within a twentieth of an edge."""
MOST_LOOKED_AT = 6_000
"""Items, or users, whose columns are looked at, drawn by hash where there are more."""
MOST_READ = 50_000
"""Items whose texts are read, those with most events; bounds time."""
MOST_EVENTS = 5_000_000
"""Events, of users drawn by hash, that checks by what is usual among events look at; bounds memory and time. Such
a check is as sure of them as of more (assumed)."""
LEAST_USERS = 10_000
"""Users below whom all events are looked at, however many: a few of them may be too few."""
NEVER = MISSING_TIME
"""In place of a time that is not known (µs)."""


@dataclass(frozen=True)
class LoggedData:
    """Everything the checks look at."""

    events: Interactions
    """In the order (time, position)."""
    catalogue: Catalogue
    users: UserTable | None = None
    shown: Impressions | None = None
    event_ids: Callable[[Longs], list[str]] | None = None
    """Rows, ascending → the ids of these events; None where events carry no ids of their own. Of all events
    they would be the largest thing that is read."""
    listed_at: Longs | None = None
    """int64[E] µs: when the list that an event names was shown; `NEVER` where it names none."""
    dated: bool = True
    """Whether times are dates, and not an order alone."""

    @cached_property
    def slice_of(self) -> npt.NDArray[np.int8]:
        """int8[E]: which slice of the log an event lies in, from 0; events of one moment share one."""
        return slices_of(self.events.time, SLICES)

    @property
    def slices(self) -> int:
        """How many slices there are: fewer where many events share a moment."""
        return int(self.slice_of[-1]) + 1 if len(self.events) else 0

    @cached_property
    def positive(self) -> Bools:
        """bool[E]: what counts as a label."""
        return filled(len(self.events), bool, lambda part: self.events.grade[part] > 0)

    @cached_property
    def of_some_users(self) -> "LoggedData":
        """All that some users did, about `MOST_EVENTS` events; itself where there are no more, or few users.
        Numbers of users stay what they are."""
        share = MOST_EVENTS / max(len(self.events), 1)
        if share >= 1 or self.events.n_users < LEAST_USERS:
            return self
        drawn = self.chance_of_users("looked at") < share
        kept = taken(drawn, self.events.user)
        listed = None if self.listed_at is None else self.listed_at[kept]
        return replace(self, events=self.events.where(kept), event_ids=None, listed_at=listed)

    def chance_of_items(self, purpose: str) -> Doubles:
        """float64[N] in [0, 1), by a hash of the ids."""
        return chance(hash_ids(self.catalogue.item_ids), f"data leaks: {purpose}", 0)

    def chance_of_users(self, purpose: str) -> Doubles:
        """float64[U] in [0, 1), by a hash of the ids."""
        return chance(self._hashes_of_users, f"data leaks: {purpose}", 0)

    @cached_property
    def _hashes_of_users(self) -> npt.NDArray[np.integer]:
        ids = self.events.user_ids
        return filled(len(ids), np.uint64, lambda part: hash_ids(ids[part]))

    def users_among(self, users: Bools, most: int, purpose: str) -> Longs:
        """At most `most` of some users (bool[U]), drawn, ascending."""
        chances = self.chance_of_users(purpose)
        chances[~users] = np.inf
        return least(chances, min(most, int(np.count_nonzero(users))))

    @cached_property
    def items_looked_at(self) -> Longs:
        return least(self.chance_of_items("columns"), MOST_LOOKED_AT)

    @cached_property
    def users_looked_at(self) -> Longs:
        return least(self.chance_of_users("columns"), MOST_LOOKED_AT)

    @cached_property
    def read(self) -> Bools:
        """bool[N]: items whose texts are read."""
        count = sizes_of_groups(self.events.item, self.events.n_items)
        kept = np.zeros(self.events.n_items, bool)
        kept[np.argsort(-count, kind="stable")[:MOST_READ]] = True
        return kept

    @cached_property
    def words(self) -> dict[str, Words]:
        """The words of titles and descriptions of the items that are read."""
        texts = {TITLE: self.catalogue.title, DESCRIPTION: self.catalogue.description}
        read = self.read.tolist()
        return {
            name: words_of(text(item) if there else "" for item, there in enumerate(read))
            for name, text in texts.items()
        }

    @property
    def graded(self) -> bool:
        """Whether some events are labels and some are not."""
        return bool(self.positive.any() and not self.positive.all())
