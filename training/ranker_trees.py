"""LightGBM's lambdarank trees on top of a linear score: settings, a booster, its curve, a search.

Shapes: R rows, F features, G groups in CSR form (rows offsets[g]:offsets[g+1]), C checkpoints.
"""

from collections.abc import Mapping, Sequence
from math import inf
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import RankerConfig
from recsys.ranker.model import tree_name
from recsys.training.ranking_groups import Groups, ndcg

CHECKPOINT = 10
"""Rounds between two looks at the held-out users."""
PATIENCE = 60
"""Rounds without a better look after which a curve ends (measured: nDCG rises in small steps, and
thirty rounds of patience on one fifth of the users left half of the useful trees unused)."""
ROWS_PER_THREAD = 20_000
"""Rows that pay for one more thread. Threads wait for each other in every leaf: on a shared machine a small
shop's ranker took 137-181 s with two, its whole night 14-35 s with one; 77,000 rows on two idle cores
took 83 s with two, 111 s with one (measured)."""
SEARCHED = ("num_leaves", "min_data_in_leaf", "lambda_l2", "feature_fraction", "learning_rate")


def tree_settings(
    config: RankerConfig,
    seed: int,
    workers: int,
    names: Sequence[str],
    monotone: Mapping[str, int] | None,
) -> dict[str, Any]:
    """LightGBM's parameters."""
    settings: dict[str, Any] = {
        "objective": "lambdarank",
        "metric": "none",
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


def threads_for(rows: int, workers: int) -> int:
    """Threads that so many rows keep busy.

    >>> [threads_for(rows, 8) for rows in (500, 20_000, 77_000, 10_000_000)]
    [1, 1, 3, 8]
    """
    return max(1, min(workers, rows // ROWS_PER_THREAD))


def boost(
    train: Groups,
    names: Sequence[str],
    start: npt.NDArray[np.float64],
    settings: Mapping[str, Any],
    trees: int,
) -> Any:
    """One booster of exactly `trees` trees."""
    booster = _begun(train, names, start, settings)
    for _ in range(trees):
        booster.update()
    return _finished(booster)


def curve(
    train: Groups,
    valid: Groups,
    names: Sequence[str],
    start: npt.NDArray[np.float64],
    valid_start: npt.NDArray[np.float64],
    settings: Mapping[str, Any],
    trees: int,
    seconds: float = inf,
) -> npt.NDArray[np.float32]:
    """Scores of the held-out rows after each `CHECKPOINT` rounds, start included, float32[C, R].

    Ends before `trees` rounds where `PATIENCE` of them brought no better nDCG@10, and at the first look
    after `seconds`.
    """
    began, threads = perf_counter(), threads_for(len(valid.x), int(settings["num_threads"]))
    booster = _begun(train, names, start, settings)
    score = valid_start.copy()
    found: list[npt.NDArray[np.float32]] = []
    best, best_round = -1.0, 0
    for done in range(CHECKPOINT, max(trees, CHECKPOINT) + 1, CHECKPOINT):
        for _ in range(CHECKPOINT):
            booster.update()
        first = done - CHECKPOINT
        score += np.asarray(
            booster.predict(
                valid.x,
                raw_score=True,
                start_iteration=first,
                num_iteration=CHECKPOINT,
                num_threads=threads,
            )
        )
        found.append(score.astype(np.float32))
        quality = ndcg(valid, score)
        if quality > best:
            best, best_round = quality, done
        if done - best_round >= PATIENCE or perf_counter() - began > seconds:
            break
    return np.array(found)


def _begun(
    train: Groups,
    names: Sequence[str],
    start: npt.NDArray[np.float64],
    settings: Mapping[str, Any],
) -> Any:
    """A booster without trees."""
    import lightgbm

    data = lightgbm.Dataset(
        train.x,
        label=np.maximum(train.grade, 0),
        weight=train.weight,
        group=train.lengths,
        init_score=start,
        feature_name=[tree_name(name) for name in names],
        free_raw_data=True,
    )
    threads = threads_for(len(train.x), int(settings["num_threads"]))
    return lightgbm.Booster({**settings, "num_threads": threads}, data)


def _finished(booster: Any) -> Any:
    """The same trees without the data they were fitted on."""
    import lightgbm

    return lightgbm.Booster(model_str=booster.model_to_string())


def search(
    train: Groups,
    valid: Groups,
    names: Sequence[str],
    start: npt.NDArray[np.float64],
    valid_start: npt.NDArray[np.float64],
    settings: Mapping[str, Any],
    config: RankerConfig,
) -> dict[str, Any]:
    """Optuna within its minutes; the settings that did best, the given ones among them."""
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
        minutes = config.search_minutes
        scores = curve(train, valid, names, start, valid_start, tried, config.trees, 60 * minutes)
        return max(ndcg(valid, score.astype(np.float64)) for score in scores)

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings["seed"])
    )
    study.enqueue_trial({key: settings[key] for key in SEARCHED})
    study.optimize(objective, timeout=60 * config.search_minutes)
    return dict(study.best_params)
