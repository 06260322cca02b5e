"""Batch against online: the same rows, read both ways, feature by feature.

A served list is logged with its moment and the log position known then; recomputing it in batch
must use what was known, so the position decides, not the event's time.

Shapes: G served lists, R their rows, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from features.catalogue import Catalogue
from features.interactions import EMPTY_HISTORY, Floats, History, Interactions, Longs
from features.rows import Rows

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
    users = {name: code for code, name in enumerate(interactions.user_ids.tolist())}
    user = np.array([users.get(one.user_id, -1) for one in served], np.int32)
    now = np.array([one.now for one in served], np.int64)
    position = np.array([one.position for one in served], np.int64)
    offsets = np.zeros(len(served) + 1, np.int64)
    np.cumsum([len(one.item_ids) for one in served], out=offsets[1:])
    items = catalogue.indices_of([item for one in served for item in one.item_ids])
    known = KnownHistories(interactions)
    names = sorted({name for one in served for name in one.context})
    context = {n: np.array([one.context.get(n) for one in served], object) for n in names}
    rows = Rows(
        offsets,
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
