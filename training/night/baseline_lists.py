"""Sources that every report compares with, whatever the recipe keeps, as stages of the night.

Beside those of `training.compared_lists`, the encoder stands beside its tuned self as it was before it
saw any behaviour.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.encoder.encode import encode_items
from recsys.encoder.onnx_export import INFERENCE
from recsys.encoder.pretrained import WEIGHTS
from recsys.encoder.tower import UNFITTED
from recsys.features.protocols import RecallSource
from recsys.storage.stages import Stage, StageResult
from recsys.training.compared_lists import FROZEN, Compared
from recsys.training.night.fit_sources import fit_as_of, source_inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import FOLDER, Recipe
from recsys.training.night.tune_encoder import CODE
from recsys.training.source_files import VECTORS, SourceFiles

FROZEN_ITEMS = 100_000
"""Items beyond which the untuned encoder is not run over the catalogue for the comparison alone
(assumed: at some 300 texts per second on two cores that is five minutes, once)."""


def baselines_as_of(
    night: Night, have: Mapping[str, RecallSource], cut: int
) -> tuple[Compared, dict[str, SourceFiles]]:
    """The baselines that are not among the sources at hand, knowing events before `cut` alone, and where
    each lies.

    Args:
        night: tonight's run.
        have: sources at hand by name.
        cut: end of what may be known, µs UTC.
    """
    found, files = Compared(), dict[str, SourceFiles]()
    view = night.data.interactions

    def fit(name: str) -> RecallSource:
        plain = night.beside(recipe=Recipe({name: {}}, {}, {}))
        fitted = fit_as_of(plain, view, cut)
        files[name] = fitted.files(night.encoded)[name]
        return fitted.load(night.encoded)[name]

    def frozen() -> RecallSource:
        files[FROZEN] = frozen_files(night)
        return files[FROZEN].open()

    found.add_references(view.before(cut), source_inputs(night), fit, have)
    if not night.config.encoder.fine_tune:
        found.absent[FROZEN] = "the encoder is not fine-tuned: text alone is the frozen encoder"
    elif night.data.n_items > FROZEN_ITEMS:
        found.absent[FROZEN] = (
            f"{night.data.n_items:,} items are more than the {FROZEN_ITEMS:,} that are encoded twice "
            "for a comparison"
        )
    else:
        found.add_source(FROZEN, frozen)
    return found, files


def frozen_files(night: Night) -> SourceFiles:
    """The base encoder over the catalogue, as a source; made once for an encoder and its texts."""
    data = night.data
    config = night.config.encoder.model_copy(update={"fine_tune": False})

    def make(out: Path) -> dict[str, Any]:
        from recsys.training.finetune.fit import fit_encoder

        fit_encoder(
            data.interactions.before(data.windows.encoder_until),
            data.texts,
            config,
            fit_until=UNFITTED,
            out_dir=out / FOLDER,
            seed=night.config.seed,
            budget_seconds=None,
        )
        # A cache of its own: the tuned encoder's keeps one version only.
        vectors, counts = encode_items(out / FOLDER, data.texts, night.workspace.frozen_vectors)
        np.save(out / VECTORS, vectors)
        # Its tower and its vectors are all that is asked; the weights are the base model's own.
        for name in (WEIGHTS, INFERENCE):
            (out / FOLDER / name).unlink(missing_ok=True)
        return {"encoded": counts.encoded, "from_cache": counts.from_cache}

    return night.runner.run(
        Stage(
            "frozen-encoder",
            {
                "texts": data.texts_key,
                "model": night.section("encoder")["model"],
                "max_tokens": config.max_tokens,
                "history_length": config.history_length,
                "kinds": list(data.interactions.kinds),
            },
            make,
            _frozen,
            code=CODE,
            personal=False,
        )
    ).product


def _frozen(stage: StageResult[Any]) -> SourceFiles:
    return SourceFiles(stage.folder, stage.folder / FOLDER, UNFITTED)
