"""How likely a place of a list is to be looked at, estimated from what was shown and clicked.

The model behind all three methods: chance of a click = looked at (place) × relevant (question).
From the best evidence to the least:

1. **Randomised swaps**: two neighbours were exchanged by a coin, so at either place the same
   items were shown; the ratio of clicks is the ratio of being looked at (Joachims et al. 2017).
2. **Intervention harvesting**: the same question (an item, or an item within a band of scores)
   was shown at different places for other reasons, e.g. by different models (Agarwal et al.
   2019). Clicks are fitted as place × question; only questions seen at two places or more
   speak. It assumes that, within a question, the place says nothing more about relevance.
3. **EM** over bands of the model's score (regression-EM, Wang et al. 2018, with the bands as the
   regression). It leans on the score and is the last resort.

Shapes: n shown rows, P places.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.evaluation.lists import Doubles
from recsys.evaluation.report_context import PositionBias
from recsys.features.impressions import Impressions

LEAST_SWAPPED_CLICKS = 50
"""Clicks on randomised rows needed at each place before method 1 is used (assumed)."""
LEAST_CLICKS = 200
"""Clicks on questions shown at several places before method 2 is used (assumed)."""
BANDS = 50
"""Score bands of method 3."""
STEPS = 200
"""Alternations at most; it stops earlier when no place moves by more than 1e-6."""
TINY = 1e-12


@dataclass(frozen=True)
class ShownRows:
    """n rows of what was shown.

    `place` counts from 0; `question` names what makes two rows equally relevant (item codes, or
    item × band of score); `clicked` is 0 or 1; `user` is the cluster of the intervals.
    `swapped_with` is the other place of a pair exchanged by a fair coin (the row's own place
    may be either), -1 where nothing was randomised. `score` is the model's, for method 3.
    """

    place: npt.NDArray[np.integer]
    question: npt.NDArray[np.integer]
    clicked: npt.NDArray[np.integer]
    user: npt.NDArray[np.integer]
    swapped_with: npt.NDArray[np.integer] | None = None
    score: npt.NDArray[np.floating] | None = None
    weight: npt.NDArray[np.floating] | None = None
    """What makes a rare swap as heavy as a fair coin: 1 / its chance. Method 1 only."""

    def __post_init__(self) -> None:
        lengths = [len(c) for c in vars(self).values() if c is not None]
        if len(set(lengths)) != 1:
            raise UsageError(
                "columns of the shown rows differ in length",
                where="position bias",
                found=lengths,
                expected="one length",
            )

    def take(self, rows: npt.NDArray[np.bool_]) -> "ShownRows":
        """The rows of a mask."""
        return replace(
            self,
            **{
                name: value[rows]
                for name, value in vars(self).items()
                if isinstance(value, np.ndarray)
            },
        )


def rows_of_lists(
    lists: Impressions,
    clicked: npt.NDArray[np.integer],
    *,
    question: npt.NDArray[np.integer] | None = None,
    score: npt.NDArray[np.floating] | None = None,
) -> ShownRows:
    """Rows of M lists, n places in all.

    A question is the item unless given otherwise. Where lists are personal, an item is shown
    high to those who like it: then give item × band of the score, or bands of
    `first_place_chance` where lists are drawn at random.

    Args:
        lists: with their users.
        clicked: int[n] or bool[n], whether the item was acted on.
        question: int[n], what makes two rows equally relevant; the item when None.
        score: float[n], the model's score at the time, for the regression; None without.
    """
    asked = lists.items if question is None else question
    return ShownRows(lists.place, asked, clicked, lists.per_row(lists.user), None, score)


def swaps_of_lists(lists: Impressions, clicked: npt.NDArray[np.integer]) -> ShownRows:
    """Randomised pairs of lists in which the service swaps at most one pair of neighbours.

    The chances logged with a list tell what happened: with s the share of lists explored and n
    places, a swapped pair carries s / (n - 1) at both of its places, all others are near 1. Every
    list that was left alone is the other arm of each pair. Lists logged without chances, or
    where nothing could have been swapped, give no rows. See the arguments in `rows_of_lists`.
    """
    lengths, row, propensity = lists.lengths, lists.owner, lists.propensity
    inner = np.append(row[:-1] == row[1:], np.zeros(len(row[-1:]), bool))
    low = propensity < 0.5
    swapped = low & np.append(low[1:], np.zeros(len(low[-1:]), bool)) & inner
    lows = np.bincount(row[low], minlength=len(lists))
    swapped &= (lows == 2)[row]
    one_pair = np.zeros(len(lists))
    long = lengths > 1
    first, last = propensity[lists.offsets[:-1][long]], propensity[lists.offsets[1:][long] - 1]
    one_pair[long] = 1.0 - np.maximum(first, last)
    unswapped = inner & ((lows == 0) & (one_pair > 0.0) & (one_pair < 0.5))[row]
    untouched = 1.0 - one_pair * (lengths - 1)
    upper = np.concatenate([np.nonzero(swapped)[0], np.nonzero(unswapped)[0]])
    chance = np.concatenate([propensity[swapped], untouched[row[unswapped]]])
    place = lists.place[upper]
    return ShownRows(
        place=np.concatenate([place, place + 1]),
        question=np.zeros(2 * len(upper), np.int64),
        clicked=np.concatenate([clicked[upper], clicked[upper + 1]]),
        user=np.tile(lists.user[row[upper]], 2),
        swapped_with=np.concatenate([place + 1, place]),
        weight=np.tile(1.0 / np.maximum(chance, TINY), 2),
    )


def first_place_chance(lists: Impressions) -> Doubles:
    """Chance of each shown item to come first, where lists are drawn place by place without
    replacement and the propensity is each place's chance given the places before (float64[n])."""
    place, row = lists.place, lists.owner
    left = np.ones(len(lists))
    chance = np.empty(len(place))
    for p in range(int(lists.lengths.max(initial=0))):
        here = place == p
        chance[here] = lists.propensity[here] * left[row[here]]
        left[row[here]] -= chance[here]
    return chance


def estimate_position_bias(
    shown: ShownRows, places: int, *, resamples: int = 200, seed: int = 7, level: float = 0.95
) -> PositionBias:
    """Chance of being looked at by place, relative to the first, with intervals by user.

    The best method that the rows carry is used and named. Rows beyond `places` are left out.

    Args:
        shown: n rows of shown lists.
        places: number of places from the top that are estimated.
        resamples: bootstrap resamples of users.
        seed: of the draws; the same seed gives the same numbers.
        level: confidence of the intervals.

    Raises:
        DataRefused: no clicks at all, or no method has what it needs.
    """
    shown = shown.take((shown.place >= 0) & (shown.place < places))
    method, fit = _method(shown, places)
    user = np.unique(shown.user, return_inverse=True)[1]
    n = int(user.max()) + 1
    rng = np.random.default_rng(seed)
    middle = fit(np.ones(len(user)))
    drawn = np.empty((resamples, places))
    for row in range(resamples):
        weight = np.bincount(rng.integers(0, n, n), minlength=n)
        drawn[row] = fit(weight[user].astype(np.float64))
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return PositionBias(middle.tolist(), low.tolist(), high.tolist(), method)


def _method(shown: ShownRows, places: int) -> tuple[str, Callable[[Doubles], Doubles]]:
    clicks = int(shown.clicked.sum())
    if clicks == 0:
        raise DataRefused(
            "position bias cannot be estimated",
            where="impressions",
            found=f"{len(shown.place):,} shown rows and no click",
            expected="some clicks on shown items",
        )
    if shown.swapped_with is not None and enough_swaps(shown, places):
        rows = int((shown.swapped_with >= 0).sum())
        return f"randomised swaps of neighbours ({rows:,} rows)", _swaps(shown, places)
    moved = shown.take(_moved(shown))
    if int(moved.clicked.sum()) >= LEAST_CLICKS and len(np.unique(moved.place)) == places:
        text = (
            f"intervention harvesting ({len(moved.place):,} rows of items shown at several places)"
        )
        return text, _harvest(shown, places)
    if shown.score is None:
        raise DataRefused(
            "position bias cannot be estimated",
            where="impressions",
            found=f"{int(moved.clicked.sum())} clicks on items shown at several places",
            expected=f"{LEAST_CLICKS} such clicks at every place, randomised swaps, or scores",
            fix="set serving.explore_share above 0 to log randomised swaps",
        )
    return f"EM over {BANDS} bands of the model's score ({clicks:,} clicks)", _em(shown, places)


def enough_swaps(shown: ShownRows, places: int) -> bool:
    """Whether the first method has clicks enough at every place."""
    if shown.swapped_with is None or not len(shown.place):
        return False
    upper = np.minimum(shown.place, shown.swapped_with)
    usable = (shown.swapped_with >= 0) & (np.abs(shown.place - shown.swapped_with) == 1)
    weight = np.ones(len(upper)) if shown.weight is None else shown.weight
    worth = (weight * shown.clicked)[usable]
    total = np.bincount(upper[usable], weights=worth, minlength=places)[: places - 1]
    squares = np.bincount(upper[usable], weights=worth**2, minlength=places)[: places - 1]
    # Rare swaps weigh more, so their clicks count as effective ones: (Σw)² / Σw².
    enough = total**2 >= LEAST_SWAPPED_CLICKS * np.maximum(squares, TINY)
    return bool(enough.all()) and places > 1


def _swaps(shown: ShownRows, places: int) -> Callable[[Doubles], Doubles]:
    """Chain of click ratios of neighbours over randomised pairs."""
    assert shown.swapped_with is not None
    usable = (shown.swapped_with >= 0) & (np.abs(shown.place - shown.swapped_with) == 1)
    usable &= np.maximum(shown.place, shown.swapped_with) < places
    place, other = shown.place[usable], shown.swapped_with[usable]
    upper, is_lower = np.minimum(place, other), place > other
    clicked = shown.clicked[usable].astype(np.float64)
    if shown.weight is not None:
        clicked *= shown.weight[usable]

    def fit(weight: Doubles) -> Doubles:
        worth = weight[usable] * clicked
        below = np.bincount(upper[is_lower], weights=worth[is_lower], minlength=places - 1)
        above = np.bincount(upper[~is_lower], weights=worth[~is_lower], minlength=places - 1)
        ratio = np.divide(below, above, out=np.full(places - 1, np.nan), where=above > 0)
        return np.concatenate([[1.0], np.cumprod(ratio)])

    return fit


def _moved(shown: ShownRows) -> npt.NDArray[np.bool_]:
    """Rows whose question was shown at more than one place."""
    question = np.unique(shown.question, return_inverse=True)[1]
    if not len(question):
        return np.zeros(0, bool)
    low = np.full(question.max() + 1, np.iinfo(np.int64).max)
    high = np.full(question.max() + 1, -1)
    np.minimum.at(low, question, shown.place)
    np.maximum.at(high, question, shown.place)
    return np.asarray((high > low)[question], np.bool_)


def _harvest(shown: ShownRows, places: int) -> Callable[[Doubles], Doubles]:
    """Maximum likelihood of clicks ~ Poisson(views × place × question), by alternation over
    the (question, place) cells; questions shown at one place only cancel out."""
    question = np.unique(shown.question, return_inverse=True)[1]
    cells, cell = np.unique(question * places + shown.place, return_inverse=True)
    of_question, of_place = cells // places, cells % places
    clicked = shown.clicked.astype(np.float64)

    def fit(weight: Doubles) -> Doubles:
        views = np.bincount(cell, weights=weight, minlength=len(cells))
        clicks = np.bincount(cell, weights=weight * clicked, minlength=len(cells))
        by_question = np.bincount(of_question, weights=clicks)
        by_place = np.bincount(of_place, weights=clicks, minlength=places)
        looked = np.ones(places)
        for _ in range(STEPS):
            offered = np.bincount(of_question, weights=views * looked[of_place])
            relevant = by_question / np.maximum(offered, TINY)
            wanted = np.bincount(of_place, weights=views * relevant[of_question], minlength=places)
            new = by_place / np.maximum(wanted, TINY)
            new /= max(new[0], TINY)
            moved = np.abs(new - looked).max()
            looked = new
            if moved < 1e-6:
                break
        return looked

    return fit


def _em(shown: ShownRows, places: int) -> Callable[[Doubles], Doubles]:
    """Expectation-maximisation of the place × relevance model over bands of the score."""
    assert shown.score is not None
    edges = np.unique(np.quantile(shown.score, np.linspace(0, 1, BANDS + 1)[1:-1]))
    band = np.searchsorted(edges, shown.score, "right")
    cells, cell = np.unique(band * places + shown.place, return_inverse=True)
    of_band, of_place = cells // places, cells % places
    clicked = shown.clicked.astype(np.float64)

    def fit(weight: Doubles) -> Doubles:
        views = np.bincount(cell, weights=weight, minlength=len(cells))
        clicks = np.bincount(cell, weights=weight * clicked, minlength=len(cells))
        place_views = np.maximum(np.bincount(of_place, weights=views, minlength=places), TINY)
        band_views = np.maximum(np.bincount(of_band, weights=views), TINY)
        looked = np.linspace(0.9, 0.5, places)
        relevant = np.full(len(band_views), 0.3)
        for _ in range(STEPS):
            a, b = looked[of_place], relevant[of_band]
            unclicked = (views - clicks) / np.maximum(1 - a * b, TINY)
            seen = clicks + unclicked * a * (1 - b)
            wanted = clicks + unclicked * b * (1 - a)
            new = np.bincount(of_place, weights=seen, minlength=places) / place_views
            relevant = np.bincount(of_band, weights=wanted) / band_views
            moved = np.abs(new - looked).max()
            looked = new
            if moved < 1e-6:
                break
        return np.asarray(looked / max(looked[0], TINY), np.float64)

    return fit
