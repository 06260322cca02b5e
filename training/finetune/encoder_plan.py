"""What the device affords the encoder: twenty passes are timed on a GPU, and settings that nobody has set follow.

The plan is `recsys.training.device_plan`'s; here is what it asks of a real device. A fit that goes on after a
kill keeps the plan it began with, and processes that share a step have the first one's.
"""

# mypy: disable-error-code="misc"
# PyTorch is checked as Any: its classes carry no types here.

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.device import best_device, computes_in_half, is_gpu
from recsys.encoder.pretrained import resolve_model
from recsys.encoder.tokens import TextTokenizer, pad_tokens
from recsys.encoder.torch_model import ItemEncoder
from recsys.storage.files import atomic_write
from recsys.training.device_plan import LIMITS, EncoderData, EncoderPlan, plan_encoder
from recsys.training.device_speed import device_facts, seconds_of_step
from recsys.training.finetune.distributed import Group

PLAN: Final = "plan.json"
"""Beside the checkpoints."""
SAMPLED: Final = 2000
"""Texts whose lengths are looked at."""
PROBED: Final = 8192
"""Tokens of a timed step."""
PLANNED: Final = ("max_tokens", "freeze", "batch_size", "negatives", "step_tokens")


def planned(
    config: EncoderConfig,
    texts: Sequence[str],
    group: Group,
    *,
    seconds: float | None,
    folder: Path | None,
) -> tuple[EncoderConfig, EncoderPlan | None]:
    """The settings that the device affords, and the plan they are of; None where nothing is tuned.

    Args:
        config: as set; what its owner has set stays.
        texts: of the catalogue.
        group: processes that share a step.
        seconds: of the fit; None without a limit.
        folder: where a fit that goes on finds its plan.
    """
    if not config.fine_tune:
        return config, None
    device = group.device or best_device()
    file = None if folder is None else folder / PLAN
    if file is not None and file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        plan = EncoderPlan(kept["settings"], kept["note"], kept["tokens_per_second"])
    else:
        plan = _made(config, texts, device, seconds)
    plan = group.firsts(plan)
    if file is not None and group.first and is_gpu(device):
        atomic_write(file, json.dumps(plan.facts()))
    return config.model_copy(update=plan.settings), plan


def _made(
    config: EncoderConfig,
    texts: Sequence[str],
    device: torch.device,
    seconds: float | None,
) -> EncoderPlan:
    given = {name: getattr(config, name) for name in PLANNED}
    free = frozenset(PLANNED) - config.model_fields_set
    if not is_gpu(device):
        return plan_encoder(
            device_facts(device), EncoderData((), 0, 0, 0), given, free, seconds, lambda: 0.0
        )
    base, step = resolve_model(config.model), max(1, len(texts) // SAMPLED)
    encoder = ItemEncoder.open(base)
    longest = min(
        max(LIMITS), getattr(encoder.backbone.config, "max_position_embeddings", max(LIMITS))
    )
    tokenizer = TextTokenizer.open(base, max(longest, config.max_tokens))
    sample, _ = tokenizer(texts[::step])
    data = EncoderData(
        [len(ids) for ids in sample],
        len(texts),
        len(encoder.layers or ()) or 1,
        encoder.dimension,
    )

    def measured() -> float:
        return trained_per_second(
            encoder, [ids[: config.max_tokens] for ids in sample], tokenizer.pad, device
        )

    return plan_encoder(device_facts(device), data, given, free, seconds, measured)


def trained_per_second(
    encoder: ItemEncoder, tokens: Sequence[Sequence[int]], pad: int, device: torch.device
) -> float:
    """Tokens that go forward and backward through all layers in a second; the weights stay as they are."""
    chosen = _portion(tokens, PROBED)
    ids, mask = (torch.from_numpy(array).to(device) for array in pad_tokens(chosen, pad))
    needed = {name: p.requires_grad for name, p in encoder.named_parameters()}
    encoder.to(device).train().requires_grad_(True)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_in_half(device)):
            vectors = encoder(ids, mask)
        vectors.float().pow(2).sum().backward()

    try:
        with torch.random.fork_rng():
            seconds = seconds_of_step(step, device)
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.eval()
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(needed[name])
    return 0.0 if seconds is None else float(mask.sum()) / seconds


def _portion(tokens: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    """Texts of middling length with at most so many tokens together; one at least."""
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    middle = [tokens[place] for place in order[len(order) // 2 :]]
    count = int((np.cumsum([len(ids) for ids in middle]) <= most).sum())
    return middle[: max(1, count)]
