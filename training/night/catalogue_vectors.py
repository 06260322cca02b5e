"""Vectors of all items under an encoder, and the user tower fitted again over them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.encode import Elsewhere, encode_items
from recsys.encoder.encode_parts import EncodeElsewhere
from recsys.encoder.index import write_index
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.tower import TOWER, TOWER_JSON, Tower
from recsys.storage.engines import open_engine
from recsys.storage.files import link_tree
from recsys.storage.scratch import scratch_of
from recsys.storage.stages import Stage, StageResult, folder
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import FOLDER
from recsys.training.night.searched_items import searched_ever, searched_key
from recsys.training.night.tune_encoder import CODE, shown_before, to_learn_from
from recsys.training.source_files import VECTORS

TOWER_SHARE = 0.15
"""Share of the encoder's time that fitting the tower again may take."""


def encode(
    night: Night, inputs: Inputs, encoder: StageResult[Path], until: int
) -> StageResult[Path]:
    """Vectors of all items, and the tower fitted again over them; only texts that are new or changed
    go through the model."""
    tower = _tower_identity(inputs, encoder, until)

    return night.runner.run(
        Stage(
            "vectors",
            {"encoder": encoder.key, "texts": inputs.texts_key}
            | ({} if tower is None else {"tower": tower})
            | ({} if (searched := searched_key(inputs)) is None else {"searched": searched}),
            lambda out: _encode(night, inputs, encoder.product, until, tower is not None, out),
            folder,
            code=(
                *CODE,
                "recsys.training.night.searched_items",
                "recsys.training.night.tune_encoder",
            ),
            personal=False,
        )
    )


def _encode(
    night: Night,
    inputs: Inputs,
    encoder: Path,
    until: int,
    follows: bool,
    out: Path,
) -> dict[str, Any]:
    with night.reporter.task("encoding items") as task:
        vectors, counts = encode_items(
            encoder,
            inputs.texts,
            night.workspace.vectors,
            progress=task.reach,
            out=out / VECTORS,
            elsewhere=_elsewhere(night, encoder),
        )
    if not np.isfinite(vectors.sum(dtype=np.float64)):
        raise RecsysError(
            "the encoder gives vectors that are not numbers",
            where=str(encoder),
            expected="finite numbers",
            fix="lower encoder.learning_rate, or name another encoder.model, and run it again",
        )
    night.reporter.say(
        f"vectors: {counts.encoded:,} texts encoded, {counts.from_cache:,} from the cache, "
        f"{counts.truncated:,} of the encoded cut to {EncoderManifest.read(encoder).max_tokens} tokens"
    )
    searched = searched_ever(inputs)
    only = None if searched is None else np.flatnonzero(searched).astype(np.int32)
    write_index(out, vectors, only)
    facts: dict[str, Any] = {
        "encoded": counts.encoded,
        "from_cache": counts.from_cache,
        "truncated": counts.truncated,
    }
    if follows:
        facts["tower"] = _follow(night, inputs, encoder, out, until)
    return facts


def _elsewhere(night: Night, encoder: Path) -> Elsewhere | None:
    """Encodes on the cluster of the config, which is asked for when there is work; None where this process
    encodes."""
    settings = night.config.engine
    if settings.kind == "local":
        return None
    limit = EncoderManifest.read(encoder).max_tokens
    return lambda parts: EncodeElsewhere(
        open_engine(settings), scratch_of(night.config), encoder, limit
    )(parts)


def _tower_identity(
    inputs: Inputs, encoder: StageResult[Path], until: int
) -> dict[str, Any] | None:
    """What decides tonight's tower; None where the encoder's own is as new and as wide."""
    if not encoder.made:
        return None  # one that a dry run would tune tonight
    manifest = encoder.facts["manifest"]
    now, kinds = inputs.windows.encoder_until, list(inputs.interactions.kinds)
    tuned = manifest.get("learned", {}).get("fine_tuned", False)
    if (now <= until or not tuned) and kinds == manifest.get("kinds", kinds):
        return None
    return {"until": now, "kinds": kinds, "known": inputs.key_before(now)}


def _follow(night: Night, inputs: Inputs, encoder: Path, out: Path, until: int) -> dict[str, Any]:
    """Write the encoder with tonight's tower into `out`: its event types in tonight's numbering, and
    fitted to the events that have come since, where that is better."""
    from recsys.training.finetune.refit import refit_tower

    manifest = EncoderManifest.read(encoder)
    config, now = night.config.encoder, inputs.windows.encoder_until
    tower = Tower.load(encoder).aligned(
        manifest.kinds, inputs.interactions.kinds, config.history_length
    )
    facts: dict[str, Any] = {"until": until, "kept": False}
    if now > until and manifest.learned.get("fine_tuned"):
        found = refit_tower(
            to_learn_from(inputs, now),
            np.load(out / VECTORS, mmap_mode="c"),
            config,
            tower,
            fit_until=now,
            since=until,
            seed=night.config.seed,
            seconds=night.budget("encoder") * TOWER_SHARE,
            shown=shown_before(inputs, now),
        )
        tower = found.tower
        facts = {
            "until": now if found.kept else until,
            "kept": found.kept,
            "ndcg_before": found.before,
            "ndcg_after": found.after,
            "steps": found.steps,
        }
        verdict = "kept" if found.kept else "not better, the one before stays"
        night.reporter.say(
            f"user tower: fitted again over the same vectors, validation nDCG {found.before:.4f} → "
            f"{found.after:.4f}, {verdict}"
        )
    link_tree(encoder, out / FOLDER)
    # The files are the encoder's own, linked: they are replaced, never written into.
    for name in (TOWER, TOWER_JSON, "manifest.json"):
        (out / FOLDER / name).unlink()
    tower.save(out / FOLDER)
    replace(manifest, fit_until=facts["until"], kinds=list(inputs.interactions.kinds)).write(
        out / FOLDER
    )
    return facts
