"""Fit the encoder and the user tower on behaviour, and write an encoder folder.

The steps, in order: open the base model, make examples, run the frozen layers once, warm up head
and tower, tune the top layers with them, calibrate, export, write aside and rename.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_schemas.config import EncoderConfig
from data_schemas.errors import DataRefused
from features.interactions import Interactions
from recsys.encoder.cache import VectorCache, text_keys
from recsys.encoder.export import write_inference
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.source import CONFIG, TOKENIZER, WEIGHTS, file_sha256, resolve_model
from recsys.encoder.tokens import TextTokenizer
from recsys.encoder.torch_model import HEAD_FOLDER, ItemEncoder, best_device
from recsys.encoder.tower import UNFITTED, Tower
from training.finetune.calibrate import calibrate
from training.finetune.checkpoint import Checkpoints
from training.finetune.distributed import Group
from training.finetune.examples import Split, make_examples
from training.finetune.freeze import compile_layers, frozen_layers, merge_lora, set_trainable
from training.finetune.loop import Learner, Metrics, Trainer
from training.finetune.states import ItemStates
from training.finetune.tower_model import UserTower

log = logging.getLogger(__name__)

HEAD, LAYERS = "head", "layers"
"""The two phases of a fit."""
HEAD_SHARE = 0.25
"""Share of the time after preparation that the first phase may take (assumed)."""
PREPARE_SHARE = 0.35
"""Share of the budget for running the frozen layers once."""
CLOSING_SECONDS = 10.0
"""Part of the budget kept for calibration, export and writing (measured: 5-10 s)."""


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
    on_metrics: Metrics | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Fit on events up to `fit_until` and write the encoder folder `out_dir`.

    Args:
        interactions: events, none later than fit_until (µs UTC).
        texts: text of each item of the vocabulary, [n_items].
        previous: an encoder folder to start from instead of the base model (warm start).
        checkpoint_dir: where a killed run finds its last state; removed at the end.
        vector_cache: the cache folder later given to `encode_items`; what the fit has computed of
            the items' vectors is put there, so that they are not encoded again.
        on_metrics: called with (named values, step).
        progress: called with (phase, done, all).

    Returns:
        the manifest as a dict.

    Raises:
        DataRefused: an event is later than fit_until, or there are too few to learn from.
        RecsysError: the model's folder is damaged, or the checkpoint is of another fit.
        UsageError: there is no such model, or a setting does not fit it.
    """
    began = time.monotonic()
    deadline = None if budget_seconds is None else began + budget_seconds
    group = Group()
    base = previous if previous is not None else resolve_model(config.model)
    encoder = ItemEncoder.open(base)
    tokenizer = TextTokenizer.open(base, config.max_tokens)
    tokens, cut = tokenizer(list(texts))
    _warn_unknown(tokenizer, tokens)
    work = _Work(
        config, fit_until, seed, encoder, tokens, tokenizer.pad, base, previous is not None
    )
    if not config.fine_tune:
        kinds = len(interactions.kinds)
        tower = Tower.plain(encoder.dimension, config.history_length, kinds)
        manifest = _write(work, out_dir, tower, {"fine_tuned": False}, sum(cut), UNFITTED)
        return asdict(manifest)
    if len(texts) != interactions.n_items:
        raise DataRefused(
            "texts and items do not match",
            where="encoder fit",
            found=f"{len(texts)} texts",
            expected=f"{interactions.n_items}, one per item of the vocabulary",
        )
    split = make_examples(
        interactions, fit_until=fit_until, places=config.history_length, seed=seed
    )
    trainer, tower = _train(
        work, split, interactions, group, deadline, checkpoint_dir, on_metrics, progress
    )
    learned = _learned(trainer, split, time.monotonic() - began)
    if group.first:
        manifest = _write(work, out_dir, tower, learned, sum(cut), fit_until)
        if vector_cache is not None:
            _fill_cache(manifest, trainer.states, texts, vector_cache)
    trainer.states.close()
    group.wait()
    trainer.checkpoints.clear()
    return asdict(manifest) if group.first else learned


def _fill_cache(
    manifest: EncoderManifest, states: ItemStates, texts: Sequence[str], cache_dir: Path
) -> None:
    """Store the vectors of the items whose frozen activations are at hand: a third of the work."""
    if not (states.whole and states.was_cached) or manifest.inference is None:
        return
    with VectorCache(cache_dir / manifest.cache_name, manifest.dimension).locked() as cache:
        for rows, vectors in states.final_vectors():
            keys = text_keys([texts[r] for r in rows])
            first = sorted({key.tobytes(): i for i, key in enumerate(keys)}.values())
            new = np.array([i for i in first if cache.find(keys[i : i + 1])[0] < 0], np.int64)
            cache.append(keys[new], vectors[new])


class _Work:
    """What the parts of a fit share."""

    def __init__(
        self,
        config: EncoderConfig,
        fit_until: int,
        seed: int,
        encoder: ItemEncoder,
        tokens: Sequence[Sequence[int]],
        pad: int,
        base: Path,
        warm: bool,
    ) -> None:
        self.config, self.fit_until, self.seed = config, fit_until, seed
        self.encoder, self.tokens, self.pad, self.base, self.warm = encoder, tokens, pad, base, warm

    def fingerprint(self, split: Split) -> str:
        """Changes with anything that would make a checkpoint continue another fit."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        digest.update(f"{self.seed} {self.fit_until} {file_sha256(self.base / WEIGHTS)}".encode())
        digest.update(split.train.row.tobytes() + split.train.target.tobytes())
        for ids in self.tokens:
            digest.update(np.asarray(ids, np.int32).tobytes())
        return digest.hexdigest()[:16]


def _warn_unknown(tokenizer: TextTokenizer, tokens: Sequence[Sequence[int]]) -> None:
    unknown = tokenizer.unknown_texts(tokens)
    if unknown:
        log.warning(
            "%d of %d texts are in a language or script this encoder hardly knows; "
            "a multilingual encoder.model would read them",
            unknown,
            len(tokens),
        )


def _train(
    work: _Work,
    split: Split,
    interactions: Interactions,
    group: Group,
    deadline: float | None,
    checkpoint_dir: Path | None,
    on_metrics: Metrics | None,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[Trainer, Tower]:
    """Both phases; returns the trainer with the best weights in place, and the calibrated tower."""
    config = work.config
    device = group.device or best_device()
    start = (
        Tower.load(work.base)
        if work.warm
        else Tower.plain(work.encoder.dimension, config.history_length, len(interactions.kinds))
    )
    set_trainable(work.encoder, config)
    if config.compile:
        compile_layers(work.encoder, on=True)
    learner = Learner(work.encoder, UserTower(start)).to(device)
    autocast = (
        config.precision != "float32" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    scratch = (checkpoint_dir or Path(os.environ.get("TMPDIR", "/tmp"))) / f"states-{os.getpid()}"
    states = ItemStates(
        work.encoder,
        work.tokens,
        work.pad,
        frozen_layers(work.encoder, config),
        device,
        scratch,
        autocast,
    )
    try:
        if deadline is not None:
            states.fit_into((deadline - time.monotonic()) * PREPARE_SHARE, split.items)
        states.prepare(
            split.items, None if progress is None else lambda d, n: progress("encode", d, n)
        )
        checkpoints = Checkpoints(
            None if checkpoint_dir is None else checkpoint_dir / "last",
            work.fingerprint(split),
            write=group.first,
        )
        trainer = Trainer(
            learner,
            states,
            split,
            config,
            seed=work.seed,
            checkpoints=checkpoints,
            group=group,
            on_metrics=on_metrics,
        )
        _run_phases(trainer, config, deadline, warm=work.warm)
        checkpoints.restore_best(learner)
        trainer.refresh_valid()
        tower = learner.tower.freeze_to(calibrate(trainer))
    except BaseException:
        states.close()
        raise
    return trainer, tower


def _run_phases(
    trainer: Trainer, config: EncoderConfig, deadline: float | None, *, warm: bool
) -> None:
    """Head and tower first, over frozen vectors; then the layers join."""
    now = time.monotonic()
    left = None if deadline is None else max(1.0, deadline - now - CLOSING_SECONDS)
    phase = trainer.checkpoints.phase()
    if phase is not None:
        trainer.checkpoints.restore(trainer)
    steps = config.head_steps if config.freeze != "head" else config.head_steps * config.epochs
    if phase in (None, HEAD):
        if trainer.progress.step == 0:
            trainer.check(HEAD)
            if not warm:
                trainer.start_head()
        share = 1.0 if config.freeze == "head" else HEAD_SHARE
        trainer.run(
            HEAD, 0, steps, encode=False, deadline=None if left is None else now + left * share
        )
    if config.freeze == "head" or trainer.progress.failed:
        return
    trainer.begin_layers()
    items = max(2, int(config.step_tokens / max(1.0, float(trainer.states.lengths.mean()))))
    per_epoch = max(1, int(np.ceil(trainer.split.train.n_items / items)))
    total = min(config.max_steps or 10**9, config.epochs * per_epoch)
    trainer.run(
        LAYERS,
        trainer.progress.layers_from,
        total,
        encode=True,
        deadline=None if left is None else now + left,
    )


def _learned(trainer: Trainer, split: Split, seconds: float) -> dict[str, Any]:
    p = trainer.progress
    start = p.validations[0]
    best = max(p.validations, key=lambda check: check["ndcg"])
    return {
        "fine_tuned": True,
        "examples": len(split.train),
        "steps": p.step,
        "best_step": p.best_step,
        "validation_examples": len(split.valid),
        "best_ndcg": p.best,
        "best_ndcg10": best["ndcg10"],
        "start_ndcg": start["ndcg"],
        "start_ndcg10": start["ndcg10"],
        "stopped": p.stopped or "all steps done",
        "seconds": round(seconds, 1),
        "losses": [round(x, 5) for x in p.losses],
        "validations": p.validations,
        "activations_cached": trainer.states.was_cached,
    }


def _write(
    work: _Work,
    out_dir: Path,
    tower: Tower,
    learned: dict[str, Any],
    truncated: int,
    fit_until: int,
) -> EncoderManifest:
    """Write the encoder folder aside and rename it into place."""
    aside = out_dir.with_name(out_dir.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    encoder = work.encoder.cpu().eval()
    compile_layers(encoder, on=False)
    if work.config.freeze == "lora" and work.config.fine_tune:
        merge_lora(encoder)
    encoder.save(aside)
    _copy_settings(work, aside)
    tower.save(aside)
    inference, agreement = write_inference(encoder, aside, work.tokens, work.pad)
    manifest = EncoderManifest(
        version=_version(aside),
        fit_until=fit_until,
        base_model=work.config.model,
        base_sha256=file_sha256(work.base / WEIGHTS),
        dimension=encoder.dimension,
        pooling=encoder.pooling,
        max_tokens=work.config.max_tokens,
        template=work.config.template,
        precision="float32",
        inference=inference,
        agreement=agreement,
        truncated=truncated,
        texts=len(work.tokens),
        learned=learned,
    )
    manifest.write(aside)
    for file in aside.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    shutil.rmtree(out_dir, ignore_errors=True)
    aside.rename(out_dir)
    return manifest


def _version(folder: Path) -> str:
    """Hash of the weights that make vectors, and of the tokenizer."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, f"{HEAD_FOLDER}/{WEIGHTS}", TOKENIZER):
        digest.update(file_sha256(folder / name).encode())
    return digest.hexdigest()[:16]


def _copy_settings(work: _Work, folder: Path) -> None:
    """Tokenizer files, and the modules that make the folder open in sentence-transformers."""
    names = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
    for name in names:
        if (work.base / name).is_file():
            shutil.copyfile(work.base / name, folder / name)
    d = work.encoder.dimension
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    chosen = {"cls": "cls_token", "mean": "mean_tokens"}[work.encoder.pooling]
    pooling = {"word_embedding_dimension": d} | {f"pooling_mode_{m}": m == chosen for m in modes}
    dense = {
        "in_features": d,
        "out_features": d,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", HEAD_FOLDER, "3_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (folder / "1_Pooling").mkdir()
    (folder / "3_Normalize").mkdir()
    _json(folder / "1_Pooling" / CONFIG, pooling)
    _json(folder / HEAD_FOLDER / CONFIG, dense)
    _json(folder / "modules.json", modules)
    _json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": work.config.max_tokens, "do_lower_case": False},
    )


def _json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
