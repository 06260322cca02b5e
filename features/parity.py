"""Batch against online: the same rows, read both ways, feature by feature.

A served list is logged with its moment and the log position known then; recomputing it in batch
must use what was known, so the position decides, not the event's time.

Shapes: G served lists, R their rows, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from recsys.data_schemas.columns import (
    EVENT_TYPE,
    ITEM_ID,
    POSITION,
    TIMESTAMP,
    USER_ID,
    VALUE,
)
from recsys.data_schemas.meaning import EventMeaning
from recsys.features.catalogue import Catalogue
from recsys.features.ids import IdIndex
from recsys.features.interactions import (
    EMPTY_HISTORY,
    Floats,
    History,
    Interactions,
    Ints,
    Longs,
)
from recsys.features.packed_strings import PackedStrings
from recsys.features.ragged import offsets_of
from recsys.features.rows import Rows

LIMIT: Final = 1e-6
"""Largest relative difference between two readings of one feature."""


@dataclass(frozen=True)
class Served:
    """One list as it was answered and logged."""

    user_id: str
    now: int
    """µs."""
    position: int
    """What was known: log positions before this."""
    item_ids: Sequence[str]
    features: Floats
    """float32[n, F] of those items."""
    context: Mapping[str, Any] = field(default_factory=dict)


class KnownHistories:
    """Histories as they were known: events before a moment and before a log position."""

    def __init__(self, interactions: Interactions) -> None:
        self._histories = interactions.histories()
        order = np.argsort(interactions.user, kind="stable")
        self._position: Longs = interactions.position[order]

    def of(self, user: int, now: int, position: int) -> History:
        """Events of a user strictly before `now` that had become known before `position`."""
        if user < 0:
            return EMPTY_HISTORY
        low = self._histories.offsets[user]
        whole = self._histories.of(user).before(now)
        known = self._position[low : low + len(whole.time)] < position
        return whole.each(lambda column: column[known])


@dataclass(frozen=True)
class ItemPlaces:
    """Where items stand in the vocabulary: those of a catalogue, and those a log added behind them."""

    catalogue: Catalogue
    born: Mapping[str, tuple[int, int]]
    """Item → (index, log position of its first record)."""

    def of(self, item_ids: Sequence[str], position: Longs) -> Ints:
        """int32[n] indices of items as known at log positions; -1 where they were not yet."""
        known = self.catalogue.indices_of(list(item_ids))
        for row in np.flatnonzero(known < 0).tolist():
            index, since = self.born.get(item_ids[row], (-1, 0))
            if index >= 0 and since < position[row]:
                known[row] = index
        return known


def with_log(
    base: Interactions, log: Any, places: ItemPlaces, meaning: EventMeaning, log_base: int
) -> Interactions:
    """Events of tables and of the log behind them, as one table in canonical order.

    Args:
        base: events of the tables.
        log: Arrow table of events in the order of their position; those on items unknown at their
            position are left out, as the fold leaves them out.
        places: index of each item id as known at a log position.
        meaning: weights and grades of the log's events.
        log_base: what is added to a log position to number it behind the tables' rows.
    """
    if not len(log):
        return base
    position = log[POSITION].to_numpy().astype(np.int64)
    item = places.of(log[ITEM_ID].to_pylist(), position)
    known = item >= 0
    users, names = log[USER_ID].to_pylist(), log[EVENT_TYPE].to_pylist()
    index = IdIndex.build(base.user_ids)
    for name in dict.fromkeys(users):
        if index.index_of(name) < 0:
            index.add(name)
    kind_code = {name: code for code, name in enumerate(base.kinds)}
    user = index.indices_of(users)[known]
    # A type is known from its first event that counts on.
    kept = [name for name, keep in zip(names, known.tolist(), strict=True) if keep]
    kind = np.array([kind_code.setdefault(name, len(kind_code)) for name in kept], np.int16)
    stars = log[VALUE].cast("float64").fill_null(np.nan).to_numpy()[known]
    weight, grade = meaning.of(tuple(kind_code), kind, stars)
    later = {
        "user": user,
        "item": item[known],
        "kind": kind,
        "time": log[TIMESTAMP].cast("int64").to_numpy()[known],
        "value": stars.astype(np.float32),
        "weight": weight,
        "grade": grade,
        "position": position[known] + log_base,
    }
    both = {name: np.concatenate([getattr(base, name), later[name]]) for name in later}
    order = np.lexsort((both["position"], both["time"]))
    columns: dict[str, Any] = {name: column[order] for name, column in both.items()}
    return replace(
        base,
        **columns,
        user_ids=PackedStrings(*index.packed()),
        kinds=tuple(kind_code),
        n_items=base.n_items + len(places.born),
    )


def served_rows(
    served: Sequence[Served],
    interactions: Interactions,
    catalogue: Catalogue,
    signals: Mapping[str, Floats],
) -> tuple[Rows, Floats]:
    """(rows to recompute, logged float32[R, F]) of served lists.

    Args:
        signals: float32[R] by name, as the recall stage gives them for the same lists in order.

    Items that the vocabulary has not got since (sent inline) must be left out by the caller.
    """
    index = IdIndex.build(interactions.user_ids)
    user = index.indices_of([one.user_id for one in served])
    now = np.array([one.now for one in served], np.int64)
    position = np.array([one.position for one in served], np.int64)
    items = catalogue.indices_of([item for one in served for item in one.item_ids])
    known = KnownHistories(interactions)
    names = sorted({name for one in served for name in one.context})
    context = {n: np.array([one.context.get(n) for one in served], object) for n in names}
    rows = Rows(
        offsets_of([len(one.item_ids) for one in served]),
        user,
        now,
        position,
        items,
        signals,
        lambda g: known.of(int(user[g]), int(now[g]), int(position[g])),
        context,
    )
    return rows, np.concatenate([one.features for one in served])


def relative(first: Floats, second: Floats) -> Floats:
    """|a - b| / max(|a|, |b|, 1), elementwise; 0 where both are NaN, infinite where one is."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), 1.0)
    difference = np.abs(a - b) / scale
    missing = np.isnan(a) | np.isnan(b)
    both = np.isnan(a) & np.isnan(b)
    result: Floats = np.where(missing, np.where(both, 0.0, np.inf), difference)
    return result


def compare_served(logged: Floats, recomputed: Floats, columns: Sequence[str]) -> dict[str, float]:
    """Each feature's largest relative difference between two float32[R, F], largest first."""
    assert logged.shape == recomputed.shape, f"{logged.shape} rows against {recomputed.shape}"
    if not len(logged):
        return dict.fromkeys(columns, 0.0)
    worst = relative(logged, recomputed).max(axis=0)
    order = np.argsort(-worst, kind="stable")
    return {columns[f]: float(worst[f]) for f in order}


def broken(differences: Mapping[str, float], limit: float = LIMIT) -> list[str]:
    """Features whose readings differ by more than the limit."""
    return [name for name, difference in differences.items() if difference > limit]
