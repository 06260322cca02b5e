"""Simple baselines that need no fitted source: popular, recently popular, newest.

All are as of a cut: they see `Interactions` strictly before it and nothing else. With several
rolling cuts, make lists per cut and join them with `joined`.

Shapes: G groups, N items of the vocabulary, K positions.
"""

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import PADDING, PastItems, RankedLists
from recsys.features.catalogue import Catalogue
from recsys.features.compiled import compiled
from recsys.features.draws import Doubles
from recsys.features.interactions import DAY, Interactions, Ints, Longs

HALF_LIFE_DAYS = 14.0
"""Recent popularity: an event this many days old counts half (assumed, not tuned on test rows)."""


def simple_baselines(
    past: Interactions,
    seen: PastItems,
    length: int,
    *,
    now: int,
    catalogue: Catalogue,
    ordinal: bool,
) -> tuple[list[RankedLists], dict[str, str]]:
    """Popularity, recent popularity and most recent; and those that mean nothing here, with the reason.

    Args:
        past: events that are known, all before the moment asked about.
        seen: what each group's user has had; never listed again.
        length: places of a list.
        now: moment asked about, µs UTC.
        catalogue: N items.
        ordinal: whether times only order, so that nothing is recent.
    """
    n, absent = catalogue.n_items, {}
    scores = {"popularity": popularity_of(past, n).astype(np.float64)}
    if ordinal:
        why = "timestamps carry order only, so nothing is recent"
        absent = {"recent popularity": why, "most recent": why}
    else:
        scores["recent popularity"] = recent_popularity(past, n, now)
        scores["most recent"] = newness(past, n, now, catalogue.created_at)
    return [
        listed(name, score, seen, length, catalogue.available) for name, score in scores.items()
    ], absent


def filled_up(items: Ints, popular: Ints) -> Ints:
    """Short lists (int32[G, K]) filled up with popular items they do not hold."""
    out = items.copy()
    for row in np.flatnonzero((items < 0).any(axis=1)):
        held = out[row][out[row] >= 0]
        more = popular[row][(popular[row] >= 0) & ~np.isin(popular[row], held)]
        whole = np.concatenate([held, more])[: out.shape[1]]
        out[row, : len(whole)] = whole
    return out


def popularity_of(past: Interactions, n_items: int) -> Longs:
    """int64[N]: users who acted on each item and did not dislike it."""
    liked = past.weight > 0
    pairs = np.unique(past.user[liked].astype(np.int64) * max(n_items, 1) + past.item[liked])
    return np.bincount(pairs % max(n_items, 1), minlength=n_items).astype(np.int64)


def recent_popularity(
    past: Interactions, n_items: int, now: int, half_life_days: float = HALF_LIFE_DAYS
) -> Doubles:
    """float64[N]: events on each item that were no dislike, each halved in worth every `half_life_days`
    before `now` (µs)."""
    liked = past.weight > 0
    age = (now - past.time[liked]) / (half_life_days * DAY)
    return np.bincount(past.item[liked], np.exp2(-age), n_items).astype(np.float64)


def newness(past: Interactions, n_items: int, now: int, created_at: Longs | None = None) -> Doubles:
    """float64[N]: when each item appeared, in days: `created_at` (int64[≤ N] µs, 0 or less where unknown)
    where given and before `now` (µs), else its first event; 0 for items of which neither is known."""
    born = np.full(n_items, np.iinfo(np.int64).max)
    np.minimum.at(born, past.item, past.time)
    if created_at is not None:
        told = created_at[:n_items]
        born[: len(told)] = np.where(told > 0, told, born[: len(told)])
    return np.asarray(np.where(born < now, born / DAY, 0.0), np.float64)


def listed(
    name: str,
    score: Doubles,
    seen: PastItems,
    length: int,
    offered: npt.NDArray[np.bool_] | None = None,
) -> RankedLists:
    """The same order for everybody, less what each has seen; ties by item index. Items with
    score 0 or that are not `offered` (bool[N]) are never listed."""
    usable = score > 0 if offered is None else (score > 0) & offered
    by_score = np.lexsort((np.arange(len(score)), -score))
    order = by_score[usable[by_score]].astype(np.int32)
    items = _skip_seen(order, len(score), seen.offsets, seen.items, length)
    scores = np.where(items >= 0, score[np.maximum(items, 0)], -np.inf) if len(score) else items
    return RankedLists(name, items, np.asarray(scores, np.float32))


@compiled
def _skip_seen(order: Ints, n_items: int, offsets: Longs, seen: Ints, length: int) -> Ints:
    groups = len(offsets) - 1
    out = np.full((groups, length), PADDING, np.int32)
    stamp = np.full(n_items, -1, np.int64)
    for g in range(groups):
        for r in range(offsets[g], offsets[g + 1]):
            if seen[r] < n_items:
                stamp[seen[r]] = g
        filled = 0
        for item in order:
            if filled == length:
                break
            if stamp[item] != g:
                out[g, filled] = item
                filled += 1
    return out
