"""Lists that were shown, read for what they tell: how places bias clicks, and what another order
would have earned.

Users are coded as in the events that the lists are read with. Shapes: L lists, n shown items of all lists, P places.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from recsys.evaluation.lists import (
    Doubles,
    Floats,
)
from recsys.evaluation.off_policy import LoggedChoices
from recsys.evaluation.position_bias import (
    enough_swaps,
    estimate_position_bias,
    first_place_chance,
    rows_of_lists,
    swaps_of_lists,
)
from recsys.evaluation.query_sets import grades_of_shown
from recsys.evaluation.report_context import PositionBias
from recsys.features.compiled import compiled
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions

MOST_PLACES = 20
"""Places whose bias is estimated; fewer where the usual list is shorter."""
BANDS = 5
"""Bands of an item's chance of being shown first, within which the place says nothing of taste."""
EXPLORED = 0.5
"""A chance from here on belongs to a list that is the same but for rare swaps."""
LONGEST = 12
"""Places of a list whose orders are all gone through: 4,096 sets."""
LEAST_EXAMINED = 0.2
"""Examination below which a click counts no heavier: a few late clicks must not decide (assumed)."""
REWARD_BANDS = 10


def acted_on(lists: Impressions, events: Interactions) -> npt.NDArray[np.int64]:
    """int64[n]: 1 where any event that is no dislike followed within a day, else 0."""
    liked = events.where(events.weight > 0)
    liked = replace(liked, grade=np.ones(len(liked), np.int8))
    followed = grades_of_shown(lists, liked)
    return (followed > 0).astype(np.int64)


def bias_of_lists(
    lists: Impressions, events: Interactions, *, resamples: int = 200, seed: int = 7
) -> PositionBias:
    """How places bias what is acted on, from the best evidence the lists carry.

    Rare swaps of the service first; else items shown at several places, apart by how likely each
    was to come first where lists are drawn at random.

    Raises:
        DataRefused: the lists do not carry enough.
    """
    acted = acted_on(lists, events)
    places = int(np.clip(np.median(lists.lengths) if len(lists) else 1, 1, MOST_PLACES))
    swaps = swaps_of_lists(lists, acted)
    if enough_swaps(swaps, places):
        return estimate_position_bias(swaps, places, resamples=resamples, seed=seed)
    question = lists.items.astype(np.int64)
    drawn = np.isfinite(lists.propensity)
    if drawn.all() and len(drawn) and float(lists.propensity.max()) < 1.0:
        chance = first_place_chance(lists)
        edges = np.quantile(chance, np.linspace(0, 1, BANDS + 1)[1:-1])
        question = question * BANDS + np.searchsorted(edges, chance)
    rows = rows_of_lists(lists, acted, question=question)
    return estimate_position_bias(rows, places, resamples=resamples, seed=seed)


def label_weights(
    lists: Impressions,
    events: Interactions,
    bias: PositionBias,
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    window: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]],
) -> Floats:
    """float32[r]: what each of r labels (user, item, acted on within [begin, end)) is worth.

    1 / examination of the place where the item was shown when it was acted on: a click that had
    little chance to happen stands for those that did not. 1 where it was not shown.

    Args:
        lists: lists shown to users.
        events: what users did.
        bias: chance of being looked at by place.
        user: int[r], user of each label.
        item: int[r], item of each label.
        window: (begin, end) int64[r] each, µs UTC, in which the label was acted on.
    """
    looked = np.maximum(np.asarray(bias.examination, np.float64), LEAST_EXAMINED)
    acted = np.flatnonzero(acted_on(lists, events))
    row = lists.owner[acted]
    shown_at, place = lists.time[row], np.minimum(lists.place[acted], len(looked) - 1)
    key = lists.user[row].astype(np.int64) << 32 | lists.items[acted]
    order = np.lexsort((shown_at, key))
    key, shown_at, place = key[order], shown_at[order], place[order]
    wanted = np.asarray(user, np.int64) << 32 | np.asarray(item, np.int64)
    begin, end = (np.asarray(edge, np.int64) for edge in window)
    weight = np.ones(len(wanted), np.float32)
    low = np.searchsorted(key, wanted, "left")
    high = np.searchsorted(key, wanted, "right")
    for label in np.flatnonzero(high > low):
        times = shown_at[low[label] : high[label]]
        # The first showing within the window that was acted on.
        inside = np.flatnonzero((times >= begin[label]) & (times < end[label]))
        if len(inside):
            weight[label] = 1.0 / looked[place[low[label] + inside[0]]]
    return weight


def first_given_set(lists: Impressions) -> Doubles:
    """float64[n]: chance of each shown item to have come first, given which items were shown.

    For lists drawn place by place without replacement all orders of the set are gone through; for
    lists that are the same but for rare swaps the logged chance of the first place is it already,
    and nothing is said of the other places (NaN), nor of lists too long or without chances.
    """
    out = np.full(len(lists.items), np.nan)
    chance = first_place_chance(lists)
    for g in range(len(lists)):
        rows = lists.rows_of(g)
        given = lists.propensity[rows]
        if not len(given) or not np.isfinite(given).all():
            continue
        if given.max() >= EXPLORED:
            out[rows.start] = given[0]
        elif len(given) <= LONGEST:
            out[rows] = _first_of_set(chance[rows])
    return out


@compiled
def _first_of_set(chance: Doubles) -> Doubles:
    """Chance of each of k items to be first, given that these k were drawn (in any order).

    `chance` are their single draws' probabilities; with T the set drawn so far, the next is j
    with chance[j] / (1 - chance of T). ways[T] sums over the orders in which the rest can follow.
    """
    k = len(chance)
    full = 1 << k
    mass = np.zeros(full)
    ways = np.zeros(full)
    for drawn in range(1, full):
        low = 0
        while not drawn >> low & 1:
            low += 1
        mass[drawn] = mass[drawn & (drawn - 1)] + chance[low]
    ways[full - 1] = 1.0
    for drawn in range(full - 2, -1, -1):
        left = max(1.0 - mass[drawn], 1e-9)
        for j in range(k):
            if not drawn >> j & 1:
                ways[drawn] += chance[j] / left * ways[drawn | 1 << j]
    out = np.empty(k)
    for j in range(k):
        out[j] = chance[j] * ways[1 << j] / max(ways[0], 1e-300)
    return out


def choices_of_lists(
    lists: Impressions, acted: npt.NDArray[np.integer], score: Doubles, seed: int = 7
) -> LoggedChoices:
    """Which shown item comes first, as a logged choice, and the same choice by `score` (float64[n]).

    One choice per list with known chances; the reward is whether the first item was acted on. A
    model of the reward, by bands of the score at the first place, is fitted on the other half of
    the users, so that the doubly robust estimate never estimates a row from itself.
    """
    first = first_given_set(lists)
    starts = lists.offsets[:-1]
    usable = np.flatnonzero((lists.lengths > 1) & np.isfinite(first[starts]))
    best = np.array(
        [starts[g] + np.argmax(score[starts[g] : lists.offsets[g + 1]]) for g in usable], np.int64
    )
    logged = starts[usable]
    user = lists.user[usable]
    reward = acted[logged].astype(np.float64)
    predicted, expected = _rewards(score[logged], score[best], reward, user, seed)
    return LoggedChoices(
        propensity=np.clip(first[logged], 1e-12, 1.0),
        target=(best == logged).astype(np.float64),
        reward=reward,
        user=user,
        predicted=predicted,
        expected=expected,
    )


def _rewards(
    logged: Doubles, chosen: Doubles, reward: Doubles, user: npt.NDArray[np.integer], seed: int
) -> tuple[Doubles, Doubles]:
    """Modelled reward of the logged and of the chosen first items, each from the other half.

    Args:
        logged: float64[n], score of the logged first item.
        chosen: float64[n], score of the item that the model puts first.
        reward: float64[n], what the logged item earned.
        user: int[n], halves are of whole users.
        seed: of the halves.
    """
    predicted, expected = np.zeros(len(logged)), np.zeros(len(logged))
    if not len(logged):
        return predicted, expected
    codes = np.unique(user, return_inverse=True)[1]
    half = np.random.default_rng(seed).random(codes.max() + 1) < 0.5
    for side in (False, True):
        mine, other = half[codes] == side, half[codes] != side
        if not other.any():
            continue
        edges = np.unique(np.quantile(logged[other], np.linspace(0, 1, REWARD_BANDS + 1)[1:-1]))
        band = np.searchsorted(edges, logged[other], "right")
        size = np.bincount(band, minlength=len(edges) + 1)
        total = np.bincount(band, reward[other], len(edges) + 1)
        mean = np.where(size > 0, total / np.maximum(size, 1), reward[other].mean())
        predicted[mine] = mean[np.searchsorted(edges, logged[mine], "right")]
        expected[mine] = mean[np.searchsorted(edges, chosen[mine], "right")]
    return predicted, expected
