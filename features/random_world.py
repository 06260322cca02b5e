"""A small world to try features on: everything that makes two readings differ happens in it.

Events share a microsecond, come late, carry stars or not, name types that others never use; users
have no history, items no category; lists are shown; a list is served between two log records. The
online reading folds the log record by record; the batch reading has only the tables.

Shapes: E events, G lists of n candidates, R = G·n rows, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from recsys.data_schemas.columns import (
    AVAILABLE,
    CATEGORY,
    CREATED_AT,
    DESCRIPTION,
    EVENT_TYPE,
    ITEM_ID,
    ITEM_IDS,
    TAGS,
    TIMESTAMP,
    TITLE,
    USER_ID,
    VALUE,
)
from recsys.data_schemas.log_record import LogRecord
from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning
from recsys.features.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.features.impressions import Impressions
from recsys.features.interactions import (
    DAY,
    HOUR,
    Floats,
    Interactions,
    Longs,
)
from recsys.features.packed_strings import PackedStrings
from recsys.features.parity import KnownHistories
from recsys.features.ragged import offsets_of
from recsys.features.ranking_context import RankingContext
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.features.state import OnlineState
from recsys.features.time_buckets import BUCKETS
from recsys.features.user_table import UserTable

START: Final = 19_000 * DAY
DAYS: Final = 12
N_USERS: Final = 6
N_ITEMS: Final = 14
PER_LIST: Final = 8
TYPES: Final = ("view", "click", "purchase")
SIGNALS: Final = (
    "als.score",
    "als.rank",
    "als.share",
    "text.score",
    "text.last",
    "text.best",
    "text.mean",
    "fused.rank",
    "fused.score",
)


@dataclass(frozen=True)
class RandomWorld:
    """A log, the tables a night would make of it, and lists to read features for."""

    table: Any
    """Arrow table of items."""
    users: UserTable
    log: tuple[LogRecord, ...]
    """In the order of position."""
    interactions: Interactions
    impressions: Impressions
    rows: Rows
    bucket: str

    @classmethod
    def make(
        cls,
        seed: int,
        *,
        n_events: int = 250,
        n_lists: int = 12,
        types: Sequence[str] = TYPES,
        table: Any = None,
        bucket: str = "hour",
    ) -> "RandomWorld":
        """A world drawn from a seed; the same seed gives the same world.

        Args:
            seed: of all draws.
            n_events: records of the log.
            n_lists: candidate lists, asked about at random moments.
            types: event types that occur.
            table: Arrow table of items; made up when None.
            bucket: width of the counters' buckets: minute, hour or day.
        """
        rng = np.random.default_rng(seed)
        items = item_table(N_ITEMS) if table is None else table
        log = _draw_log(rng, n_events, items[ITEM_ID].to_pylist(), tuple(types))
        users = UserTable.from_table(user_table(N_USERS))
        catalogue = Catalogue.from_table(items)
        interactions = _interactions(log, catalogue, tuple(types))
        rows = _draw_rows(rng, n_lists, len(log), catalogue.n_items, interactions)
        shown = _impressions(log, catalogue)
        return cls(items, users, log, interactions, shown, rows, bucket)

    def batch(self, features: FeatureSet, backend: str = "arrays") -> Floats:
        """float32[R, F] from the tables."""
        return features.batch(self.rows, self.inputs(backend))

    def inputs(self, backend: str = "arrays") -> BatchInputs:
        """The tables as a batch reading gets them."""
        catalogue = Catalogue.from_table(self.table)
        return BatchInputs(
            self.interactions,
            catalogue,
            self.users,
            self.impressions,
            bucket=self.bucket,
            backend=backend,
        )

    def state(self, until: int = 0) -> OnlineState:
        """A snapshot of the log's first `until` records, which may be none."""
        catalogue = Catalogue.from_table(self.table)
        return OnlineState.build(
            self.interactions.where(self.interactions.position < until),
            catalogue,
            bucket_us=BUCKETS[self.bucket],
            windows_us=(),
            log_position=until - 1,
            users=self.users,
            impressions=_impressions(self.log[:until], catalogue),
        )

    def online(self, features: FeatureSet) -> Floats:
        """float32[R, F] by folding the log up to what each list knew."""
        state = self.state(until=len(self.log) // 3)
        out = np.empty((len(self.rows), len(features)), np.float32)
        rows = self.rows
        parts = dict(rows.groups())
        for group in np.argsort(rows.position, kind="stable"):
            # Lists known before the snapshot are served from a state of their own.
            position = min(int(rows.position[group]), len(self.log))
            at = state if position > len(self.log) // 3 else self.state()
            at.apply(self.log[at.log_position + 1 : position])
            out[parts[group]] = features.online(self.moment(at, int(group), parts[group]))
        return out

    def moment(self, state: OnlineState, group: int, part: slice) -> RankingContext:
        """One list as the ranking path would ask for it."""
        rows = self.rows
        now, user = int(rows.now[group]), int(rows.user[group])
        user_id = f"user-{user}" if user >= 0 else "nobody"
        return RankingContext(
            now,
            state.history(user_id, now),
            rows.items[part],
            {name: values[part] for name, values in rows.signals.items()},
            state,
            state.catalogue,
            state.user_attributes(user_id),
            {name: values[group] for name, values in rows.context.items()},
        )

    def without_future(self, group: int) -> "RandomWorld":
        """The world as it was at one list's moment: later records never happened."""
        now = int(self.rows.now[group])
        position = int(self.rows.position[group])
        events = self.interactions
        kept = events.where((events.time < now) & (events.position < position))
        past = [r for r in self.log if r.position < position and r.payload[TIMESTAMP] < now]
        part = slice(int(self.rows.offsets[group]), int(self.rows.offsets[group + 1]))
        catalogue = Catalogue.from_table(self.table)
        return replace(
            self,
            interactions=kept,
            impressions=_impressions(past, catalogue),
            rows=one_group(self.rows, group, part, kept),
        )


def one_group(rows: Rows, group: int, part: slice, interactions: Interactions) -> Rows:
    """The rows of one group, with histories from these interactions."""
    known = KnownHistories(interactions)
    user, now, position = rows.user[group], rows.now[group], rows.position[group]
    history = known.of(int(user), int(now), int(position))
    return Rows(
        np.array([0, part.stop - part.start]),
        rows.user[group : group + 1],
        rows.now[group : group + 1],
        rows.position[group : group + 1],
        rows.items[part],
        {name: values[part] for name, values in rows.signals.items()},
        lambda _: history,
        {name: values[group : group + 1] for name, values in rows.context.items()},
    )


def item_table(n: int) -> Any:
    """n items; some without category, tags, creation time or attributes."""
    created = [None if i % 4 == 3 else START - i * DAY for i in range(n)]
    return pa.table(
        {
            ITEM_ID: [f"item-{i}" for i in range(n)],
            TITLE: [f"Title {i}" for i in range(n)],
            DESCRIPTION: [f"About {i}" if i % 2 else None for i in range(n)],
            TAGS: [[] if i % 4 == 3 else [f"tag{i % 3}", f"tag{i % 5}", "all"] for i in range(n)],
            CATEGORY: [None if i % 3 == 2 else f"category{i % 2}" for i in range(n)],
            CREATED_AT: pa.array(created, pa.timestamp("us", "UTC")),
            AVAILABLE: [i % 7 != 6 for i in range(n)],
            "price": [None if i % 5 == 4 else i * 1.5 for i in range(n)],
            "colour": [("red", "blue", None)[i % 3] for i in range(n)],
        }
    )


def user_table(n: int) -> Any:
    """n users; some without attributes."""
    return pa.table(
        {
            USER_ID: [f"user-{u}" for u in range(n)],
            "born": [None if u % 3 == 2 else 1960 + u for u in range(n)],
            "country": [("at", None, "ch")[u % 3] for u in range(n)],
            "likes": [("tag1", "category0", None, "elsewhere")[u % 4] for u in range(n)],
        }
    )


def _draw_log(
    rng: np.random.Generator, n: int, item_ids: list[str], types: tuple[str, ...]
) -> tuple[LogRecord, ...]:
    """n records: mostly events, some lists shown; times on a coarse grid, some come late."""
    times = START + rng.integers(0, DAYS * 24 * 4, n) * (HOUR // 4)
    # Most records arrive in order; a third of them up to two days late.
    late = np.where(rng.random(n) < 1 / 3, rng.integers(0, 2 * DAY, n), 0)
    log = []
    for position, at in enumerate(np.argsort(times + late, kind="stable")):
        user = f"user-{rng.integers(N_USERS)}"
        if rng.random() < 0.2:
            shown = rng.choice(item_ids, min(4, len(item_ids)), replace=False).tolist()
            payload = {USER_ID: user, TIMESTAMP: int(times[at]), ITEM_IDS: shown}
            log.append(LogRecord(position, "impression", payload, int(times[at] + late[at])))
            continue
        payload = {
            USER_ID: user,
            # A few items draw most events.
            ITEM_ID: item_ids[int(len(item_ids) * rng.random() ** 2)],
            EVENT_TYPE: types[int(rng.integers(len(types)))],
            TIMESTAMP: int(times[at]),
            VALUE: [None, 1.0, 3.0, 4.5][int(rng.integers(4))],
        }
        log.append(LogRecord(position, "event", payload, int(times[at] + late[at])))
    return tuple(log)


def _interactions(
    log: Sequence[LogRecord], catalogue: Catalogue, types: tuple[str, ...]
) -> Interactions:
    events = [record for record in log if record.kind == "event"]
    payloads: list[Mapping[str, Any]] = [record.payload for record in events]
    time = np.array([p[TIMESTAMP] for p in payloads], np.int64)
    position = np.array([record.position for record in events], np.int64)
    order = np.lexsort((position, time))
    kind = np.array([types.index(p[EVENT_TYPE]) for p in payloads], np.int16)[order]
    stars = [np.nan if p[VALUE] is None else p[VALUE] for p in payloads]
    value = np.array(stars, np.float32)[order]
    weight, grade = EventMeaning(DEFAULT_TYPES).of(types, kind, value)
    return Interactions(
        np.array([int(p[USER_ID][5:]) for p in payloads], np.int32)[order],
        catalogue.indices_of([p[ITEM_ID] for p in payloads])[order],
        kind,
        time[order],
        value,
        weight,
        grade,
        position[order],
        PackedStrings.of([f"user-{u}" for u in range(N_USERS)]),
        types,
        catalogue.n_items,
    )


def _impressions(log: Sequence[LogRecord], catalogue: Catalogue) -> Impressions:
    shown = [record for record in log if record.kind == "impression"]
    shown.sort(key=lambda record: (record.payload[TIMESTAMP], record.position))
    return Impressions.of(
        offsets_of([len(record.payload[ITEM_IDS]) for record in shown]),
        catalogue.indices_of([i for record in shown for i in record.payload[ITEM_IDS]]),
        np.array([record.payload[TIMESTAMP] for record in shown], np.int64),
        position=np.array([record.position for record in shown], np.int64),
    )


def _draw_rows(
    rng: np.random.Generator, n_lists: int, n_log: int, n_items: int, interactions: Interactions
) -> Rows:
    """Lists at any moment, half of them served between two log records."""
    n = min(PER_LIST, n_items)
    items = [rng.permutation(n_items)[:n] for _ in range(n_lists)]
    now: Longs = START + rng.integers(0, (DAYS + 2) * 24 * 4, n_lists) * (HOUR // 4)
    served = rng.random(n_lists) < 0.5
    position = np.where(served, rng.integers(0, n_log + 1, n_lists), ANY_POSITION)
    user = rng.integers(-1, N_USERS, n_lists).astype(np.int32)
    known = KnownHistories(interactions)
    scores = rng.random((len(SIGNALS), n_lists * n)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    return Rows(
        np.arange(n_lists + 1) * n,
        user,
        now,
        position,
        np.concatenate(items).astype(np.int32),
        dict(zip(SIGNALS, scores, strict=True)),
        lambda g: known.of(int(user[g]), int(now[g]), int(position[g])),
        {"slot": rng.integers(0, 4, n_lists).astype(np.float64)},
    )
