"""Fit the encoder and the user tower on behaviour, and write an encoder folder.

The steps, in order: open the base model, make examples, run the frozen layers once, warm up head
and tower, tune the top layers with them, see whether that helped, calibrate, export, write aside and rename.

With an encoder of an earlier fit at hand there are two starts, that one's weights (warm) and the base
model (cold). Both are tuned on the same examples, over the same frozen activations, and compared on
the same held-out items; the better one is kept, unless the model as it came does as well.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.errors import DataRefused
from recsys.encoder.cache import VectorCache, text_keys
from recsys.encoder.company import Company
from recsys.encoder.device import best_device, computes_in_half
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.onnx_export import Inference, write_inference
from recsys.encoder.pretrained import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    resolve_model,
)
from recsys.encoder.tokens import TextTokenizer, Tokens
from recsys.encoder.torch_model import HEAD_FOLDER, ItemEncoder
from recsys.encoder.tower import UNFITTED, Tower
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions
from recsys.storage.files import atomic_write, hash_file, replace_folder
from recsys.training.cut_short import CUT_SHORT
from recsys.training.deterministic import deterministic
from recsys.training.device_plan import EncoderPlan
from recsys.training.finetune.calibrate import calibrate
from recsys.training.finetune.checkpoint import Checkpoints
from recsys.training.finetune.distributed import Group
from recsys.training.finetune.encoder_plan import PLAN, planned
from recsys.training.finetune.examples import (
    Split,
    fewer_users,
    make_examples,
)
from recsys.training.finetune.freeze import (
    compile_layers,
    frozen_layers,
    set_trainable,
)
from recsys.training.finetune.keep_company import best_company
from recsys.training.finetune.learner import Learner
from recsys.training.finetune.loop import Metrics, Trainer
from recsys.training.finetune.low_rank import merge_low_rank
from recsys.training.finetune.states import SHORTEST_CUT, ItemStates, scratch_folder
from recsys.training.finetune.teacher import Lesson, lesson_of
from recsys.training.finetune.tower_model import UserTower
from recsys.training.finetune.verdict import FROZEN, TUNED, HeldOutGain, judge

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, all)."""

HEAD, LAYERS, DONE = "head", "layers", "done"
"""The two phases of a fit, and what follows."""
COLD, WARM, DISTILLED = "cold", "warm", "distilled"
START_SHARES = {WARM: 0.6, DISTILLED: 0.6}
"""Share of the tuning time that is left for a warm start and for one from a distilled model (assumed); the cold
start has the rest. Without the latter nobody would notice that the weights handed on from week to week had
gone astray."""
UNTOUCHED = {
    COLD: "no tuning",
    WARM: "last encoder, not tuned again",
    DISTILLED: "learned from the teacher, not tuned",
}
"""What a start is called as it was."""
UNKNOWN_TEXTS = (
    "%d of %d texts are in a language or script this encoder hardly knows; a multilingual "
    "encoder.model would read them"
)
CHECKPOINTS = {COLD: "last", WARM: "last-warm", DISTILLED: "last-distilled"}
TOKENS_ALLOWED = "tokens-allowed.json"
UNTUNED: dict[str, Any] = {"fine_tuned": False}
"""What a manifest says of an encoder that is used as it came."""
LEAST_TEXTS = 5000
"""Texts that a fit reads however short its budget (assumed: fewer teach a language model nothing)."""
HEAD_SHARE = 0.25
"""Share of the time after preparation that the first phase may take (assumed)."""
PREPARE_SHARE = 0.35
"""Share of the budget for running the frozen layers once."""
CLOSING_SECONDS = 10.0
"""Part of the budget kept for calibration, export and writing (measured: 5-10 s)."""


@deterministic()
def fit_encoder(
    interactions: Interactions,
    texts: Sequence[str],
    config: EncoderConfig,
    *,
    fit_until: int,
    out_dir: Path,
    seed: int,
    budget_seconds: float | None,
    shown: Impressions | None = None,
    previous: Path | None = None,
    checkpoint_dir: Path | None = None,
    vector_cache: Path | None = None,
    on_metrics: Metrics | None = None,
    progress: Progress | None = None,
    serves: bool = True,
) -> dict[str, Any]:
    """Fit on events up to `fit_until`, write the encoder folder `out_dir`, and return its manifest.

    Args:
        interactions: events, none later than fit_until (µs UTC).
        texts: text of each item of the vocabulary, [n_items].
        config, seed: settings of the encoder; of all draws.
        fit_until, out_dir: end of what may be seen, µs UTC; folder that is written, or replaced.
        budget_seconds: time it may take; no limit when None.
        shown: lists that users saw, for negatives; later ones than fit_until are not looked at.
        previous: an encoder folder of an earlier fit: the warm start; the base model is tuned besides.
        checkpoint_dir: where a killed run finds its last state; removed at the end.
        vector_cache: the cache folder later given to `encode_items`; vectors that are known are put there.
        on_metrics, progress: called with (named values, step), and with (phase, done, all).
        serves: whether it is also exported for a CPU; a teacher is not.

    Raises:
        DataRefused: an event is later than fit_until, or there are too few to learn from.
        RecsysError: the model's folder is damaged, or the checkpoint is of another fit.
        UsageError: there is no such model, or a setting does not fit it.
    """
    began = time.monotonic()
    deadline = None if budget_seconds is None else began + budget_seconds
    group = Group()
    config, plan = planned(config, texts, group, seconds=budget_seconds, folder=checkpoint_dir)
    work = _Work.open(config, texts, interactions.kinds, fit_until, seed, previous)
    work.plan, work.serves = plan, serves
    if not config.fine_tune:
        return asdict(_write_untuned(work, out_dir)) if group.first else UNTUNED
    _check_texts(texts, interactions)
    again = partial(fit_encoder, interactions, texts, fit_until=fit_until, shown=shown, seed=seed)
    work.learn_from_teacher(texts, group, again, out_dir, checkpoint_dir, budget_seconds)
    examples = partial(
        make_examples, fit_until=fit_until, places=config.history_length, seed=seed, shown=shown
    )
    race, split, tower = _train(
        work, interactions, examples, group, deadline, checkpoint_dir, on_metrics, progress
    )
    learned = _learned(work, race, split, interactions, time.monotonic() - began)
    if group.first:
        manifest = _write(work, out_dir, tower, learned, fit_until)
        _fill_cache(manifest, race.best.trainer.states, texts, vector_cache)
    _close(race, group, out_dir, checkpoint_dir)
    return asdict(manifest) if group.first else learned


def _check_texts(texts: Sequence[str], interactions: Interactions) -> None:
    if len(texts) != interactions.n_items:
        raise DataRefused(
            "texts and items do not match",
            where="encoder fit",
            found=f"{len(texts)} texts",
            expected=f"{interactions.n_items}, one per item of the vocabulary",
        )


def _write_untuned(work: "_Work", out_dir: Path) -> EncoderManifest:
    """The base model as it is, with a tower that has learned nothing."""
    tower = Tower.plain(work.encoder.dimension, work.config.history_length, len(work.kinds))
    return _write(work, out_dir, tower, UNTUNED, UNFITTED)


def _lessons(out_dir: Path, checkpoint_dir: Path | None) -> Path:
    """Where a teacher and what was learned from it lie while a fit lasts."""
    return (checkpoint_dir or out_dir.with_name(out_dir.name + ".fit")) / "lessons"


def _close(race: "_Race", group: Group, out_dir: Path, checkpoint_dir: Path | None) -> None:
    """Let go of the activations, and once all processes are done, of what a killed run would need."""
    race.best.trainer.states.close()
    group.wait()
    for run in race.runs:
        run.trainer.checkpoints.clear()
    lessons = _lessons(out_dir, checkpoint_dir)
    shutil.rmtree(lessons if checkpoint_dir is not None else lessons.parent, ignore_errors=True)
    if checkpoint_dir is not None:
        for name in (TOKENS_ALLOWED, PLAN):
            (checkpoint_dir / name).unlink(missing_ok=True)


def _fill_cache(
    manifest: EncoderManifest, states: ItemStates, texts: Sequence[str], cache_dir: Path | None
) -> None:
    """Store the vectors of the items whose frozen activations are at hand: a third of the work."""
    if cache_dir is None or manifest.inference is None:
        return
    if not (states.whole and states.was_cached):
        return
    if manifest.precision != "float32":
        return  # the vectors of one release have one precision
    with VectorCache(cache_dir / manifest.cache_name, manifest.dimension).locked() as cache:
        for rows, vectors in states.final_vectors():
            keys = text_keys([texts[r] for r in rows])
            _, first = np.unique(keys, return_index=True)
            new = first[cache.find(keys[first]) < 0]
            cache.append(keys[new], vectors[new])


@dataclass
class _Work:
    """What the parts of a fit share."""

    config: EncoderConfig
    fit_until: int
    seed: int
    base: Path
    previous: Path | None
    encoder: ItemEncoder
    """The base model; at the end of a race the best start's."""
    tokens: Tokens
    pad: int
    cut: int
    """Texts that are longer than the model reads."""
    unknown: int
    """Texts that the tokenizer hardly knows."""
    kinds: tuple[str, ...]
    plan: EncoderPlan | None = None
    lesson: Lesson | None = None
    """What a copy of the base model has learned from a teacher; None without one."""
    serves: bool = True
    people_left_out: int = 0
    """For lack of time."""
    company: Company | None = None
    """With what the items of a history ask; None for themselves alone."""

    @classmethod
    def open(
        cls,
        config: EncoderConfig,
        texts: Sequence[str],
        kinds: tuple[str, ...],
        fit_until: int,
        seed: int,
        previous: Path | None,
    ) -> "_Work":
        """The base model, and the texts as its tokens."""
        base = resolve_model(config.model)
        tokenizer = TextTokenizer.open(base, config.max_tokens)
        tokens, cut = tokenizer.all_of(texts)
        encoder = ItemEncoder.open(base)
        unknown = tokenizer.unknown_texts(tokens)
        if unknown:
            log.warning(UNKNOWN_TEXTS, unknown, len(tokens))
        return cls(
            config, fit_until, seed, base, previous, encoder, tokens, tokenizer.pad, cut, unknown, kinds
        )  # fmt: skip

    @property
    def starts(self) -> list[tuple[str, Path]]:
        """(name, folder of the weights) of each start."""
        distilled = None if self.lesson is None else self.lesson.folder
        named = [(WARM, self.previous), (DISTILLED, distilled), (COLD, self.base)]
        return [(name, folder) for name, folder in named if folder is not None]

    def fewer(self, interactions: Interactions, items: int) -> Interactions:
        """The events of as many people as name at most so many items; those left out are counted."""
        fewer = fewer_users(interactions, items, self.seed)
        self.people_left_out = len(np.unique(interactions.user)) - len(np.unique(fewer.user))
        return fewer

    def learn_from_teacher(
        self,
        texts: Sequence[str],
        group: Group,
        fit: Callable[..., dict[str, Any]],
        out_dir: Path,
        checkpoint_dir: Path | None,
        seconds: float | None,
    ) -> None:
        """Where there is a teacher, tune it and let a copy of the base model learn from it."""
        self.lesson = lesson_of(
            self.config,
            self.base,
            self.tokens,
            self.pad,
            texts,
            group,
            fit=fit,
            place=_lessons(out_dir, checkpoint_dir),
            seconds=seconds,
            seed=self.seed,
        )

    def fingerprint(self, split: Split) -> str:
        """Changes with anything that would make a checkpoint continue another fit."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        digest.update(f"{self.seed} {self.fit_until}".encode())
        for _, folder in self.starts:
            digest.update(hash_file(folder / WEIGHTS).encode())
        digest.update(split.train.row.tobytes() + split.train.target.tobytes())
        digest.update(self.tokens.flat.tobytes() + self.tokens.offsets.tobytes())
        return digest.hexdigest()[:16]


class _Run(NamedTuple):
    """One start, tuned."""

    start: str
    trainer: Trainer
    encoder: ItemEncoder
    seconds: float


class _Race(NamedTuple):
    """All starts, and the one that serves."""

    runs: list[_Run]
    best: _Run
    verdict: HeldOutGain
    beside: HeldOutGain
    """Whether a history's items ask better in the company of those beside them."""


def _train(
    work: _Work,
    interactions: Interactions,
    examples: Callable[[Interactions], Split],
    group: Group,
    deadline: float | None,
    checkpoint_dir: Path | None,
    on_metrics: Metrics | None,
    progress: Progress | None,
) -> tuple[_Race, Split, Tower]:
    """Tune each start; the best one's weights are in place at the end, its tower calibrated."""
    config, whole = work.config, interactions
    device = group.device or best_device()
    torch.manual_seed(work.seed)  # LoRA and the tower begin at random
    set_trainable(work.encoder, config)
    states = _states(work, device, checkpoint_dir)
    runs: list[_Run] = []
    try:
        allowed = None
        if deadline is not None:
            seconds = (deadline - time.monotonic()) * PREPARE_SHARE
            allowed = _allowed_tokens(states, interactions, seconds, group, checkpoint_dir)
            most = max(LEAST_TEXTS, allowed // SHORTEST_CUT)
            interactions = work.fewer(interactions, most)
        split = examples(interactions)
        fingerprint = work.fingerprint(split)
        if allowed is not None:
            states.fit_into(allowed, split.items)
        states.prepare(
            split.items, None if progress is None else lambda d, n: progress("encode", d, n)
        )
        for start, folder in work.starts:
            checkpoints = Checkpoints(
                None if checkpoint_dir is None else checkpoint_dir / CHECKPOINTS[start],
                fingerprint,
                write=group.first,
            )
            left = None if deadline is None else deadline - time.monotonic() - CLOSING_SECONDS
            if left is not None:
                left *= START_SHARES.get(start, 1.0)
            runs.append(
                _tune(work, split, states, start, folder, checkpoints, group, left, on_metrics)
            )
        best, verdict = _serving(runs, split)
        if states.encoder is not best.encoder:
            states.take(best.encoder)
            states.prepare(split.items)
        best.trainer.refresh()
        work.company, beside = best_company(best.trainer, split, whole.histories())
        tower = best.trainer.learner.tower.freeze_to(calibrate(best.trainer))
    except BaseException:
        states.close()
        raise
    work.encoder = best.encoder
    return _Race(runs, best, verdict, beside), split, tower


def _serving(runs: list[_Run], split: Split) -> tuple[_Run, HeldOutGain]:
    """The best start with its best weights in place, or the cold one with those it began with."""
    best = max(runs, key=lambda run: run.trainer.progress.best)
    cold = runs[-1]  # the cold start comes last; it began with the model as it came
    verdict = judge(cold.trainer.progress.first, best.trainer.progress.gains, split.asker)
    if verdict.helps:
        best.trainer.checkpoints.restore_best(best.trainer.learner)
        return best, verdict
    cold.trainer.checkpoints.restore_first(cold.trainer.learner)
    return cold, verdict


def _states(work: _Work, device: torch.device, checkpoint_dir: Path | None) -> ItemStates:
    """The items' states on the device, in half precision where the config and a GPU allow it."""
    return ItemStates(
        work.encoder.to(device),
        work.tokens,
        work.pad,
        frozen_layers(work.encoder, work.config),
        device,
        scratch_folder(checkpoint_dir or Path(tempfile.gettempdir())),
        work.config.precision != "float32" and computes_in_half(device),
    )


def _allowed_tokens(
    states: ItemStates,
    interactions: Interactions,
    seconds: float,
    group: Group,
    checkpoint_dir: Path | None,
) -> int:
    """Tokens that go through the model once in some seconds; a fit that goes on after a kill is held
    to what was measured at first, so that it learns from the same."""
    file = None if checkpoint_dir is None else checkpoint_dir / TOKENS_ALLOWED
    if file is not None and file.exists():
        mine = float(json.loads(file.read_text(encoding="utf-8")))
    else:
        items = np.unique(interactions.item).astype(np.int64)
        mine = seconds * states.tokens_per_second(items) if len(items) else 0.0
    # All processes must ask, also where only some of them find the file.
    allowed = int(group.least(mine))
    if file is not None and group.first:
        atomic_write(file, json.dumps(allowed))
    return allowed


def _tune(
    work: _Work,
    split: Split,
    states: ItemStates,
    start: str,
    folder: Path,
    checkpoints: Checkpoints,
    group: Group,
    seconds: float | None,
    on_metrics: Metrics | None,
) -> _Run:
    """Both phases from one start; `states` goes on with its encoder.

    Args:
        work: what all starts share.
        split: training and validation examples.
        states: the items' states below the tuned layers.
        start: `warm`, `distilled` or `cold`.
        folder: of the weights of a warm or a distilled start.
        checkpoints: of this start.
        group: processes that share a step.
        seconds: time it may take; no limit when None.
        on_metrics: called with (named values, step).
    """
    began = time.monotonic()
    config = work.config
    torch.manual_seed(work.seed)
    encoder, since = work.encoder, None
    tower = Tower.plain(encoder.dimension, config.history_length, len(work.kinds))
    if start == WARM:
        kept = EncoderManifest.read(folder)
        tower = Tower.load(folder).aligned(kept.kinds, work.kinds, config.history_length)
        since = kept.fit_until
    if start != COLD:
        encoder = ItemEncoder.open(folder)
        set_trainable(encoder, config)
    if states.encoder is not encoder:
        states.take(encoder)
        states.prepare(split.items)
    if config.compile:
        compile_layers(encoder, on=True)
    trainer = Trainer(
        Learner(encoder, UserTower(tower)).to(states.device),
        states,
        split,
        config,
        seed=work.seed,
        checkpoints=checkpoints,
        group=group,
        on_metrics=None
        if on_metrics is None
        else lambda values, step: on_metrics(_named(values, start), step),
        since=since,
    )
    _run_phases(trainer, config, began, seconds, warm=start == WARM)
    checkpoints.save(trainer, DONE)
    return _Run(start, trainer, encoder, time.monotonic() - began)


def _named(values: dict[str, float], start: str) -> dict[str, float]:
    """Metrics of a warm start under names of their own."""
    return values if start == COLD else {f"{name}_{start}": v for name, v in values.items()}


def _run_phases(
    trainer: Trainer, config: EncoderConfig, began: float, seconds: float | None, *, warm: bool
) -> None:
    """Head and tower first, over frozen vectors; then the layers join. `seconds` from `began` on,
    a time of `time.monotonic()`, are what the start may take."""
    now = time.monotonic()
    left = None if seconds is None else max(1.0, began + seconds - now)
    phase = trainer.checkpoints.phase()
    if phase is not None:
        trainer.checkpoints.restore(trainer)
    if phase == DONE:
        return
    steps = config.head_steps if config.freeze != "head" else config.head_steps * config.epochs
    if phase in (None, HEAD):
        if trainer.progress.step == 0:
            trainer.check(HEAD)
            if warm:
                trainer.fit_scale()
            else:
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


def _learned(
    work: _Work, race: _Race, split: Split, interactions: Interactions, seconds: float
) -> dict[str, Any]:
    trainer = race.best.trainer
    p = trainer.progress
    start = p.validations[0]
    best = p.check_kept()
    return {
        "fine_tuned": True,
        "examples": len(split.train),
        "examples_with_shown_negatives": split.train.with_own(),
        "steps": p.step,
        "best_step": p.best_step,
        "validation_examples": len(split.valid),
        "best_ndcg": p.best,
        "best_ndcg10": best["ndcg10"],
        "start_ndcg": start["ndcg"],
        "start_ndcg10": start["ndcg10"],
        "start": race.best.start,
        "serves": TUNED if race.verdict.helps else FROZEN,
        "verdict": race.verdict.sentence(),
        "in_company": race.beside.helps,
        "alone_ndcg": race.beside.frozen,
        "in_company_ndcg": race.beside.tuned,
        "held_out_items": len(split.held),
        "closed_form": p.head,
        "compared": _compared(race),
        "layers": {
            "steps": p.step - p.layers_from if p.layers_from >= 0 else 0,
            "ndcg_before": p.head_best if p.layers_from >= 0 else p.best,
            "tuned": race.verdict.helps and 0 <= p.layers_from < p.best_step,
        },
        "stopped": p.stopped or "all steps done",
        "seconds": round(seconds, 1),
        "losses": [round(x, 5) for x in p.losses],
        "validations": p.validations,
        "activations_cached": trainer.states.was_cached,
        "users": len(np.unique(interactions.user)),
        "users_learned_from": split.users,
        "plan": None if work.plan is None else work.plan.facts(),
        "teacher": None if work.lesson is None else work.lesson.facts,
        CUT_SHORT: _cut_short(race, work),
    }


def _cut_short(race: _Race, work: _Work) -> list[str]:
    """What time ended, a sentence each."""
    said = [
        f"the encoder's {run.start} start did {part}"
        for run in race.runs
        for part in run.trainer.progress.short
    ]
    states = race.best.trainer.states
    if not states.whole:
        said.append(
            f"the encoder read the first {states.lengths.max()} tokens of a text while it was tuned"
        )
    if work.people_left_out:
        said.append(f"the encoder left out what {work.people_left_out:,} people did")
    return said


def _compared(race: _Race) -> list[dict[str, Any]]:
    """Validation of no tuning, of the last encoder as it was, and of each start, tuned."""
    rows = []
    for run in race.runs:
        progress = run.trainer.progress
        for name, check, seconds in (
            (UNTOUCHED[run.start], progress.validations[0], 0.0),
            (f"{run.start} start, tuned", progress.check_kept(), run.seconds),
        ):
            rows.append(
                {
                    "name": name,
                    "ndcg": check["ndcg"],
                    "ndcg10": check["ndcg10"],
                    "seconds": round(seconds, 1),
                }
            )
    return rows


def _write(
    work: _Work,
    out_dir: Path,
    tower: Tower,
    learned: dict[str, Any],
    fit_until: int,
) -> EncoderManifest:
    """Write the encoder folder aside and rename it into place."""
    aside = out_dir.with_name(out_dir.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    encoder = work.encoder.cpu().eval()
    compile_layers(encoder, on=False)
    if work.config.freeze == "lora" and work.config.fine_tune:
        merge_low_rank(encoder)
    encoder.save(aside)
    _copy_settings(work, aside)
    tower.save(aside)
    served = Inference(None, "float32", {})
    if work.serves:
        served = write_inference(encoder, aside, work.tokens, work.pad, work.config.inference)
    if work.company is not None:
        work.company.save(aside)
    manifest = EncoderManifest(
        version=encoder_version(aside),
        fit_until=fit_until,
        base_model=work.config.model,
        base_sha256=hash_file(work.base / WEIGHTS),
        dimension=encoder.dimension,
        pooling=encoder.pooling,
        max_tokens=work.config.max_tokens,
        template=work.config.template,
        precision=served.precision,
        inference=served.file,
        agreement=served.agreement,
        truncated=work.cut,
        unknown=work.unknown,
        texts=len(work.tokens),
        learned=learned,
        kinds=list(work.kinds),
    )
    manifest.write(aside)
    replace_folder(aside, out_dir)
    return manifest


def encoder_version(folder: Path) -> str:
    """Hash of the weights that make vectors, and of the tokenizer."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, f"{HEAD_FOLDER}/{WEIGHTS}", TOKENIZER):
        digest.update(hash_file(folder / name).encode())
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
