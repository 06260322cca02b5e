"""What everybody goes for in a window of time, out of the online counters; nobody in particular is asked
for. Shapes: N items, K event types, n found."""

import numpy as np

from recsys.data_schemas.errors import UsageError
from recsys.features.protocols import Mask, Recalled
from recsys.features.state import OnlineState
from recsys.features.time_buckets import UNBOUNDED, window_name, window_us


def popular_items(state: OnlineState, window: str, limit: int, now: int, blocked: Mask) -> Recalled:
    """At most `limit` items of the most weight of events, best first, ties by index.

    Args:
        state: its counters see whole buckets before the one of `now`.
        window: `24h`, `7d`, or `all`.
        limit: items wanted.
        now: the moment, µs.
        blocked: uint8[N], 1 for items that may not be listed.

    Raises:
        UsageError: the window is not a whole number of the counters' buckets.
    """
    width = window_us(window)
    if width != UNBOUNDED and (width < state.bucket_us or width % state.bucket_us):
        bucket = window_name(state.bucket_us)
        raise UsageError(
            "the window is not a whole number of the counters' buckets",
            where="window",
            found=window,
            expected=f"a multiple of {bucket}, or `all`",
        )
    kinds = np.arange(len(state.kinds), dtype=np.int16)
    weight, _ = state.meaning.of(state.kinds, kinds, np.full(len(kinds), np.nan))
    items = np.arange(state.catalogue.n_items, dtype=np.int32)
    counted = state.counters(now).read("item", items, kinds, np.array([width], np.int64))
    score = counted[:, : len(kinds), 0] @ np.maximum(weight, 0.0).astype(np.float64)
    score[blocked != 0] = 0.0
    order = np.argsort(-score, kind="stable")[:limit]
    order = order[score[order] > 0.0]
    return Recalled(items[order], score[order].astype(np.float32))
