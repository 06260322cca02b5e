"""Search over the fit's settings with Optuna: bounded in time, pruned, resumable."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recsys.data_schemas.config import EncoderConfig
from recsys.features.interactions import Interactions
from recsys.storage.files import hash_json, sqlite_address
from recsys.training.finetune.fit import fit_encoder

STUDY = "encoder"
RATES = {"learning_rate": (3e-6, 3e-4), "head_learning_rate": (1e-4, 5e-3)}
"""Ranges of the rates (assumed); the config's own value widens its range."""
LEAST_TRIALS = 4
"""Trials that the time is divided for at least (assumed)."""


def _comparable(config: EncoderConfig, fit_until: int, n_items: int) -> str:
    """Names what trials must have in common to be held against each other."""
    fixed = config.model_dump(mode="json", exclude={*RATES, "logq"})
    return hash_json([fixed, fit_until, n_items])[:12]


def search(
    interactions: Interactions,
    texts: Sequence[str],
    config: EncoderConfig,
    *,
    fit_until: int,
    seed: int,
    seconds: float,
    storage: Path | None = None,
    on_trial: Callable[[int, float, dict[str, Any]], None] | None = None,
) -> tuple[EncoderConfig, float]:
    """The settings with the best validation nDCG found in `seconds`, and that nDCG.

    The first trial is the config as it is, so that the answer is never worse on validation.

    Args:
        interactions: events, none later than fit_until (µs UTC).
        texts: [N] text of each item.
        config: settings of the encoder.
        fit_until: time of the last event that may be seen, µs UTC.
        seed: of all draws.
        seconds: time for all trials.
        storage: SQLite file in which a later search of the same data and settings finds the trials
            of earlier ones; in memory when None.
        on_trial: called with (trial, nDCG, settings), for tracking.
    """
    study = _study(config, fit_until, len(texts), seed, storage)
    deadline = time.monotonic() + seconds

    def value_of(trial: Any, candidate: EncoderConfig) -> float:
        folder = Path(tempfile.mkdtemp(prefix="search-"))
        try:
            manifest = fit_encoder(
                interactions,
                texts,
                candidate,
                fit_until=fit_until,
                out_dir=folder / "encoder",
                seed=seed,
                budget_seconds=min(seconds / LEAST_TRIALS, max(1.0, deadline - time.monotonic())),
                on_metrics=_pruning(trial),
            )
            return float(manifest["learned"]["best_ndcg"])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def objective(trial: Any) -> float:
        settings = _drawn(trial, config)
        value = value_of(trial, config.model_copy(update=settings))
        if on_trial is not None:
            on_trial(trial.number, value, settings)
        return value

    study.optimize(objective, timeout=seconds)
    return config.model_copy(update=study.best_params), float(study.best_value)


def _study(
    config: EncoderConfig, fit_until: int, n_items: int, seed: int, storage: Path | None
) -> Any:
    """The trials so far, with the config as it is to be tried first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=f"{STUDY}-{_comparable(config, fit_until, n_items)}",
        direction="maximize",
        storage=None if storage is None else sqlite_address(storage),
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=LEAST_TRIALS),
    )
    if not study.trials:
        study.enqueue_trial({name: getattr(config, name) for name in (*RATES, "logq")})
    return study


def _drawn(trial: Any, config: EncoderConfig) -> dict[str, float]:
    """The settings of a trial; the config's own lie within the bounds."""
    drawn = {
        name: trial.suggest_float(
            name, min(low, getattr(config, name)), max(high, getattr(config, name)), log=True
        )
        for name, (low, high) in RATES.items()
    }
    return drawn | {"logq": trial.suggest_float("logq", 0.0, 1.0)}


def _pruning(trial: Any) -> Callable[[dict[str, float], int], None]:
    """What ends a trial that falls behind the others' validations."""
    import optuna

    reported: set[int] = set()

    def report(values: dict[str, float], step: int) -> None:
        # Step 0 is validated twice (frozen, and with the head's start), before anything is tuned.
        if "encoder_valid_ndcg" in values and step > 0 and step not in reported:
            reported.add(step)
            trial.report(values["encoder_valid_ndcg"], step)
            if trial.should_prune():
                raise optuna.TrialPruned

    return report
