"""Refreshing the encoder when it is due, and encoding what changed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.interactions import DAY, Floats
from recsys.encoder.encode import encode_items
from recsys.encoder.tower import InterestSource
from recsys.files import atomic_write, hash_json
from recsys.stages import StageResult
from training.finetune import fit_encoder
from training.night.context import Night
from training.night.inputs import Inputs

CODE = ("recsys.encoder", "training.finetune")
POINTER = "encoder.json"
FOLDER = "encoder"


@dataclass(frozen=True)
class Encoded:
    """The encoder in use and the vectors of all items."""

    stage: StageResult
    vectors_stage: StageResult
    fit_until: int

    @property
    def folder(self) -> Path:
        return self.stage.path / FOLDER

    def vectors(self) -> Floats:
        """float32[N,d], memory-mapped."""
        vectors: Floats = np.load(self.vectors_stage.path / "vectors.npy", mmap_mode="r")
        return vectors

    def source(self) -> InterestSource:
        """The fine-tuned encoder with its user tower, as a source."""
        return InterestSource.open(self.folder, self.vectors(), self.fit_until)


def refresh(night: Night, inputs: Inputs) -> Encoded:
    """The encoder of this night, at hand or new, and the vectors of all items under it.

    A new one is due when there is none, its config changed, `refresh_days` of data have come since
    it was fitted, or it has seen events that the ranker's rows must not know.
    """
    pointer = night.workspace.cache / POINTER
    identity, why = _identity(night, inputs, pointer)
    night.reporter.say(f"encoder: {why}")
    until = int(identity["until"])
    stage = night.runner.run(
        "encoder",
        identity,
        lambda out: _fit(night, inputs, until, out),
        code=CODE,
        personal=False,
    )
    if not night.runner.dry_run:
        atomic_write(pointer, json.dumps(identity))
    return Encoded(stage, encode(night, inputs, stage), until)


def _identity(night: Night, inputs: Inputs, pointer: Path) -> tuple[dict[str, Any], str]:
    """What decides the encoder: the identity at hand while it is not due, else a new one."""
    new = {
        "until": inputs.windows.encoder_until,
        "end": inputs.windows.end,
        "items": inputs.n_items,
        "encoder": night.section("encoder"),
        "budget_minutes": night.config.budget_minutes,
        "seed": night.config.seed,
    }
    try:
        kept: dict[str, Any] = json.loads(pointer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return new, "due, there is none yet"
    if hash_json(kept["encoder"]) != hash_json(new["encoder"]):
        return new, "due, its config changed"
    if kept["until"] > inputs.windows.encoder_until:
        return new, "due, the one at hand has seen events of the ranker's windows"
    age = (inputs.windows.end - kept["end"]) / DAY
    if not 0 <= age < max(night.config.encoder.refresh_days, 1e-9):
        return new, f"due, {age:.1f} days of data since the last refresh"
    return kept, f"not due, {age:.1f} of {night.config.encoder.refresh_days:g} days of data"


def _fit(night: Night, inputs: Inputs, until: int, out: Path) -> dict[str, Any]:
    manifest = fit_encoder(
        inputs.interactions.before(until),
        inputs.texts,
        night.config.encoder,
        fit_until=until,
        out_dir=out / FOLDER,
        seed=night.config.seed,
        budget_seconds=night.budget("encoder"),
        checkpoint_dir=night.workspace.cache / "encoder-checkpoints",
        vector_cache=night.workspace.cache / "vectors",
    )
    return {"manifest": manifest}


def encode(night: Night, inputs: Inputs, encoder: StageResult) -> StageResult:
    """Vectors of all items; only texts that are new or changed go through the model."""

    def action(out: Path) -> dict[str, Any]:
        vectors, counts = encode_items(
            encoder.path / FOLDER, inputs.texts, night.workspace.cache / "vectors"
        )
        np.save(out / "vectors.npy", vectors)
        return {
            "encoded": counts.encoded,
            "from_cache": counts.from_cache,
            "truncated": counts.truncated,
        }

    texts = None if night.runner.dry_run else hash_json(inputs.texts)
    return night.runner.run(
        "vectors",
        {"encoder": encoder.key, "texts": texts},
        action,
        code=CODE,
        personal=False,
    )
