"""Who is looked at apart: labels of groups (users, days, surfaces) or of relevant items.

A segmentation of items restricts the truth, not the lists: "cold items" asks how well the whole
list finds the cold items that users did act on, and is undefined for groups without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import Truth
from recsys.evaluation.popularity_at import PopularityAt
from recsys.features.interactions import Interactions, Longs

LIGHT_UNTIL = 10
"""Events in the history; more is a heavy user (assumed: near the median of the bundled data)."""
HEAD_SHARE = 0.2
"""Items that are the head: the most popular fifth (the usual 80/20 reading)."""
MAX_SEGMENTS = 24
"""Labels shown of one segmentation; rarer ones are pooled as "other"."""
MAX_DAYS = 20
"""Days shown one by one; longer windows are pooled into equal stretches."""
OTHER = "other"
BY_HISTORY = "history"
"""Name of the segmentation by whether anything is known of a person."""
RETURNING, NO_HISTORY = "returning people", "people without a history"
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class SegmentLabels:
    """`code` indexes `labels`, -1 is in no segment.

    With `of="group"` code is int[G]; with `of="relevant"` it is int[R], in the order of
    `Truth.items`.
    """

    labels: tuple[str, ...]
    code: npt.NDArray[np.integer]
    of: Literal["group", "relevant"] = "group"


def from_column(
    values: Sequence[object], of: Literal["group", "relevant"] = "group"
) -> SegmentLabels:
    """Segments by the values of any column, most frequent first; None belongs to none."""
    texts = np.array(["" if v is None else str(v) for v in values], dtype=object)
    known = np.array([v is not None for v in values], bool)
    names, counts = np.unique(texts[known].astype(str), return_counts=True)
    ranked = [str(n) for n in names[np.lexsort((names, -counts))]]
    kept = ranked if len(ranked) <= MAX_SEGMENTS else ranked[: MAX_SEGMENTS - 1]
    place = {name: number for number, name in enumerate(kept)}
    other = len(kept)
    code = np.array(
        [place.get(str(t), other) if k else -1 for t, k in zip(texts, known, strict=True)], np.int32
    )
    return SegmentLabels(tuple(kept) if len(kept) == len(ranked) else (*kept, OTHER), code, of)


def by_activity(history_length: npt.NDArray[np.integer]) -> SegmentLabels:
    """New, light and heavy users by the events known of them (int[G])."""
    code = np.where(history_length == 0, 0, np.where(history_length <= LIGHT_UNTIL, 1, 2))
    labels = ("new_users", f"light users (1–{LIGHT_UNTIL} events)", "heavy users")
    return SegmentLabels(labels, code.astype(np.int32))


def by_history(history_length: npt.NDArray[np.integer]) -> SegmentLabels:
    """People with a history and people without one, by the events known of them (int[G]).

    What can be known of the two has nothing in common, so a report's headline is that of the first.
    """
    return SegmentLabels((RETURNING, NO_HISTORY), (history_length == 0).astype(np.int32))


def of_history(history_length: npt.NDArray[np.integer]) -> dict[str, SegmentLabels]:
    """Both segmentations by the events known of a user (int[G]), by name."""
    return {BY_HISTORY: by_history(history_length), "users": by_activity(history_length)}


def by_item_popularity(truth: Truth, popularity: PopularityAt) -> SegmentLabels:
    """Cold (no event before the list), tail and head relevant items, as of each list's own moment."""
    counts = popularity.held(truth.group_of_item, truth.items)
    edges = np.array([_head_from(row) for row in popularity.counts])
    edge = edges[popularity.snapshot[truth.group_of_item]]
    code = np.where(counts == 0, 0, np.where(counts < edge, 1, 2))
    return SegmentLabels(
        ("cold_items", "tail items", "head items"), code.astype(np.int32), "relevant"
    )


def _head_from(popularity: npt.NDArray[np.number]) -> float:
    """Events from which an item is of the head."""
    seen = np.sort(popularity[popularity > 0])
    return float(seen[int(len(seen) * (1.0 - HEAD_SHARE))]) if len(seen) else 1.0


def by_event_type(truth: Truth, events: Interactions) -> SegmentLabels | None:
    """Relevant items by the type of the user's event on them, the highest grade's where there are
    several; None where all are of one type. `events` are those of the window, users coded as in
    the truth."""
    key = events.user.astype(np.int64) << 32 | events.item
    order = np.lexsort((events.grade, key))
    key, kind = key[order], events.kind[order]
    wanted = truth.user[truth.group_of_item].astype(np.int64) << 32 | truth.items
    place = np.searchsorted(key, wanted, "right") - 1
    found = (place >= 0) & (key[np.maximum(place, 0)] == wanted) if len(key) else place >= 0
    code = np.where(found, kind[np.maximum(place, 0)] if len(kind) else -1, -1)
    if len(np.unique(code[found])) < 2:
        return None
    names = np.array([*events.kinds, None], dtype=object)
    return from_column(list(names[code]), "relevant")


def by_day(time: Longs) -> SegmentLabels:
    """Days (UTC) of the groups, in order; long windows are cut into `MAX_DAYS` equal stretches."""
    if not len(time):
        return SegmentLabels((), np.zeros(0, np.int32))
    day = time // DAY_US
    first, last = int(day.min()), int(day.max())
    stretch = max(1, -(-(last - first + 1) // MAX_DAYS))
    place = (day - first) // stretch
    present, code = np.unique(place, return_inverse=True)
    labels = tuple(_date(first + int(p) * stretch) for p in present)
    return SegmentLabels(labels, code.astype(np.int32))


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")
