"""Fitting the ranker: linear start, trees on top, validation decides how much of each.

Shapes: R rows, F features, G groups in CSR form (rows offsets[g]:offsets[g+1]).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import RankerConfig
from recsys.features.compiled import compiled
from recsys.features.draws import chance, least
from recsys.features.grouped import chosen_groups
from recsys.ranker import Ranker
from recsys.ranker.linear import LinearPart, Matrix, Offsets
from recsys.ranker.model import tree_name

PENALTIES = (1.0, 10.0, 100.0)
"""L2 weights tried for the linear part, per whole training set (measured grid)."""
NEGATIVES_PER_GROUP = 60
"""Candidates kept per group for the linear fit, besides the positives (sampled alternatives are
consistent for a conditional logit: McFadden 1978)."""
TREES_ONLY_GROUPS = 2000
"""Groups for the trees without a linear start, which the report shows for comparison only."""
FOLDED_GROUPS = 1500
"""Training groups up to which every group is held out once in turn. With fewer than a hundred
held-out groups, whether trees help is a matter of chance: two nights on the same 460 groups took
93 trees and none (measured)."""
FOLDS = 5
MIN_GROUPS_FOR_TREES = 100
"""With fewer training groups the trees are not tried (assumed)."""


@dataclass(frozen=True)
class Groups:
    """Ranking groups with features and labels."""

    x: Matrix
    """float32[R,F]"""
    grade: npt.NDArray[np.int8]
    """int8[R]; 0 not acted on, 1.. acted on."""
    offsets: Offsets
    """int64[G+1]"""
    user: npt.NDArray[np.integer]
    """[G]: whose group it is, by a hash of the id; validation holds out users."""
    relevant: npt.NDArray[np.int32]
    """int32[G]: positives of the moment, found by recall or not (the metric's denominator)."""
    weight: npt.NDArray[np.float32] | None = None
    """float32[R]: what each label is worth (see `training.night.position_weights`); None where all count the same."""
    shown: npt.NDArray[np.bool_] | None = None
    """bool[G]: groups that are shown lists and not recall's; None where none is."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, groups: npt.NDArray[np.int64]) -> "Groups":
        """The named groups (int[n]), rows copied."""
        offsets, rows = chosen_groups(self.offsets, groups)
        return Groups(
            self.x[rows],
            self.grade[rows],
            offsets,
            self.user[groups],
            self.relevant[groups],
            None if self.weight is None else self.weight[rows],
            None if self.shown is None else self.shown[groups],
        )

    def of_recall(self) -> "Groups":
        """Recall's groups, where there are any: what the linear part learns from, and what decides.

        One set of weights cannot hold both kinds: among what recall finds, what tends to be shown is
        acted on, among what was shown that says nothing. A quarter of lists beside recall's groups
        took the rank correlation with the true taste from .59 to .49 on generated data (measured).
        """
        if self.shown is None or self.shown.all():
            return self
        return self.take(np.flatnonzero(~self.shown))

    def with_positive(self) -> npt.NDArray[np.int64]:
        """Indices of groups in which recall found at least one positive."""
        positive = np.add.reduceat(
            np.append(self.grade > 0, False), np.minimum(self.offsets[:-1], len(self.grade))
        )
        return np.flatnonzero((positive > 0) & (self.offsets[1:] > self.offsets[:-1]))


@compiled
def ndcg_by_group(
    score: npt.NDArray[np.float64],
    grade: npt.NDArray[np.int8],
    offsets: Offsets,
    relevant: npt.NDArray[np.int32],
    k: int,
) -> npt.NDArray[np.float64]:
    """Binary nDCG@k of each group, float64[G]; positives that recall missed count in the ideal.

    Equal scores share their places at random in the long run; here the later row loses, rows of
    a group being in the order of fused recall.

    Args:
        score: float64[R], the higher the better; NaN is last.
        grade: int8[R], relevant above 0.
        offsets: int64[G+1], bounds of the groups.
        relevant: int32[G], relevant items of each group, found by recall or not.
        k: places that count.
    """
    # A score that is not a number is no first place: every comparison with it is false.
    score = np.where(np.isnan(score), -np.inf, score)
    out = np.zeros(len(offsets) - 1)
    for g in range(len(out)):
        low, high = offsets[g], offsets[g + 1]
        if relevant[g] <= 0:
            out[g] = np.nan
            continue
        ideal = 0.0
        for place in range(min(relevant[g], k)):
            ideal += 1.0 / np.log2(place + 2.0)
        gain = 0.0
        for r in range(low, high):
            if grade[r] <= 0:
                continue
            place = 0
            for other in range(low, high):
                if score[other] > score[r] or (score[other] == score[r] and other < r):
                    place += 1
            if place < k:
                gain += 1.0 / np.log2(place + 2.0)
        out[g] = gain / ideal
    return out


def ndcg(groups: Groups, score: npt.NDArray[np.float64], k: int = 10) -> float:
    """Mean nDCG@k over the groups that have a positive anywhere."""
    return float(np.nanmean(_ndcg_by_group(groups, score, k)))


def _ndcg_by_group(
    groups: Groups, score: npt.NDArray[np.float64], k: int
) -> npt.NDArray[np.float64]:
    """nDCG@k of recall's groups, where there are any, as the test measures them: a list of ten has another
    scale, and its clicks follow the places."""
    found: npt.NDArray[np.float64] = ndcg_by_group(
        score, groups.grade, groups.offsets, groups.relevant, k
    )
    return found if groups.shown is None or groups.shown.all() else found[~groups.shown]


def fit_ranker(
    groups: Groups,
    names: Sequence[str],
    config: RankerConfig,
    *,
    seed: int,
    workers: int,
    validation_share: float = 0.2,
    monotone: Mapping[str, int] | None = None,
) -> Ranker:
    """Linear part, then trees that start from its score; users held out decide.

    The report's numbers (`facts`) compare linear alone, trees alone and both on the same held-out
    users. With too few groups the ranker is the linear part alone. With few (`FOLDED_GROUPS`)
    every user is held out once in turn, and the chosen settings are fitted on all. Where there are
    shown lists, trees are fitted with and without them, and the same users decide.

    Args:
        groups: R rows in G groups, in the order of time.
        names: [F] names of the columns.
        config: settings of the ranker.
        seed: of the folds and the boosters.
        workers: threads.
        validation_share: share of the users that is held out.
        monotone: column → 1 or -1, where the score may only rise or fall with it.
    """

    def fitted(chosen: Groups) -> Ranker:
        return _fit(chosen, names, config, seed, workers, validation_share, monotone)

    ranker = fitted(groups)
    recall_groups = groups.of_recall()
    if len(recall_groups) == len(groups):
        return ranker
    without = fitted(recall_groups)
    before, after = _validated(without), _validated(ranker)
    kept = ranker if after > before else without
    facts = {
        "shown lists kept": after > before,
        "shown lists": f"validation nDCG@10 {after:.4f} with them, {before:.4f} without",
    }
    return Ranker(kept.features, kept.linear, kept.boosters, {**kept.facts, **facts})


def _validated(ranker: Ranker) -> float:
    """nDCG@10 of what the ranker is, on the held-out users; 0 where nobody could be held out."""
    found = ranker.facts.get("validation_ndcg@10", {})
    return float(max(found.get("linear", 0.0), found.get("linear+trees", 0.0)))


def _fit(
    groups: Groups,
    names: Sequence[str],
    config: RankerConfig,
    seed: int,
    workers: int,
    validation_share: float,
    monotone: Mapping[str, int] | None,
) -> Ranker:
    few = MIN_GROUPS_FOR_TREES <= len(groups.of_recall().with_positive()) <= FOLDED_GROUPS
    if few and config.search_minutes == 0 and _every_fold_tells(groups, seed):
        return _fit_in_folds(groups, names, config, seed, workers, monotone)
    held = _held_out(groups, validation_share, seed)
    told = groups.with_positive()
    train, valid = groups.take(told[~held[told]]), groups.take(np.flatnonzero(held))
    if not len(train):
        return _no_label_ranker(names)
    linear, penalty, linear_ndcg = _fit_linear(train, valid, seed)
    facts: dict[str, Any] = {
        "groups": len(groups),
        "train_groups": len(train),
        "validation_groups": len(valid),
        "penalty": penalty,
        "validation_ndcg@10": {"linear": linear_ndcg},
    }
    boosters: list[Any] = []
    if len(train) >= MIN_GROUPS_FOR_TREES and len(valid) and len(valid.with_positive()):
        boosters = _fit_trees(train, valid, names, linear, config, seed, workers, monotone, facts)
    facts["trees"] = [b.num_trees() for b in boosters]
    return Ranker(tuple(names), linear, boosters, facts)


def _fit_in_folds(
    groups: Groups,
    names: Sequence[str],
    config: RankerConfig,
    seed: int,
    workers: int,
    monotone: Mapping[str, int] | None,
) -> Ranker:
    """What users held out in turn choose, fitted on all."""
    settings = _settings(config, seed, workers, names, monotone)
    choice = _choose_in_folds(_in_folds(groups, seed), names, settings, config.trees, seed)
    whole = groups.take(groups.with_positive())
    linear = dict(_linear_parts(whole, seed))[choice.penalty]
    boosters: list[Any] = []
    if choice.trees_help:
        start = linear.score(whole.x)
        boosters = [
            _boost(whole, None, names, start, None, settings | {"seed": seed + n}, choice.rounds)
            for n in range(config.seeds)
        ]
    facts: dict[str, Any] = {
        "groups": len(groups),
        "train_groups": len(whole),
        "validation_groups": len(groups),
        "folds": FOLDS,
        "penalty": choice.penalty,
        "validation_ndcg@10": choice.quality,
        "tree_settings": {k: v for k, v in settings.items() if isinstance(v, int | float)},
        "trees": [b.num_trees() for b in boosters],
    }
    return Ranker(tuple(names), linear, boosters, facts)


class Choice(NamedTuple):
    """Penalty of the linear part and number of trees that were best for all folds together."""

    penalty: float
    rounds: int
    quality: dict[str, float]
    """Pooled nDCG@10 of the linear part, and of it with the trees."""

    @property
    def trees_help(self) -> bool:
        return self.quality["linear+trees"] > self.quality["linear"]


def _choose_in_folds(
    folds: Sequence[tuple[Groups, Groups]],
    names: Sequence[str],
    settings: Mapping[str, Any],
    trees: int,
    seed: int,
) -> Choice:
    valids = [valid for _, valid in folds]
    linears = [dict(_linear_parts(train, seed)) for train, _ in folds]
    starts = {
        penalty: [parts[penalty].score(v.x) for parts, v in zip(linears, valids, strict=True)]
        for penalty in PENALTIES
    }
    penalty = max(PENALTIES, key=lambda p: _pooled(valids, starts[p]))
    boosters = [
        _boost(train, valid, names, parts[penalty].score(train.x), start, settings, trees)
        for (train, valid), parts, start in zip(folds, linears, starts[penalty], strict=True)
    ]
    rounds = max(1, int(np.median([b.best_iteration for b in boosters])))
    both = [
        start + b.predict(valid.x, raw_score=True, num_iteration=rounds)
        for b, valid, start in zip(boosters, valids, starts[penalty], strict=True)
    ]
    quality = {
        "linear": _pooled(valids, starts[penalty]),
        "linear+trees": _pooled(valids, both),
    }
    return Choice(penalty, rounds, quality)


def _in_folds(groups: Groups, seed: int) -> list[tuple[Groups, Groups]]:
    """(groups with a positive to learn from, groups of the users held out) of each fold."""
    fold = _folds(groups, seed)
    told = groups.with_positive()
    return [
        (groups.take(told[fold[told] != f]), groups.take(np.flatnonzero(fold == f)))
        for f in range(FOLDS)
    ]


def _every_fold_tells(groups: Groups, seed: int) -> bool:
    """Whether each fold holds a group with a positive, and so do the others together."""
    matched = groups.of_recall()
    told = np.bincount(_folds(matched, seed)[matched.with_positive()], minlength=FOLDS)
    return bool((told > 0).all())


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


def _pooled(valids: Sequence[Groups], scores: Sequence[npt.NDArray[np.float64]]) -> float:
    """Mean nDCG@10 over the groups of all folds."""
    found = [_ndcg_by_group(valid, score, 10) for valid, score in zip(valids, scores, strict=True)]
    return float(np.nanmean(np.concatenate(found)))


def _held_out(groups: Groups, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Mask of groups whose user is held out for validation; all groups of a user go together.

    They are drawn from the users of recall's groups, so that shown lists do not change whose lists are evaluated.
    """
    users = np.unique(groups.of_recall().user)
    chosen = users[least(chance(users, "validation", seed), round(share * len(users)))]
    return np.isin(groups.user, chosen)


def _no_label_ranker(names: Sequence[str]) -> Ranker:
    """No group has a positive that recall found: rank by the fused recall score alone."""
    from recsys.ranker.linear import Design

    width = len(names)
    design = Design(np.zeros(width, bool), np.zeros(width), np.ones(width), np.empty(0, np.int32))
    weights = np.array([1.0 if n.endswith("fused.score") else 0.0 for n in names])
    facts = {"groups": 0, "why": "no group has a positive that recall found; fused recall ranks"}
    return Ranker(tuple(names), LinearPart(design, weights), [], facts)


def _fit_linear(train: Groups, valid: Groups, seed: int) -> tuple[LinearPart, float, float]:
    """Best linear part over a small grid of penalties: (part, penalty, validation nDCG@10)."""
    best: tuple[float, float, LinearPart] | None = None
    for penalty, part in _linear_parts(train, seed):
        quality = ndcg(valid, part.score(valid.x)) if len(valid) else 0.0
        if best is None or quality > best[0]:
            best = (quality, penalty, part)
    assert best is not None
    return best[2], best[1], best[0]


def _linear_parts(train: Groups, seed: int) -> Iterator[tuple[float, LinearPart]]:
    """(penalty, part) over the grid, the strongest penalty first; each starts from the one before."""
    sample = _sample_negatives(train.of_recall(), NEGATIVES_PER_GROUP, seed)
    target = _targets(sample)
    part: LinearPart | None = None
    for penalty in sorted(PENALTIES, reverse=True):
        part = LinearPart.fit(sample.x, target, sample.offsets, penalty=penalty, start=part)
        yield penalty, part


def _targets(groups: Groups) -> Matrix:
    """A group's weight of one, shared by its positives in proportion to their grade, each share
    worth its label's weight."""
    positive = np.maximum(groups.grade, 0).astype(np.float64)
    total = np.add.reduceat(positive, groups.offsets[:-1])
    if groups.weight is not None:
        positive *= groups.weight
    sizes = groups.offsets[1:] - groups.offsets[:-1]
    shares: Matrix = (positive / np.repeat(np.maximum(total, 1e-9), sizes)).astype(np.float32)
    return shares


def _sample_negatives(groups: Groups, keep: int, seed: int) -> Groups:
    """All positives and at most `keep` uniformly drawn negatives of each group."""
    rng = np.random.default_rng(seed)
    sizes = groups.offsets[1:] - groups.offsets[:-1]
    group = np.repeat(np.arange(len(groups)), sizes)
    draw = np.where(groups.grade > 0, -1.0, rng.random(len(group)))
    order = np.lexsort((draw, group))
    place = np.arange(len(group)) - np.repeat(groups.offsets[:-1], sizes)
    positives = np.repeat(
        np.add.reduceat(groups.grade > 0, groups.offsets[:-1], dtype=np.int64), sizes
    )
    rows = np.sort(order[place < keep + positives])
    kept = np.bincount(group[rows], minlength=len(groups))
    return Groups(
        groups.x[rows],
        groups.grade[rows],
        np.concatenate([[0], np.cumsum(kept)]).astype(np.int64),
        groups.user,
        groups.relevant,
        None if groups.weight is None else groups.weight[rows],
        groups.shown,
    )


def _fit_trees(
    train: Groups,
    valid: Groups,
    names: Sequence[str],
    linear: LinearPart,
    config: RankerConfig,
    seed: int,
    workers: int,
    monotone: Mapping[str, int] | None,
    facts: dict[str, Any],
) -> list[Any]:
    """Boosters on top of the linear score, none when they do not help the held-out users.

    Args:
        train, valid: groups to learn from and of held-out users.
        names: [F] names of the columns.
        linear: whose score the trees begin with.
        config: settings of the ranker.
        seed: of the first booster; each further one has the next.
        workers: threads.
        monotone: column → 1 or -1.
        facts: what the report shows; added to.
    """
    start, valid_start = linear.score(train.x), linear.score(valid.x)
    settings = _settings(config, seed, workers, names, monotone)
    if config.search_minutes > 0:
        settings |= _search(train, valid, names, start, valid_start, settings, config)
    boosters = [
        _boost(train, valid, names, start, valid_start, settings | {"seed": seed + n}, config.trees)
        for n in range(config.seeds)
    ]
    trees = np.mean([b.predict(valid.x, raw_score=True) for b in boosters], axis=0)
    quality = facts["validation_ndcg@10"]
    quality["linear+trees"] = ndcg(valid, valid_start + trees)
    sample = train if len(train) <= TREES_ONLY_GROUPS else train.take(np.arange(TREES_ONLY_GROUPS))
    trees_only = _boost(sample, valid, names, None, None, settings, config.trees)
    quality["trees"] = ndcg(valid, np.asarray(trees_only.predict(valid.x, raw_score=True)))
    facts["tree_settings"] = {k: v for k, v in settings.items() if isinstance(v, int | float)}
    return boosters if quality["linear+trees"] > quality["linear"] else []


def _settings(
    config: RankerConfig,
    seed: int,
    workers: int,
    names: Sequence[str],
    monotone: Mapping[str, int] | None,
) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [10],
        "lambdarank_truncation_level": 30,
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": 50,
        "lambda_l2": 5.0,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "bagging_by_query": True,
        "num_threads": workers,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    if monotone:
        settings["monotone_constraints"] = [monotone.get(n, 0) for n in names]
    return settings


def _boost(
    train: Groups,
    valid: Groups | None,
    names: Sequence[str],
    start: npt.NDArray[np.float64] | None,
    valid_start: npt.NDArray[np.float64] | None,
    settings: Mapping[str, Any],
    trees: int,
) -> Any:
    """One lambdarank booster, stopped early on the held-out users' nDCG@10; of exactly `trees`
    trees where nobody is held out.

    Args:
        train: groups to learn from.
        valid: groups of held-out users; None to grow exactly `trees`.
        names: [F] names of the columns.
        start: float64[R], score the trees begin with; zero when None.
        valid_start: the same for `valid`.
        settings: LightGBM's parameters.
        trees: of the booster at most.
    """
    import lightgbm

    def table(groups: Groups, init: npt.NDArray[np.float64] | None, reference: Any = None) -> Any:
        return lightgbm.Dataset(
            groups.x,
            label=np.maximum(groups.grade, 0),
            weight=groups.weight,
            group=groups.offsets[1:] - groups.offsets[:-1],
            init_score=init,
            feature_name=[tree_name(name) for name in names],
            reference=reference,
            free_raw_data=True,
        )

    data = table(train, start)
    if valid is None:
        return lightgbm.train(dict(settings), data, num_boost_round=trees)
    keep = valid.with_positive()
    rows = np.isin(np.repeat(np.arange(len(valid)), valid.offsets[1:] - valid.offsets[:-1]), keep)
    held = table(valid.take(keep), None if valid_start is None else valid_start[rows], data)
    return lightgbm.train(
        dict(settings),
        data,
        num_boost_round=trees,
        valid_sets=[held],
        callbacks=[lightgbm.early_stopping(30, verbose=False)],
    )


def _search(
    train: Groups,
    valid: Groups,
    names: Sequence[str],
    start: npt.NDArray[np.float64],
    valid_start: npt.NDArray[np.float64],
    settings: Mapping[str, Any],
    config: RankerConfig,
) -> dict[str, Any]:
    """Optuna within its minutes; returns the settings that beat the given ones, if any.

    Args:
        train, valid: groups to learn from and of held-out users.
        names: [F] names of the columns.
        start, valid_start: scores the trees begin with.
        settings: LightGBM's parameters to beat.
        config: minutes and number of trees.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        tried = dict(settings) | {
            "num_leaves": trial.suggest_int("num_leaves", 4, 31),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 400, log=True),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 50.0, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.1, log=True),
        }
        booster = _boost(train, valid, names, start, valid_start, tried, config.trees)
        return ndcg(valid, valid_start + np.asarray(booster.predict(valid.x, raw_score=True)))

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings["seed"])
    )
    study.enqueue_trial(
        {
            key: settings[key]
            for key in (
                "num_leaves",
                "min_data_in_leaf",
                "lambda_l2",
                "feature_fraction",
                "learning_rate",
            )
        }
    )
    study.optimize(objective, timeout=60 * config.search_minutes)
    return dict(study.best_params)
