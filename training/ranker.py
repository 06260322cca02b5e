"""Fitting the ranker: linear start, trees on top, and a share of the fusion it starts from.

Users held out in turn decide how much of each; what they chose is then fitted on all groups.
Shapes: R rows, F features, G groups in CSR form (rows offsets[g]:offsets[g+1]).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import RankerConfig
from recsys.features.draws import chance
from recsys.ranker import Blend, Ranker
from recsys.ranker.linear import Design, LinearPart, Matrix
from recsys.training.ranker_trees import CHECKPOINT, boost, curve, search, tree_settings
from recsys.training.ranking_groups import Groups, matched

PENALTIES = (1.0, 10.0, 100.0, 1000.0)
"""L2 weights tried for the linear part, per whole training set (measured grid)."""
NEGATIVES_PER_GROUP = 60
"""Candidates kept per group for the linear fit, besides the positives (sampled alternatives are
consistent for a conditional logit: McFadden 1978)."""
FOLDS = 5
"""Parts that users are dealt into."""
FOLDS_TRIED = ((1500, 5), (6000, 3))
"""Groups up to which so many of the parts are held out in turn, beyond them `FOLDS_OF_MANY`. With
fewer than a hundred held-out groups, whether trees help is a matter of chance: two nights on the
same 460 groups took 93 trees and none (measured)."""
FOLDS_OF_MANY = 2
MORE_ROUNDS = 1.25
"""Rounds on all groups for one round on the four fifths that chose (as many more as groups)."""
MIN_GROUPS_FOR_TREES = 100
"""With fewer training groups the trees are not tried (assumed)."""
FUSED = "fused.score"
EVENTS = "count.item.any.all"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the fusion that are tried."""
GAINS = tuple(n / 8 for n in range(17))
"""What an item without events may gain, in standard deviations of the score within a list."""

Scores = npt.NDArray[np.float64]


class Choice(NamedTuple):
    """What was best for all the users held out together."""

    penalty: float
    """Of the linear part."""
    rounds: int
    """Trees; 0 where they do not help."""
    settings: dict[str, Any]
    """Of the trees."""
    blend: Blend
    facts: dict[str, Any]
    """How the blend was chosen."""
    quality: dict[str, float]
    """nDCG@10 of the linear part, of it with the trees, of the fusion, and of their blend."""
    judged: int
    """Groups held out."""


class _Fold(NamedTuple):
    """Places of the groups (int64[g]) to learn from, those with a positive, and of those held out."""

    train: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]


def fit_ranker(
    groups: Groups,
    names: Sequence[str],
    config: RankerConfig,
    *,
    seed: int,
    workers: int,
    monotone: Mapping[str, int] | None = None,
    seconds: float = inf,
) -> Ranker:
    """Linear part, then trees that start from its score; users held out in turn decide.

    The report's numbers (`facts`) compare the parts on the same held-out users. With too few groups
    the ranker is the linear part alone. Where there are shown lists, trees are fitted with and
    without them, and the same users decide.

    Args:
        groups: R rows in G groups, in the order of time.
        names: [F] names of the columns.
        config: settings of the ranker.
        seed: of the folds and the boosters.
        workers: threads.
        monotone: column → 1 or -1, where the score may only rise or fall with it.
        seconds: after which no more trees are tried, a search for settings apart; the fit of those
            chosen lies within them too.
    """

    recall_groups = groups.of_recall()
    share = 1 if len(recall_groups) == len(groups) else 2

    def fitted(chosen: Groups) -> Ranker:
        return _fit(chosen, names, config, seed, workers, monotone, seconds / share)

    ranker = fitted(groups)
    if len(recall_groups) == len(groups):
        return ranker
    without = fitted(recall_groups)
    before, after = _validated(without), _validated(ranker)
    kept = ranker if after > before else without
    facts = {
        "shown lists kept": after > before,
        "shown lists": f"validation nDCG@10 {after:.4f} with them, {before:.4f} without",
    }
    return replace(kept, facts={**kept.facts, **facts})


def fit_like(
    other: Ranker,
    groups: Groups,
    names: Sequence[str],
    config: RankerConfig,
    *,
    seed: int,
    workers: int,
) -> Ranker:
    """A ranker on other features or groups with what was chosen for another one: penalty, trees and
    the share of the fusion. Nobody is held out, so that a comparison costs one fit."""
    whole = groups.of_positives()
    if not len(whole) or "penalty" not in other.facts:
        return _no_label_ranker(names)
    settings = tree_settings(config, seed, workers, names, None)
    settings |= other.facts.get("tree_settings", {})
    penalty, rounds = float(other.facts["penalty"]), int(other.facts.get("rounds", 0))
    fitted = _on_all(whole, names, penalty, rounds, settings, config, seed)
    blend = other.blend
    if blend is not None:
        places = _place(names, FUSED), _place(names, EVENTS)
        blend = Blend(
            blend.own or 1.0,
            blend.fusion if places[0] >= 0 else 0.0,
            places[0],
            blend.few if places[1] >= 0 else 0.0,
            places[1],
        )
    return replace(fitted, facts={"train_groups": len(whole)}, blend=blend)


def refitted(
    judged: Ranker, whole: Groups, later: int, config: RankerConfig, *, seed: int, workers: int
) -> Ranker:
    """The same recipe on further groups: penalty and the share of the fusion as chosen, the trees in
    proportion to the groups that have a positive.

    Args:
        judged: fitted on earlier groups.
        whole: groups it learned from, or some of them, and others that came later, with the same columns.
        later: how many came later, for the facts.
        config: settings of the ranker.
        seed: of the boosters.
        workers: threads.
    """
    share = len(whole.with_positive()) / max(1, int(judged.facts["train_groups"]))
    rounds = round(int(judged.facts.get("rounds", 0)) * share)
    chosen = replace(judged, facts={**judged.facts, "rounds": rounds})
    found = fit_like(chosen, whole, judged.features, config, seed=seed, workers=workers)
    facts = {
        "groups": len(whole.with_positive()),
        "later": later,
        "trees": [b.num_trees() for b in found.boosters],
    }
    return replace(found, facts={**judged.facts, "released": facts})


def _validated(ranker: Ranker) -> float:
    """nDCG@10 of what the ranker is, on the held-out users; 0 where nobody could be held out."""
    return float(max(ranker.facts.get("validation_ndcg@10", {}).values(), default=0.0))


def _fit(
    groups: Groups,
    names: Sequence[str],
    config: RankerConfig,
    seed: int,
    workers: int,
    monotone: Mapping[str, int] | None,
    seconds: float,
) -> Ranker:
    """What users held out in turn choose, fitted on all."""
    until = perf_counter() + seconds
    whole = groups.of_positives()
    if not len(whole):
        return _no_label_ranker(names)
    folds = _in_folds(groups, seed)
    facts: dict[str, Any] = {
        "groups": len(groups),
        "train_groups": len(whole),
        "folds": len(folds),
    }
    if not folds:
        penalty = max(PENALTIES)
        facts |= {"penalty": penalty, "trees": []}
        return Ranker(tuple(names), _linear_part(whole, penalty, seed), [], facts)
    settings = tree_settings(config, seed, workers, names, monotone)
    choice = _choose(groups, folds, names, settings, config, seed, until)
    fitted = _on_all(whole, names, choice.penalty, choice.rounds, choice.settings, config, seed)
    facts |= {
        "validation_groups": choice.judged,
        "penalty": choice.penalty,
        "validation_ndcg@10": choice.quality,
        "tree_settings": {k: v for k, v in choice.settings.items() if isinstance(v, int | float)},
        "rounds": choice.rounds,
        "trees": [b.num_trees() for b in fitted.boosters],
        **choice.facts,
    }
    return replace(fitted, facts=facts, blend=choice.blend)


def _on_all(
    whole: Groups,
    names: Sequence[str],
    penalty: float,
    rounds: int,
    settings: Mapping[str, Any],
    config: RankerConfig,
    seed: int,
) -> Ranker:
    """Linear part and boosters of several seeds on all groups."""
    linear = _linear_part(whole, penalty, seed)
    boosters: list[Any] = []
    if rounds:
        start = linear.score(whole.x)
        trees = min(config.trees, round(rounds * MORE_ROUNDS))
        boosters = [
            boost(whole, names, start, {**settings, "seed": seed + n}, trees)
            for n in range(config.seeds)
        ]
    return Ranker(tuple(names), linear, boosters)


# ---------------------------------------------------------------------------- choosing


def _in_folds(groups: Groups, seed: int) -> list[_Fold]:
    """The parts to hold out, each of which tells something, as do the others together; none where
    there is too little for that."""
    fold = _folds(groups, seed)
    told = groups.with_positive()
    matched_groups = groups.of_recall()
    counts = np.bincount(
        _folds(matched_groups, seed)[matched_groups.with_positive()], minlength=FOLDS
    )
    if not (counts > 0).all():
        return []
    tried = next((t for most, t in FOLDS_TRIED if counts.sum() <= most), FOLDS_OF_MANY)
    return [_Fold(told[fold[told] != f], np.flatnonzero(fold == f)) for f in range(tried)]


def _folds(groups: Groups, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each group, int64[G]; all groups of a user are in one.

    Users of recall's groups take turns, as they would without shown lists; nobody is evaluated by the
    others, who are in no fold (-1) and always learnt from.
    """
    users = np.unique(groups.of_recall().user)
    turn = np.empty(len(users), np.int64)
    turn[np.argsort(chance(users, "folds", seed), kind="stable")] = np.arange(len(users)) % FOLDS
    place = np.minimum(np.searchsorted(users, groups.user), len(users) - 1)
    return np.where(users[place] == groups.user, turn[place], -1).astype(np.int64)


def _choose(
    groups: Groups,
    folds: Sequence[_Fold],
    names: Sequence[str],
    settings: dict[str, Any],
    config: RankerConfig,
    seed: int,
    until: float,
) -> Choice:
    """Penalty, then rounds, then the fusion's share, each by all held-out users together; `until` as
    `perf_counter` counts."""
    valids = [groups.take(fold.valid) for fold in folds]
    parts = [dict(_linear_parts(groups.take(fold.train), seed)) for fold in folds]
    starts = {p: [of[p].score(v.x) for of, v in zip(parts, valids, strict=True)] for p in PENALTIES}
    penalty = max(PENALTIES, key=lambda p: _pooled(valids, starts[p]))
    own = starts[penalty]
    quality = {"linear": _pooled(valids, own)}
    rounds, late = 0, False
    if sum(len(valid.of_recall().with_positive()) for valid in valids) and _enough(groups):
        curves = []
        for number, (fold, valid) in enumerate(zip(folds, valids, strict=True)):
            train = groups.take(fold.train)
            start = parts[number][penalty].score(train.x)
            if number == 0 and config.search_minutes > 0:
                settings = settings | search(train, valid, names, start, own[0], settings, config)
            if number == 0:
                # The search has minutes of its own.
                until += 60 * config.search_minutes
                seconds = _of_one_curve(until - perf_counter(), len(folds), config.seeds)
            began = perf_counter()
            curves.append(
                curve(train, valid, names, start, own[number], settings, config.trees, seconds)
            )
            late = late or perf_counter() - began > seconds
        best, quality["linear+trees"] = _best_checkpoint(valids, curves)
        if quality["linear+trees"] > quality["linear"]:
            rounds = (best + 1) * CHECKPOINT
            own = [scores[best].astype(np.float64) for scores in curves]
    blend, facts = _choose_blend(valids, own, names, config.cold_cost, quality)
    if late:
        facts["ended by time"] = (
            f"the ranker's minutes ended the trees after {len(curves[-1]) * CHECKPOINT} rounds"
        )
    return Choice(penalty, rounds, settings, blend, facts, quality, sum(map(len, valids)))


def _of_one_curve(seconds: float, folds: int, seeds: int) -> float:
    """Seconds of one fold's curve, so that all of them and the fit on all groups, which takes no more
    rounds than they do for each seed but `MORE_ROUNDS`, come within `seconds`."""
    after = seeds * MORE_ROUNDS * FOLDS / (FOLDS - 1)
    return max(0.0, seconds) / (folds + after)


def _enough(groups: Groups) -> bool:
    return len(groups.of_recall().with_positive()) >= MIN_GROUPS_FOR_TREES


def _best_checkpoint(
    valids: Sequence[Groups], curves: Sequence[npt.NDArray[np.float32]]
) -> tuple[int, float]:
    """The checkpoint at which the held-out users of all folds do best, and their nDCG@10 there.

    A look is averaged with its neighbours: single ones go up and down by chance.
    """
    common = min(map(len, curves))
    found = np.array(
        [_pooled(valids, [of[c].astype(np.float64) for of in curves]) for c in range(common)]
    )
    edges = np.concatenate([found[:1], found, found[-1:]])
    smooth = (edges[:-2] + edges[1:-1] + edges[2:]) / 3
    best = int(smooth.argmax())
    return best, float(found[best])


def _choose_blend(
    valids: Sequence[Groups],
    own: Sequence[Scores],
    names: Sequence[str],
    most_cost: float,
    quality: dict[str, float],
) -> tuple[Blend, dict[str, Any]]:
    """What the held-out users do best with: the convex blend of both standardised scores, then what
    items with few events gain. With it, facts for the report."""
    fused_column, events_column = _place(names, FUSED), _place(names, EVENTS)
    blend, share = Blend(1.0, 0.0, fused_column, 0.0, events_column), 0.0
    if fused_column >= 0:
        blend, share = _with_fusion(blend, valids, own, quality)
    facts: dict[str, Any] = {"share of the fusion": share}
    if events_column >= 0:
        blend, facts["items with few events"] = _with_few(blend, valids, own, most_cost)
    return blend, facts


def _place(names: Sequence[str], name: str) -> int:
    return list(names).index(name) if name in names else -1


def _with_fusion(
    blend: Blend, valids: Sequence[Groups], own: Sequence[Scores], quality: dict[str, float]
) -> tuple[Blend, float]:
    """The blend with the share of the fusion that does best, and that share."""
    fused = [np.nan_to_num(v.x[:, blend.fused_column]).astype(np.float64) for v in valids]
    spread = [_spread(valids, scores) for scores in (own, fused)]
    if min(spread) <= 0:
        return blend, 0.0
    tried = {
        share: replace(blend, own=1.0 - share, fusion=share * spread[0] / spread[1])
        for share in SHARES
    }
    found = {share: _pooled(valids, _blended(one, valids, own)) for share, one in tried.items()}
    quality["fusion"] = found[1.0]
    best = max(SHARES, key=lambda share: found[share])
    quality["blend"] = found[best]
    return tried[best], best


def _with_few(
    blend: Blend, valids: Sequence[Groups], own: Sequence[Scores], most_cost: float
) -> tuple[Blend, dict[str, str]]:
    """The blend with the largest gain for items with few events that costs items with events no more
    than the share `most_cost` of their nDCG@10, and what each gain tried would bring and cost.

    Items with one event or two gain too, and are among those that it may cost: what they win by it
    pays for what the popular ones lose. A gain costs most where little is known of somebody, and
    the groups hold more of them than will be asked: each counts as often as its like will be.
    """
    spread = _spread(valids, _blended(blend, valids, own))
    few = [without_events(v, blend.events_column) for v in valids]
    kinds = [
        [
            replace(v, grade=np.where(rows == wanted, v.grade, 0))
            for v, rows in zip(valids, few, strict=True)
        ]
        for wanted in (True, False)
    ]
    if not sum(int((v.grade > 0).sum()) for v in kinds[0]):
        return blend, {}
    curve_found, warms = {}, []
    for gain in GAINS:
        scores = _blended(replace(blend, few=gain * spread), valids, own)
        cold, warm = (_as_asked(of, scores) for of in kinds)
        curve_found[f"{gain:g}"] = f"nDCG@10 {cold:.4f} by them, {warm:.4f} by others"
        warms.append(warm)
    gain = _largest_gain(np.array(warms), most_cost)
    return replace(blend, few=gain * spread), {"gain": f"{gain:g}", **curve_found}


def _largest_gain(warm: npt.NDArray[np.float64], most_cost: float) -> float:
    """The largest of `GAINS` that costs no more than the share `most_cost`, by a parabola through what items with
    events have at each (`warm`). One list among hundreds that falls at a small gain, and stays where it
    is at larger ones, would end it: on 910 groups three nights had .125, .5 and 1 (measured)."""
    smooth = np.polyval(np.polyfit(GAINS, warm, 2), GAINS)
    allowed = smooth >= (1.0 - most_cost) * np.maximum.accumulate(smooth)
    return float(GAINS[int(np.flatnonzero(allowed)[-1])]) if allowed.any() else 0.0


def without_events(groups: Groups, column: int) -> npt.NDArray[np.bool_]:
    """bool[R]: candidates that nobody had acted on, by the column of their events."""
    return np.asarray(np.nan_to_num(groups.x[:, column]) <= 0)


def _blended(blend: Blend, valids: Sequence[Groups], own: Sequence[Scores]) -> list[Scores]:
    return [blend.apply(score, valid.x) for score, valid in zip(own, valids, strict=True)]


def _spread(valids: Sequence[Groups], scores: Sequence[Scores]) -> float:
    """Standard deviation of a score within groups."""
    total, count = 0.0, 0
    for valid, score in zip(valids, scores, strict=True):
        sizes = valid.lengths
        sums = np.add.reduceat(np.append(score, 0.0), valid.offsets[:-1]) * (sizes > 0)
        mean = sums / np.maximum(sizes, 1)
        total += float(((score - np.repeat(mean, sizes)) ** 2).sum())
        count += len(score)
    return float((total / max(count, 1)) ** 0.5)


def _pooled(valids: Sequence[Groups], scores: Sequence[Scores]) -> float:
    """Mean nDCG@10 over the groups of all folds."""
    found = [matched(valid, score, 10) for valid, score in zip(valids, scores, strict=True)]
    return float(np.nanmean(np.concatenate(found)))


def _as_asked(valids: Sequence[Groups], scores: Sequence[Scores]) -> float:
    """The same, each group counted as often as people like it will be asked about."""
    found = np.concatenate([matched(v, s, 10) for v, s in zip(valids, scores, strict=True)])
    weight = np.concatenate([_stands_for(valid) for valid in valids])
    told = ~np.isnan(found)
    if not weight[told].sum() > 0:  # nobody like them will be asked: they are all there is to go by
        return float(np.nanmean(found))
    return float(np.average(found[told], weights=weight[told]))


def _stands_for(groups: Groups) -> npt.NDArray[np.float64]:
    recalled = groups.of_recall()
    return np.ones(len(recalled)) if recalled.stands_for is None else recalled.stands_for


# ---------------------------------------------------------------------------- the linear part


def _no_label_ranker(names: Sequence[str]) -> Ranker:
    """No group has a positive that recall found: rank by the fused recall score alone."""
    width = len(names)
    design = Design(np.zeros(width, bool), np.zeros(width), np.ones(width), np.empty(0, np.int32))
    weights = np.array([1.0 if n.endswith(FUSED) else 0.0 for n in names])
    facts = {"groups": 0, "why": "no group has a positive that recall found; fused recall ranks"}
    return Ranker(tuple(names), LinearPart(design, weights), [], facts)


def _linear_part(train: Groups, penalty: float, seed: int) -> LinearPart:
    """The part of one penalty."""
    return dict(_linear_parts(train, seed, least=penalty))[penalty]


def _linear_parts(
    train: Groups, seed: int, least: float = min(PENALTIES)
) -> Iterator[tuple[float, LinearPart]]:
    """(penalty, part) over the grid, the strongest penalty first, down to the least asked for; each
    starts from the one before."""
    sample = _sample_negatives(train.of_recall(), NEGATIVES_PER_GROUP, seed)
    target = _targets(sample)
    part: LinearPart | None = None
    for penalty in sorted({*PENALTIES, least}, reverse=True):
        if penalty >= least:
            part = LinearPart.fit(sample.x, target, sample.offsets, penalty=penalty, start=part)
            yield penalty, part


def _targets(groups: Groups) -> Matrix:
    """A group's weight of one, shared by its positives in proportion to their grade, each share
    worth its label's weight."""
    positive = np.maximum(groups.grade, 0).astype(np.float64)
    total = np.add.reduceat(positive, groups.offsets[:-1])
    if groups.weight is not None:
        positive *= groups.weight
    shares: Matrix = (positive / groups.per_row(np.maximum(total, 1e-9))).astype(np.float32)
    return shares


def _sample_negatives(groups: Groups, keep: int, seed: int) -> Groups:
    """All positives and at most `keep` uniformly drawn negatives of each group."""
    rng = np.random.default_rng(seed)
    draw = np.where(groups.grade > 0, -1.0, rng.random(len(groups.grade)))
    order = np.lexsort((draw, groups.owner))
    positives = np.add.reduceat(groups.grade > 0, groups.offsets[:-1], dtype=np.int64)
    kept = np.zeros(len(order), bool)
    kept[order[groups.place < keep + groups.per_row(positives)]] = True
    return groups.keeping(kept)
