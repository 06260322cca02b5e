"""Sources that every report compares with, whatever the recipe keeps, as stages of the night.

Beside those of `training.compared_lists`, the encoder stands beside its tuned self as it was before it
saw any behaviour.
"""

from collections.abc import Mapping
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
from recsys.training.compared_lists import FROZEN, Compared
from recsys.training.night.fit_sources import Recipe, fit_as_of, source_inputs
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.refresh_encoder import CODE, FOLDER, Encoded

FROZEN_ITEMS = 100_000
"""Items beyond which the untuned encoder is not run over the catalogue for the comparison alone
(assumed: at some 300 texts per second on two cores that is five minutes, once)."""


def baselines_as_of(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    have: Mapping[str, RecallSource],
    cut: int,
) -> Compared:
    """The baselines that are not among the sources at hand, knowing events before `cut` alone.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        recipe: the sources, their params and fusion weights.
        have: sources at hand by name.
        cut: end of what may be known, µs UTC.
    """
    found = Compared()
    view = inputs.interactions

    def fit(name: str) -> RecallSource:
        plain = Recipe({name: {}}, {}, {})
        return fit_as_of(night, inputs, encoded, plain, view, cut).load(encoded)[name]

    found.add_references(view.before(cut), source_inputs(inputs, encoded), fit, have)
    if not night.config.encoder.fine_tune:
        found.absent[FROZEN] = "the encoder is not fine-tuned: text alone is the frozen encoder"
    elif inputs.n_items > FROZEN_ITEMS:
        found.absent[FROZEN] = (
            f"{inputs.n_items:,} items are more than the {FROZEN_ITEMS:,} that are encoded twice "
            "for a comparison"
        )
    else:
        found.add_source(FROZEN, lambda: frozen_text(night, inputs))
    return found


def frozen_text(night: Night, inputs: Inputs) -> RecallSource:
    """The base encoder over the catalogue; made once for an encoder and its texts."""
    stage = _frozen_stage(night, inputs)
    vectors = np.load(stage.path / "vectors.npy", mmap_mode="r")
    return cast(RecallSource, InterestSource.open(stage.path / FOLDER, vectors, UNFITTED))


def _frozen_stage(night: Night, inputs: Inputs) -> StageResult:
    config = night.config.encoder.model_copy(update={"fine_tune": False})

    def action(out: Path) -> dict[str, Any]:
        from recsys.training.finetune.fit import fit_encoder

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
