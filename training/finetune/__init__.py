"""Fine-tuning of the text encoder and the user tower on behaviour.

Importing this package does not import PyTorch; calling it does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.tower import Tower
from recsys.features.interactions import Floats, Interactions

if TYPE_CHECKING:
    from recsys.features.impressions import Impressions
    from recsys.training.finetune.refit import Refit


def fit_encoder(
    interactions: Interactions,
    texts: Sequence[str],
    config: EncoderConfig,
    *,
    fit_until: int,
    out_dir: Path,
    seed: int,
    budget_seconds: float | None,
    shown: "Impressions | None" = None,
    previous: Path | None = None,
    checkpoint_dir: Path | None = None,
    vector_cache: Path | None = None,
    on_metrics: Callable[[dict[str, float], int], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Fit encoder and user tower and write an encoder folder; see `recsys.training.finetune.fit`.

    Args:
        interactions: events, none later than fit_until (µs UTC).
        texts: [N] text of each item.
        config: settings of the encoder.
        fit_until: time of the last event that may be seen, µs UTC.
        out_dir: folder that is written.
        seed: of all draws.
        budget_seconds: time it may take; no limit when None.
        shown: lists that users saw, for negatives.
        previous: encoder folder of an earlier fit, a second start.
        checkpoint_dir: where a killed run finds its last state.
        vector_cache: cache of item vectors to fill.
        on_metrics: called with (named values, step).
        progress: called with (phase, done, all).
    """
    from recsys.training.finetune.fit import fit_encoder as fit

    return fit(
        interactions,
        texts,
        config,
        fit_until=fit_until,
        out_dir=out_dir,
        seed=seed,
        budget_seconds=budget_seconds,
        shown=shown,
        previous=previous,
        checkpoint_dir=checkpoint_dir,
        vector_cache=vector_cache,
        on_metrics=on_metrics,
        progress=progress,
    )


def too_little(error: Exception) -> bool:
    """Whether a fit refused because there is too little behaviour to learn from."""
    from recsys.training.finetune.examples import TooLittle

    return isinstance(error, TooLittle)


def refit_tower(
    interactions: Interactions,
    vectors: Floats,
    config: EncoderConfig,
    start: Tower,
    *,
    fit_until: int,
    since: int,
    seed: int,
    seconds: float,
    shown: "Impressions | None" = None,
) -> "Refit":
    """Fit the user tower alone over item vectors as they are; see `recsys.training.finetune.refit`.

    Args:
        interactions: events, none later than fit_until (µs UTC).
        vectors: unit vectors float32[N, d] of all items, writable.
        config: settings of the encoder.
        start: the tower to go on from.
        fit_until: time of the last event that may be seen, µs UTC.
        since: events after this (µs) are new to the tower.
        seed: of all draws.
        seconds: time it may take.
        shown: lists that users saw, for negatives.
    """
    from recsys.training.finetune.refit import refit_tower as refit

    return refit(
        interactions,
        vectors,
        config,
        start,
        fit_until=fit_until,
        since=since,
        seed=seed,
        seconds=seconds,
        shown=shown,
    )
