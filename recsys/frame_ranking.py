"""A bundle asked by a frame: rows to score, or users to recommend to, each with the history sent along.

A bundle holds no personal data, so what is known of a user is what the frame says: events in the
column `history`, as a list of objects or its JSON text. A row without one is asked for somebody new.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.features.time_buckets import microseconds
from recsys.query import RankingQuery
from recsys.recommender import LoadedRelease, release_over_nobody

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

HISTORY: Final = "history"
SCORE, RANK = "score", "rank"


class FrameRanker:
    """One bundle, opened once.

    Args:
        bundle_dir: folder of a bundle.
    """

    def __init__(self, bundle_dir: Path) -> None:
        self.release: LoadedRelease = release_over_nobody(bundle_dir)

    def scores(self, frame: "pd.DataFrame") -> "npt.NDArray[np.float64]":
        """float64[rows]: score of each row's item for its user, in the frame's order; NaN for an item
        that the bundle does not know. Rows of one user, moment and history are ranked together."""
        out = np.full(len(frame), np.nan)
        items = [str(item) for item in frame[c.ITEM_ID].tolist()]
        for user, now, history, rows in _asked(frame):
            ids = [items[row] for row in rows]
            ask = RankingQuery(user, now, items=list(dict.fromkeys(ids)), history=history)
            answer = self.release.answer(ask)
            score = dict(zip(answer.item_ids, answer.scores, strict=True))
            out[rows] = [score.get(item, np.nan) for item in ids]
        return out

    def lists(self, frame: "pd.DataFrame", k: int, filter_viewed: bool) -> "pd.DataFrame":
        """The best k items for each row's user: user_id, item_id, score, rank from 1.

        Args:
            frame: a row for each user.
            k: items of a list.
            filter_viewed: whether what stands in the history is left out.
        """
        import pandas as pd

        rows = []
        for user, now, history, _ in _asked(frame):
            ask = RankingQuery(user, now, k=k, history=history, keep_seen=not filter_viewed)
            answer = self.release.answer(ask)
            listed = zip(answer.item_ids, answer.scores, strict=True)
            rows += [(user, item, score, rank) for rank, (item, score) in enumerate(listed, 1)]
        return pd.DataFrame(rows, columns=[c.USER_ID, c.ITEM_ID, SCORE, RANK])


def _asked(
    frame: "pd.DataFrame",
) -> Iterator[tuple[str, int, list[dict[str, Any]] | None, list[int]]]:
    """(user, moment in µs, history, rows) of each question; a row without a time asks as of now."""
    wall = time.time_ns() // 1000
    groups: dict[tuple[str, int, str], tuple[list[dict[str, Any]] | None, list[int]]] = {}
    users = [str(user) for user in frame[c.USER_ID].tolist()]
    times = frame[c.TIMESTAMP].tolist() if c.TIMESTAMP in frame.columns else [None] * len(frame)
    past = frame[HISTORY].tolist() if HISTORY in frame.columns else [None] * len(frame)
    for row, (user, at, given) in enumerate(zip(users, times, past, strict=True)):
        now = wall if _absent(at) else _moment(at, f"row {row}, {c.TIMESTAMP}")
        history = _events(given, row)
        key = (user, now, json.dumps(history, sort_keys=True, default=str))
        groups.setdefault(key, (history, []))[1].append(row)
    for (user, now, _), (history, rows) in groups.items():
        yield user, now, history, rows


def _absent(value: Any) -> bool:
    return value is None or value != value


def _moment(value: Any, where: str) -> int:
    try:
        return microseconds(value)
    except (ValueError, TypeError):
        raise UsageError(
            "this is no time", where=where, found=repr(value)[:100], expected="ISO 8601, or µs"
        ) from None


def _events(given: Any, row: int) -> list[dict[str, Any]] | None:
    """Events sent along, each with an item_id.

    Raises:
        UsageError: it is no list of objects with an item_id.
    """
    if isinstance(given, float) or given is None:
        return None
    where = f"row {row}, {HISTORY}"
    try:
        events = json.loads(given) if isinstance(given, str) else list(given)
    except (ValueError, TypeError):
        events = [given]
    found: list[dict[str, Any]] = []
    for event in events:
        if not isinstance(event, dict) or _absent(event.get(c.ITEM_ID)):
            raise UsageError(
                "a history is a list of events, each with an item",
                where=where,
                found=repr(event)[:100],
                expected=f'[{{"{c.ITEM_ID}": "a1", "{c.EVENT_TYPE}": "click"}}]',
            )
        kept = {key: value for key, value in event.items() if not _absent(value)}
        if c.TIMESTAMP in kept:
            kept[c.TIMESTAMP] = _moment(kept[c.TIMESTAMP], where)
        found.append(kept | {c.ITEM_ID: str(kept[c.ITEM_ID])})
    return found
