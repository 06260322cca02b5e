"""Fine-tuning of the text encoder and the user tower on behaviour.

Importing this package does not import PyTorch; calling it does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_schemas.config import EncoderConfig
from features.interactions import Interactions


def fit_encoder(
    interactions: Interactions,
    texts: Sequence[str],
    config: EncoderConfig,
    *,
    fit_until: int,
    out_dir: Path,
    seed: int,
    budget_seconds: float | None,
    previous: Path | None = None,
    checkpoint_dir: Path | None = None,
    vector_cache: Path | None = None,
    on_metrics: Callable[[dict[str, float], int], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Fit encoder and user tower and write an encoder folder; see `training.finetune.fit`."""
    from training.finetune.fit import fit_encoder as fit

    return fit(
        interactions,
        texts,
        config,
        fit_until=fit_until,
        out_dir=out_dir,
        seed=seed,
        budget_seconds=budget_seconds,
        previous=previous,
        checkpoint_dir=checkpoint_dir,
        vector_cache=vector_cache,
        on_metrics=on_metrics,
        progress=progress,
    )
