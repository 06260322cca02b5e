"""Baselines that every report holds, whatever the recipe keeps.

Item-item, ALS and BM25 over the texts are fitted with their default params where the recipe has
dropped them, and the encoder stands beside its tuned self as it was before it saw any behaviour.
One that cannot be fitted is named with its reason; the night goes on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from recsys.encoder.encode import encode_items
from recsys.encoder.onnx_export import INFERENCE
from recsys.encoder.pretrained import WEIGHTS
from recsys.encoder.tower import UNFITTED, InterestSource
from recsys.features.protocols import RecallSource
from recsys.storage.files import hash_json
from recsys.storage.stages import StageResult
from recsys.training.finetune import fit_encoder
from recsys.training.night.fit_sources import Recipe, fit_as_of, source_inputs
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.refresh_encoder import CODE, FOLDER, Encoded
from recsys.training.sources.fit_source import applicable_sources

REFERENCES = ("item_item", "als", "bm25")
"""Sources that are always compared with."""
FROZEN = "frozen text"
"""The encoder before fine-tuning, over a plain decayed mean of the history."""
FROZEN_ITEMS = 100_000
"""Items beyond which the untuned encoder is not run over the catalogue for the comparison alone
(assumed: at some 300 texts per second on two cores that is five minutes, once)."""


@dataclass
class Baselines:
    """What is compared with at one cut besides the recipe's own sources."""

    sources: dict[str, RecallSource] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Does not apply to this data → why."""
    failed: dict[str, str] = field(default_factory=dict)
    """Should have been there → what went wrong."""

    def attempt(self, name: str, make: Callable[[], RecallSource]) -> None:
        """Take what `make` gives; whatever stops it is written down, for the page must say it."""
        try:
            self.sources[name] = make()
        except Exception as error:
            self.failed[name] = f"{type(error).__name__}: {error}".strip()[:300]


def baselines_as_of(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    have: Mapping[str, RecallSource],
    cut: int,
) -> Baselines:
    """The baselines that are not among the sources at hand, knowing events before `cut` alone.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        recipe: the sources, their params and fusion weights.
        have: sources at hand by name.
        cut: end of what may be known, µs UTC.
    """
    found = Baselines()
    view, extra = inputs.interactions, source_inputs(inputs, encoded)
    matched = applicable_sources(view.before(cut), extra, None, np.inf, np.inf)
    for name, applies, reason in matched:
        if name not in REFERENCES or name in have:
            continue
        if not applies:
            found.absent[name] = reason
            continue
        plain = Recipe({name: {}}, {}, {})
        found.attempt(
            name,
            lambda plain=plain, name=name: fit_as_of(  # type: ignore[misc]
                night, inputs, encoded, plain, view, cut
            ).load(encoded)[name],
        )
    if not night.config.encoder.fine_tune:
        found.absent[FROZEN] = "the encoder is not fine-tuned: text alone is the frozen encoder"
    elif inputs.n_items > FROZEN_ITEMS:
        found.absent[FROZEN] = (
            f"{inputs.n_items:,} items are more than the {FROZEN_ITEMS:,} that are encoded twice "
            "for a comparison"
        )
    else:
        found.attempt(FROZEN, lambda: frozen_text(night, inputs))
    return found


def frozen_text(night: Night, inputs: Inputs) -> RecallSource:
    """The base encoder over the catalogue; made once for an encoder and its texts."""
    stage = _frozen_stage(night, inputs)
    vectors = np.load(stage.path / "vectors.npy", mmap_mode="r")
    return cast(RecallSource, InterestSource.open(stage.path / FOLDER, vectors, UNFITTED))


def _frozen_stage(night: Night, inputs: Inputs) -> StageResult:
    config = night.config.encoder.model_copy(update={"fine_tune": False})

    def action(out: Path) -> dict[str, Any]:
        fit_encoder(
            inputs.interactions.before(inputs.windows.encoder_until),
            inputs.texts,
            config,
            fit_until=UNFITTED,
            out_dir=out / FOLDER,
            seed=night.config.seed,
            budget_seconds=None,
        )
        # A cache of its own: the tuned encoder's keeps one version only.
        vectors, counts = encode_items(out / FOLDER, inputs.texts, night.workspace.frozen_vectors)
        np.save(out / "vectors.npy", vectors)
        # Its tower and its vectors are all that is asked; the weights are the base model's own.
        for name in (WEIGHTS, INFERENCE):
            (out / FOLDER / name).unlink(missing_ok=True)
        return {"encoded": counts.encoded, "from_cache": counts.from_cache}

    return night.runner.run(
        "frozen-encoder",
        {
            "texts": hash_json(inputs.texts),
            "model": config.model,
            "max_tokens": config.max_tokens,
            "history_length": config.history_length,
            "kinds": list(inputs.interactions.kinds),
        },
        action,
        code=CODE,
        personal=False,
    )
