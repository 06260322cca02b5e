"""A larger model tuned on the same behaviour, from which the one that serves learns.

Texts come inline while people wait, on a machine without a GPU, so what serves is small. What is learned
need not be: a teacher is tuned with LoRA like any encoder, and the small model learns to place texts as
the teacher does (`distil.py`). The result is one more start of the fit, beside the base model: validation
decides which is kept.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.errors import RecsysError
from recsys.encoder.device import best_device, is_gpu
from recsys.encoder.manifest import MANIFEST
from recsys.encoder.pretrained import (
    AUTO_MODEL,
    WEIGHTS,
    check_model,
    pooling_of,
    resolve_model,
    stored_snapshot,
    tensor_shapes,
)
from recsys.encoder.tokens import TextTokenizer, Tokens
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.features.interactions import Floats
from recsys.storage.files import atomic_folder
from recsys.training.finetune.distil import Distilled, distil
from recsys.training.finetune.distributed import Group

AT_HAND: Final = (
    "BAAI/bge-large-en-v1.5",
    "thenlper/gte-large",
    "BAAI/bge-m3",
    "BAAI/bge-base-en-v1.5",
    "thenlper/gte-base",
    "sentence-transformers/all-mpnet-base-v2",
)
"""Models that are looked for among those already downloaded, the strongest first; none is fetched."""
SMALLEST, LARGEST = 100e6, 600e6
"""Parameters of a teacher that is found: smaller ones teach little, larger ones take the night."""
TEACHER_SHARE: Final = 0.45
"""Share of the encoder's time for tuning the teacher (assumed)."""
DISTIL_SHARE: Final = 0.15
"""Share of it for learning from the teacher (assumed)."""
RATE: Final = 2e-4
"""Of LoRA's updates, where nothing is set (usual: ten times that of whole layers)."""
TEACHER, STUDENT, FIT = "teacher", "student", "teacher-fit"
LESSON: Final = "lesson.json"
SETTINGS_FOLDER: Final = "1_Pooling"


class Lesson(NamedTuple):
    """What the student learned."""

    folder: Path | None
    """Its weights, in Hugging Face layout; None where it learned nothing that held-out items show."""
    facts: dict[str, Any]
    """For the manifest."""


def teacher_of(config: EncoderConfig, device: torch.device) -> Path | None:
    """The folder of the teacher: the one that is named, or with `model: auto` one of those at hand, on a GPU
    only; None without.

    Raises:
        UsageError: there is no such model.
        RecsysError: its folder is damaged.
    """
    if config.model == AUTO_MODEL and not is_gpu(device):
        return None
    if config.teacher is not None:
        return resolve_model(config.teacher)
    return _at_hand() if config.model == AUTO_MODEL else None


def _at_hand() -> Path | None:
    """The first known model that was downloaded before and is whole."""
    for name in AT_HAND:
        folder = stored_snapshot(name)
        if folder is None:
            continue
        try:
            check_model(folder)
            pooling_of(folder)
        except RecsysError:
            continue
        if SMALLEST <= parameters(folder) <= LARGEST:
            return folder
    return None


def parameters(folder: Path) -> int:
    """Numbers that a model's weights hold."""
    shapes = tensor_shapes(folder / WEIGHTS).values()
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)


def lesson_of(
    config: EncoderConfig,
    base: Path,
    tokens: Tokens,
    pad: int,
    texts: Sequence[str],
    group: Group,
    *,
    fit: Callable[..., dict[str, Any]],
    place: Path,
    seconds: float | None,
    seed: int,
) -> Lesson | None:
    """Tune the teacher, encode all texts with it, and let a copy of the base model learn from it; None where
    there is no teacher.

    Args:
        config: settings of the encoder.
        base: folder of the smaller model, the student.
        tokens: of each text, by the student's tokenizer.
        pad: id of its padding token.
        texts: of the catalogue.
        group: processes that share the teacher's steps.
        fit: tunes a model: called with `config`, `out_dir`, `budget_seconds`, `checkpoint_dir`, `serves`.
        place: folder for what is made; a fit that goes on after a kill finds it there.
        seconds: of the whole encoder's fit; None without a limit.
        seed: of all draws.
    """
    device = group.device or best_device()
    teacher = teacher_of(config, device)
    if teacher is None:
        return None
    folder = place / TEACHER
    if not (folder / MANIFEST).is_file():
        fit(
            config=teachers_settings(config, teacher),
            out_dir=folder,
            budget_seconds=None if seconds is None else TEACHER_SHARE * seconds,
            checkpoint_dir=place / FIT,
            serves=False,
        )
    student = place / STUDENT
    if group.first and not student.is_dir():
        wanted = _vectors(folder, config.max_tokens, texts, device)
        share = None if seconds is None else DISTIL_SHARE * seconds
        found = distil(
            ItemEncoder.open(base), tokens, pad, wanted, device, seconds=share, seed=seed
        )
        facts = _said(config.teacher or teacher.name, parameters(folder), found)
        _keep(found.encoder, base, student, facts)
    group.wait()
    facts = read_facts(student)
    return Lesson(student if facts["better"] else None, facts)


def teachers_settings(config: EncoderConfig, teacher: Path) -> EncoderConfig:
    """How the teacher is tuned: as the encoder is, but by LoRA."""
    changed: dict[str, Any] = {"model": str(teacher), "teacher": None, "freeze": "lora"}
    if "learning_rate" not in config.model_fields_set:
        changed["learning_rate"] = RATE
    return config.model_copy(update=changed)


def _said(name: str, size: int, found: Distilled) -> dict[str, Any]:
    """For the manifest and the report."""
    learned = "kept" if found.better else "not better, not used"
    note = (
        f"{name}, {size / 1e6:.0f} million parameters, LoRA: agreement of the small model's similarities with its "
        f"own on {found.held_out:,} held-out items {found.before:.3f} → {found.after:.3f} in {found.steps:,} steps, "
        f"{learned}"
    )
    return {
        "parameters": size,
        "note": note,
        "better": found.better,
        "agreement_before": found.before,
        "agreement": found.after,
        "held_out": found.held_out,
        "steps": found.steps,
    }


def _vectors(folder: Path, max_tokens: int, texts: Sequence[str], device: torch.device) -> Floats:
    """float32 [n, d], unit: what the tuned teacher makes of the texts."""
    tokenizer = TextTokenizer.open(folder, max_tokens)
    tokens, _ = tokenizer.all_of(texts)
    rows = [tokens[row] for row in range(len(tokens))]
    found: Floats = encode_with_torch(ItemEncoder.open(folder), rows, tokenizer.pad, device)
    return found


def _keep(encoder: ItemEncoder, base: Path, folder: Path, facts: dict[str, Any]) -> None:
    with atomic_folder(folder, "the distilled model") as aside:
        encoder.cpu().save(aside)
        if (base / SETTINGS_FOLDER).is_dir():
            shutil.copytree(base / SETTINGS_FOLDER, aside / SETTINGS_FOLDER)
        (aside / LESSON).write_text(json.dumps(facts), encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """What was said of a distilled model."""
    facts: dict[str, Any] = json.loads((folder / LESSON).read_text(encoding="utf-8"))
    return facts
