"""Metrics of ranked lists, one value per group; NaN where a metric has no meaning.

What the numbers mean, in every corner:

- **Relevant** is a grade of at least 1. A group without a relevant item has no value (NaN) in any
  accuracy metric; it still counts in coverage, diversity, novelty.
- **Order** is the order of the list; equal scores are ranked as listed (only AUC counts a tie as
  half, because there a tie says "cannot tell").
- **Short lists**: positions that a list does not fill are misses. Precision divides by k, not by
  the list's length. An empty list is a list of misses, not an absent one.
- **Repeated items**: only the first showing can be a hit.
- **All positive**: a list of every relevant item and nothing else has no AUC (NaN); all other
  metrics are well defined.
- **recall@k** = hits in the first k / relevant items (not / min(k, relevant): a user with more
  than k relevant items cannot reach 1).
- **nDCG@k** uses gain 2^grade - 1 and discount 1/log2(position + 1), as LightGBM's lambdarank;
  `gain="linear"` gives trec_eval's. The ideal list holds the min(k, relevant) best grades.
- **MAP@k** divides by the number of relevant items (trec_eval's map_cut).
- **AUC** compares each relevant item with each irrelevant item *of the list*; a relevant item that
  the list does not hold loses every comparison (pessimistic). A list without irrelevant items
  that lacks relevant ones scores the share it holds, so an empty list scores 0.

`METRICS`, at the end, declares each once: reports, gates, pages and settings go by it.

Shapes: G groups, K positions, N items, d dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.errors import UsageError
from recsys.evaluation.lists import (
    RELEVANT_FROM,
    Grades,
    PastItems,
    RankedLists,
    Truth,
    check_groups,
)
from recsys.evaluation.popularity_at import PopularityAt
from recsys.features.compiled import compiled
from recsys.features.draws import Doubles
from recsys.features.interactions import Floats, Ints, Longs
from recsys.features.ragged import first_of_runs

Gain = Literal["exponential", "linear"]
CHUNK = 4096
"""Groups handled at once where a metric needs vectors; bounds memory (measured: under 200 MB)."""


@dataclass(frozen=True)
class MatchedLists:
    """Lists read against the truth: everything that the accuracy metrics need.

    Few positions are hits, so hits are kept apart: `hit_group`, `hit_place` (from 0) and
    `hit_grade`, in the order of groups and places (H of them). `ideal_*` are the same of the
    ideal lists, over all relevant items. `grade` int8[G, K] is the grade at each position (0: not
    relevant), `relevant` int64[G] counts relevant items, `length` int64[G] the filled positions,
    `repeated` the positions that showed an item again.
    """

    grade: Grades
    scores: Floats
    relevant: Longs
    length: Longs
    hit_group: Longs
    hit_place: Longs
    hit_grade: Grades
    ideal_group: Ints
    ideal_place: Longs
    ideal_grade: Grades
    repeated: int

    @property
    def n_groups(self) -> int:
        return len(self.relevant)


def match(truth: Truth, lists: RankedLists) -> MatchedLists:
    """Read lists against the truth.

    Raises:
        RecsysError: the lists are not one per group.
    """
    check_groups(truth, lists)
    top = max(
        int(truth.items.max()) if len(truth.items) else 0,
        int(lists.items.max()) if lists.items.size else 0,
    )
    grade, repeated = _grades_at(lists.items, truth.offsets, truth.items, truth.grades, top + 1)
    useful = truth.grades >= RELEVANT_FROM
    group, best = truth.group_of_item[useful], truth.grades[useful]
    order = np.lexsort((-best.astype(np.int64), group))
    relevant = np.bincount(group, minlength=truth.n_groups).astype(np.int64)
    hit_group, hit_place = np.nonzero(grade >= RELEVANT_FROM)
    return MatchedLists(
        grade=grade,
        scores=lists.scores,
        relevant=relevant,
        length=(lists.items >= 0).sum(1).astype(np.int64),
        hit_group=hit_group,
        hit_place=hit_place,
        hit_grade=grade[hit_group, hit_place],
        ideal_group=group[order],
        ideal_place=np.arange(len(group)) - np.repeat(np.cumsum(relevant) - relevant, relevant),
        ideal_grade=best[order],
        repeated=repeated,
    )


@compiled
def _grades_at(
    items: Ints, offsets: Longs, true_items: Ints, true_grades: Grades, width: int
) -> tuple[Grades, int]:
    """Grade at each position of each list, and how many positions repeat an item.

    Args:
        items: int32[G, length], lists; -1 where they end.
        offsets: int64[G+1], bounds of the truth.
        true_items: int32[R], relevant items.
        true_grades: int8[R], their grades.
        width: one more than the largest item index.
    """
    groups, length = items.shape
    grade = np.zeros((groups, length), np.int8)
    stamp = np.full(width, -1, np.int64)
    shown = np.full(width, -1, np.int64)
    value = np.zeros(width, np.int8)
    repeated = 0
    for g in range(groups):
        for r in range(offsets[g], offsets[g + 1]):
            stamp[true_items[r]] = g
            value[true_items[r]] = max(true_grades[r], 0)
        for p in range(length):
            item = items[g, p]
            if item < 0:
                break
            if shown[item] == g:
                repeated += 1
                continue
            shown[item] = g
            if stamp[item] == g:
                grade[g, p] = value[item]
    return grade, repeated


def ndcg(matched: MatchedLists, k: int, gain: Gain = "exponential") -> Doubles:
    """Normalised discounted cumulative gain of the first k; float64[G]."""
    got = _discounted(matched.hit_group, matched.hit_place, matched.hit_grade, matched, k, gain)
    best = _discounted(
        matched.ideal_group, matched.ideal_place, matched.ideal_grade, matched, k, gain
    )
    return _over(got, best)


def recall(matched: MatchedLists, k: int) -> Doubles:
    """Hits in the first k / relevant items; float64[G]."""
    return _over(_hits(matched, k), matched.relevant)


def precision(matched: MatchedLists, k: int) -> Doubles:
    """Hits in the first k / k; float64[G]."""
    return _defined(matched, _hits(matched, k) / k)


def hit_rate(matched: MatchedLists, k: int) -> Doubles:
    """1 if the first k hold a relevant item, else 0; float64[G]."""
    return _defined(matched, (_hits(matched, k) > 0).astype(np.float64))


def mrr(matched: MatchedLists, k: int | None = None) -> Doubles:
    """1 / place of the first hit within the first k (the whole list if None), 0 without one."""
    first = _first_of_group(matched)
    group, place = matched.hit_group[first], matched.hit_place[first]
    value = np.zeros(matched.n_groups)
    value[group] = np.where(place < (k or place + 1), 1.0 / (place + 1.0), 0.0)
    return _defined(matched, value)


def average_precision(matched: MatchedLists, k: int) -> Doubles:
    """Sum of precision at each hit in the first k / relevant items; float64[G]."""
    starts = np.nonzero(_first_of_group(matched))[0]
    per_group = np.diff(np.append(starts, len(matched.hit_group)))
    ordinal = np.arange(len(matched.hit_group)) - np.repeat(starts, per_group)
    share = np.where(matched.hit_place < k, (ordinal + 1.0) / (matched.hit_place + 1.0), 0.0)
    total = np.bincount(matched.hit_group, weights=share, minlength=matched.n_groups)
    return _over(total, matched.relevant)


def auc(matched: MatchedLists) -> Doubles:
    """Share of (relevant, irrelevant) pairs in the right order; see the module's rules."""
    return np.asarray(
        _auc(matched.grade, matched.scores, matched.length, matched.relevant), np.float64
    )


@compiled
def _auc(grade: Grades, scores: Floats, length: Longs, relevant: Longs) -> Doubles:
    out = np.full(len(relevant), np.nan)
    for g in range(len(relevant)):
        hits = 0
        for p in range(length[g]):
            hits += grade[g, p] >= 1
        negatives = length[g] - hits
        if relevant[g] == 0:
            continue
        if negatives == 0:
            if hits < relevant[g]:
                out[g] = hits / relevant[g]
            continue
        below, right, p = negatives, 0.0, 0
        while p < length[g]:
            tied_hits = tied_misses = 0
            first = p
            while p < length[g] and (p == first or scores[g, p] == scores[g, first]):
                if grade[g, p] >= 1:
                    tied_hits += 1
                else:
                    tied_misses += 1
                p += 1
            below -= tied_misses
            right += tied_hits * (below + 0.5 * tied_misses)
        out[g] = right / (relevant[g] * negatives)
    return out


def coverage(lists: RankedLists, k: int, catalogue_size: int) -> float:
    """Share of the catalogue that is in anybody's first k."""
    return float((exposure(lists, k, catalogue_size) > 0).mean()) if catalogue_size else np.nan


def gini(counts: npt.NDArray[np.integer]) -> float:
    """Inequality of exposure over N items: 0 all equal, (N - 1)/N one item takes all.

    NaN when nothing was shown.
    """
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    ranked = np.sort(counts).astype(np.float64)
    n = len(ranked)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ranked / (n * total))


def exposure(lists: RankedLists, k: int, catalogue_size: int) -> Longs:
    """int64[N]: how many lists show each item in their first k."""
    shown = lists.items[:, :k]
    held = shown[(shown >= 0) & (shown < catalogue_size)]
    return np.bincount(held, minlength=catalogue_size).astype(np.int64)


def novelty(lists: RankedLists, k: int, popularity: PopularityAt) -> Doubles:
    """Mean self-information -log2 p(item) of the first k, in bits; float64[G].

    p is the item's share of past interactions when the list was asked for, with one added to each
    count so that an item never seen is finite. NaN for an empty list.
    """
    return _list_mean(lists, k, popularity.self_information, popularity.snapshot)


def mean_popularity(lists: RankedLists, k: int, popularity: PopularityAt) -> Doubles:
    """Mean popularity percentile of the first k; float64[G], NaN for an empty list."""
    return _list_mean(lists, k, popularity.percentiles, popularity.snapshot)


def popularity_bias(
    lists: RankedLists, k: int, popularity: PopularityAt, past: PastItems
) -> Doubles:
    """Mean popularity percentile of the first k minus that of the user's own history.

    Above 0: the list is more mainstream than the user. NaN for an empty list or history.

    Args:
        lists: one list for each of G groups.
        k: places looked at.
        popularity: [N], past events of each item.
        past: histories of the groups.
    """
    percentile = popularity.percentiles
    known = past.items < percentile.shape[1]
    groups, items = past.owner[known], past.items[known]
    total = np.bincount(
        groups,
        weights=percentile[popularity.snapshot[groups], items],
        minlength=lists.n_groups,
    )
    own = _over(total, np.bincount(groups, minlength=lists.n_groups))
    return _list_mean(lists, k, percentile, popularity.snapshot) - own


def serendipity(
    matched: MatchedLists, lists: RankedLists, k: int, popularity: PopularityAt
) -> Doubles:
    """Sum over hits in the first k of (1 - popularity percentile) / k; float64[G].

    A hit on the most popular item is worth nothing, one that nobody would have guessed 1/k.
    """
    surprise = 1.0 - popularity.percentiles
    inside = matched.hit_place < k
    rows = matched.hit_group[inside]
    items = lists.items[rows, matched.hit_place[inside]]
    known = items < surprise.shape[1]
    held = surprise[popularity.snapshot[rows], np.where(known, items, 0)]
    total = np.bincount(rows, weights=np.where(known, held, 1.0), minlength=lists.n_groups)
    return _defined(matched, total / k)


def category_diversity(lists: RankedLists, k: int, category: npt.NDArray[np.integer]) -> Doubles:
    """Share of item pairs in the first k with different categories; float64[G].

    `category` int[N]; negative is unknown and differs from everything. NaN below two items.
    """
    shown = lists.items[:, :k]
    held = (shown >= 0) & (shown < len(category))
    code = np.where(held, category[np.where(held, shown, 0)], -1)
    same = np.zeros(len(shown), np.int64)
    for shift in range(1, shown.shape[1]):
        pair = (code[:, shift:] == code[:, :-shift]) & (code[:, shift:] >= 0)
        same += pair.sum(1)
    n = (shown >= 0).sum(1)
    pairs = n * (n - 1) / 2.0
    return 1.0 - _over(same, np.where(n > 1, pairs, 0))


def embedding_diversity(lists: RankedLists, k: int, vectors: Floats) -> Doubles:
    """Mean of 1 - cosine over item pairs in the first k; float64[G].

    `vectors` float32[N, d], L2-normalised. Items beyond N are left out; NaN below two items.
    Uses |Σv|² = Σ|v|² + 2 Σ_pairs v·w, so the cost is linear in k.
    """
    out = np.full(lists.n_groups, np.nan)
    for start in range(0, lists.n_groups, CHUNK):
        shown = lists.items[start : start + CHUNK, :k]
        held = (shown >= 0) & (shown < len(vectors))
        sums = np.zeros((len(shown), vectors.shape[1]), np.float32)
        squares = np.zeros(len(shown))
        for place in range(shown.shape[1]):
            rows = np.nonzero(held[:, place])[0]
            part = vectors[shown[rows, place]]
            sums[rows] += part
            squares[rows] += np.einsum("nd,nd->n", part, part)
        n = held.sum(1)
        cosines = np.einsum("nd,nd->n", sums, sums) - squares
        out[start : start + CHUNK] = 1.0 - _over(cosines, n * (n - 1.0))
    return out


class ReliabilityBin(NamedTuple):
    """One bin of a reliability diagram."""

    low: float
    high: float
    predicted: float
    """Mean prediction of the bin's rows."""
    observed: float
    """Share of the bin's rows with label 1."""
    rows: int


def reliability(
    prediction: npt.NDArray[np.floating], label: npt.NDArray[np.integer], bins: int = 10
) -> list[ReliabilityBin]:
    """Bins of equal counts over predictions (float[n]) and 0/1 labels (int[n]).

    Equal predictions always share a bin, so there may be fewer bins; none for no rows.
    """
    if len(prediction) == 0:
        return []
    edges = np.unique(np.quantile(prediction, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, prediction, "right") - 1, 0, max(len(edges) - 2, 0))
    found = []
    for b in np.unique(place):
        inside = place == b
        found.append(
            ReliabilityBin(
                float(prediction[inside].min()),
                float(prediction[inside].max()),
                float(prediction[inside].mean(dtype=np.float64)),
                float(label[inside].mean()),
                int(inside.sum()),
            )
        )
    return found


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean |observed - predicted| over rows, by bin; NaN without rows."""
    total = sum(b.rows for b in bins)
    if not total:
        return float("nan")
    return sum(b.rows * abs(b.observed - b.predicted) for b in bins) / total


def _hits(matched: MatchedLists, k: int) -> Longs:
    inside = matched.hit_group[matched.hit_place < k]
    return np.bincount(inside, minlength=matched.n_groups).astype(np.int64)


def discount(place: npt.ArrayLike) -> Doubles:
    """What a hit at a place of a list (from 0) counts in nDCG: 1 / log2(place + 2)."""
    return np.asarray(1.0 / np.log2(np.asarray(place) + 2.0), np.float64)


def _first_of_group(matched: MatchedLists) -> npt.NDArray[np.bool_]:
    """bool[H]: whether a hit is the first of its group."""
    return first_of_runs(matched.hit_group)


def _discounted(
    group: npt.NDArray[np.integer],
    place: Longs,
    grade: Grades,
    matched: MatchedLists,
    k: int,
    gain: Gain,
) -> Doubles:
    """Sum over a group's places below k of gain / log2(place + 2); float64[G].

    Args:
        group: int[r], group of each row.
        place: int64[r], place in the list, from 0.
        grade: int8[r], grade of the item there.
        matched: lists with their hits.
        k: places that count.
        gain: how a grade becomes a gain.
    """
    inside = place < k
    worth = _gain_table(gain)[grade[inside]] / np.log2(place[inside] + 2.0)
    total = np.bincount(group[inside], weights=worth, minlength=matched.n_groups)
    return total.astype(np.float64)


def _defined(matched: MatchedLists, values: Doubles) -> Doubles:
    """NaN in groups without a relevant item."""
    return np.where(matched.relevant > 0, values, np.nan)


def _over(above: npt.NDArray[np.number], below: npt.NDArray[np.number]) -> Doubles:
    """above / below, NaN where below is 0."""
    out = np.full(len(above), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _gain_table(gain: Gain) -> Doubles:
    grades = np.arange(128, dtype=np.float64)
    return np.exp2(grades) - 1.0 if gain == "exponential" else grades


def _list_mean(lists: RankedLists, k: int, worth: Doubles, row: Longs) -> Doubles:
    """Mean of a number per item over the first k, by group's `row` [G] of the table [C, N]; items
    beyond the table are left out."""
    shown = lists.items[:, :k]
    held = (shown >= 0) & (shown < worth.shape[1])
    values = np.where(held, worth[row[:, None], np.where(held, shown, 0)], 0.0)
    return _over(values.sum(1), held.sum(1))


class Measured(NamedTuple):
    """What a metric of one system's lists may look at."""

    matched: MatchedLists
    lists: RankedLists
    truth: Truth
    popularity: PopularityAt
    category: npt.NDArray[np.integer] | None = None
    """int[N] codes; None where there is one category or none."""
    vectors: Floats | None = None
    past: PastItems | None = None
    """(offsets, items) of what the groups' users had before, CSR over G."""


Better = Literal["higher", "lower", "neither"]
Places = Literal["each k", "first k", "last k", "list"]


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called, how it is measured and what it means."""

    name: str
    about: str
    """What a value means, for the page."""
    of_lists: Callable[[Measured, Any], Doubles | None] | None = None
    """(what there is, k) → float64[G], NaN where it has no meaning; None where the data lack what it
    reads. k is None for the whole list."""
    of_exposure: Callable[[Longs], float] | None = None
    """From int64[N], how many lists show each item."""
    places: Places = "each k"
    """Where it is measured: each, the smallest or the largest of `evaluation.k`, or the whole list."""
    better: Better = "higher"
    unit: str = "share"
    first: bool = False
    """Whether it stands in the page's first table."""
    gate: bool = False
    """Whether `gate.metric` may name it."""
    curve: bool = False
    """Whether the page draws it by k."""

    def __post_init__(self) -> None:
        missing = [n for n in ("name", "about", "unit") if not getattr(self, n)]
        if (self.of_lists is None) == (self.of_exposure is None):
            missing.append("one of of_lists and of_exposure")
        if missing:
            raise TypeError(f"metric {self.name!r} does not declare {', '.join(missing)}")

    def needed(self, measured: Measured, k: int) -> Doubles:
        """float64[G] of a metric that every evaluation can measure."""
        values = self.of_lists and self.of_lists(measured, k)
        assert values is not None, self.name
        return values

    def at(self, ks: list[int]) -> list[tuple[str, int | None]]:
        """(column, k) for ascending cut-offs."""
        if self.places == "list":
            return [(self.name, None)]
        chosen = {"each k": ks, "first k": ks[:1], "last k": ks[-1:]}[self.places]
        return [(f"{self.name}@{k}", k) for k in chosen]


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "ndcg", "order-aware quality of the first k: 1 is the ideal order, 0 is no hit",
        lambda m, k: ndcg(m.matched, k), first=True, gate=True, curve=True,
    ),
    Metric(
        "recall", "share of what the user did next that is in the first k",
        lambda m, k: recall(m.matched, k), first=True, gate=True, curve=True,
    ),
    Metric(
        "hit_rate", "share of lists with at least one hit in the first k",
        lambda m, k: hit_rate(m.matched, k), gate=True,
    ),
    Metric(
        "precision", "share of the first k places that are hits",
        lambda m, k: precision(m.matched, k), gate=True,
    ),
    Metric(
        "map", "mean over hits of the precision at each, divided by all relevant items",
        lambda m, k: average_precision(m.matched, k),
    ),
    Metric(
        "mrr", "1 / place of the first hit",
        lambda m, k: mrr(m.matched, k), places="list", first=True, gate=True,
    ),
    Metric(
        "auc", "share of the list's (hit, miss) pairs in the right order; what the list lacks counts "
        "as lost, so below one half need not be worse than chance",
        lambda m, k: auc(m.matched), places="list",
    ),
    Metric(
        "novelty",
        "mean surprise of the shown items, in bits, one added to each count: higher is less popular",
        lambda m, k: novelty(m.lists, k, m.popularity),
        places="first k", better="neither", unit="bits",
    ),
    Metric(
        "popularity", "mean popularity percentile of the shown items: 1 is the most popular",
        lambda m, k: mean_popularity(m.lists, k, m.popularity), places="first k", better="neither",
    ),
    Metric(
        "serendipity", "hits weighted by how unpopular they are",
        lambda m, k: serendipity(m.matched, m.lists, k, m.popularity), places="first k",
    ),
    Metric(
        "popularity_bias", "popularity of the list minus that of the user's own past",
        lambda m, k: None if m.past is None
        else popularity_bias(m.lists, k, m.popularity, m.past),
        places="first k", better="neither",
    ),
    Metric(
        "category_diversity", "share of item pairs with different categories",
        lambda m, k: None if m.category is None else category_diversity(m.lists, k, m.category),
        places="first k",
    ),
    Metric(
        "text_diversity", "mean distance of the texts of item pairs",
        lambda m, k: None if m.vectors is None else embedding_diversity(m.lists, k, m.vectors),
        places="first k", unit="1 - cosine",
    ),
    Metric(
        "coverage", "share of the catalogue shown to anybody",
        of_exposure=lambda counts: float((counts > 0).mean()) if len(counts) else np.nan,
        places="last k", first=True,
    ),
    Metric(
        "gini", "inequality of exposure: 0 all items equally, 1 all to one",
        of_exposure=gini, places="last k", better="neither",
    ),
)  # fmt: skip
"""Every metric of a report, in the order of its columns."""


def gate_metric(name: str) -> tuple[Metric, int]:
    """What `gate.metric` names, and its k.

    Raises:
        UsageError: no metric, or none that a gate can go by.
    """
    known = {metric.name: metric for metric in METRICS if metric.gate}
    key, _, k = name.partition("@")
    if key not in known or not k.isdecimal():
        raise UsageError(
            "the gate cannot go by this",
            where="gate.metric",
            found=name,
            expected="one of "
            + ", ".join(f"{n}@10" for n in known)
            + ", or with another k up to 100",
        )
    return known[key], int(k)


def settings_schema() -> dict[str, dict[str, Any]]:
    """More of the JSON schema of settings, as the metrics declare themselves."""
    names = "|".join(metric.name for metric in METRICS if metric.gate)
    return {"gate.metric": {"pattern": f"^({names})@([1-9][0-9]?|100)$"}}
