"""Items like given ones: what a page shows under "similar" and "bought together".

The given items, the anchors, stand as a short history, and the release's sources are asked for what
follows it: the sources of behaviour by who acted on both, those of content by words, attributes and
the text vectors. Their lists are fused by weighted reciprocal ranks, as the candidates of a
recommendation are. Nothing is fitted for it. Shapes: N items, a anchors, n found.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from recsys.encoder.tower import InterestSource
from recsys.features.interactions import History, Ints
from recsys.features.protocols import Mask, Recalled, RecallSource, ScoreSource
from recsys.query import BLEND, BOUGHT_TOGETHER, BY_TEXT
from recsys.retrieval.candidates import RRF_OFFSET, fuse

TEXT: Final = "text"
WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    BLEND: {
        "item_item": 1.0,
        "transitions": 1.0,
        "als": 1.0,
        "bm25": 0.33,
        TEXT: 0.25,
        "own_vectors": 0.25,
        "attributes": 0.1,
        "ease": 0.1,
    },
    BOUGHT_TOGETHER: {"item_item": 1.0, "transitions": 1.0, "als": 1.0, "ease": 0.1},
    BY_TEXT: {TEXT: 1.0},
}
"""Weight of each source's list by the way of asking; a release may lack some. Between those
that half of the held-out users chose on films and on games (measured, `benchmarks/similar_items.py`); own
vectors weigh as the text does (assumed)."""
DEPTH: Final = 100
"""Items a source proposes at the least (assumed: no page shows more)."""
MOST_ANCHORS: Final = 50
"""Items that can be given together."""


def similar_items(
    sources: Mapping[str, ScoreSource], anchors: Ints, by: str, limit: int, now: int, blocked: Mask
) -> Recalled:
    """At most `limit` items like the anchors, best first; never an anchor.

    Args:
        sources: of the release, the text source with the items that came after it.
        anchors: int32[a], the last one weighing most, as the latest event of a history does.
        by: a key of `WEIGHTS`.
        limit: items wanted.
        now: the moment, µs.
        blocked: uint8[N], 1 for items that may not be listed; the anchors are left out here.

    Returns:
        Scores are cosines of text where only the text is asked; else the fused score over the best
        there could be, so that 1 stands first in the list of every source that was asked.
    """
    weights = WEIGHTS[by]
    lists = proposals(sources, anchors, list(weights), max(DEPTH, limit), now, blocked)
    if by == BY_TEXT:
        items, scores = lists[TEXT] if lists else _NOTHING
        return Recalled(items[:limit], scores[:limit])
    voting = [(weights[name], found.items) for name, found in lists.items() if len(found.items)]
    fused = fuse(voting, len(blocked), limit)
    best = sum(weights[name] for name in lists) / (RRF_OFFSET + 1.0)
    return Recalled(fused.items, fused.scores / np.float32(best or 1.0))


def proposals(
    sources: Mapping[str, ScoreSource],
    anchors: Ints,
    names: Sequence[str],
    depth: int,
    now: int,
    blocked: Mask,
) -> dict[str, Recalled]:
    """What each of the named sources that are there finds near the anchors, `depth` items at most."""
    free = blocked.copy()
    free[anchors] = 1
    history = as_history(anchors, now)
    return {
        name: _listed(sources[name], anchors, history, depth, now, free)
        for name in names
        if name in sources
    }


def as_history(anchors: Ints, now: int) -> History:
    """The anchors as events just before `now`, one µs after another, each liked."""
    n = len(anchors)
    return History(
        np.ascontiguousarray(anchors, np.int32),
        np.zeros(n, np.int16),
        now - n + np.arange(n, dtype=np.int64),
        np.ones(n, np.float32),
        np.ones(n, np.int8),
    )


_NOTHING: Final = Recalled(np.empty(0, np.int32), np.empty(0, np.float32))


def _listed(
    source: object, anchors: Ints, history: History, depth: int, now: int, blocked: Mask
) -> Recalled:
    if isinstance(source, InterestSource):
        # The tower says what a person goes for next; likeness is the cosine of the texts.
        return source.similar(anchors, depth, blocked)
    if isinstance(source, RecallSource):
        return source.recall(history, depth, now, blocked)
    return _NOTHING
