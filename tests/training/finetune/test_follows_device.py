"""What the encoder's tuning, distilling and encoding compute stays on the models' device.

A GPU is not needed to see it (`elsewhere`). The fit runs as it is; what computes on the device is entered
in that place, and must have been.
"""

from functools import wraps

import numpy as np
import pytest
import torch

from recsys.encoder.pretrained import resolve_model
from recsys.encoder.tokens import TextTokenizer
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.training.finetune import distil as distilling
from recsys.training.finetune.distil import distil
from recsys.training.finetune.fit import fit_encoder
from recsys.training.finetune.loop import Trainer
from recsys.training.finetune.states import ItemStates

CPU = torch.device("cpu")


@pytest.fixture
def watched(monkeypatch, elsewhere):
    """(class, names) → how often each of its methods ran elsewhere."""

    def watch(owner, *names):
        counts = dict.fromkeys(names, 0)
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name), name, counts))
        return counts

    def counted(method, name, counts):
        @wraps(method)
        def run(*args, **kwargs):
            counts[name] += 1
            with elsewhere():
                return method(*args, **kwargs)

        return run

    return watch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"freeze": "head"},
        {"hard_negatives": 4},
        {"loss": "bce"},
        {"freeze": "lora"},
    ],
)
def test_every_tensor_of_the_tuning_follows_the_models_device(
    behaviour, texts, settings, tmp_path, watched, changes
):
    steps = watched(Trainer, "_gradients", "validate", "fit_scale", "score_validation", "refresh")
    states = watched(ItemStates, "pooled", "refresh")
    learned = fit_encoder(
        behaviour,
        texts,
        settings(**changes),
        fit_until=int(behaviour.time.max()),
        out_dir=tmp_path / "out",
        seed=1,
        budget_seconds=None,
    )["learned"]
    assert np.isfinite(learned["losses"]).all()
    assert min(steps.values()) > 0
    assert changes.get("freeze") == "head" or min(states.values()) > 0


def test_every_tensor_of_the_distilling_follows_the_students_device(
    tiny_model, texts, monkeypatch, watched, unmoved
):
    monkeypatch.setattr(distilling, "PASSES", 3)
    monkeypatch.setattr(distilling, "BATCH", 16)
    counts = watched(distilling._Lesson, "loss", "agreement", "map")
    made = distilling._Lesson.__init__

    def on_the_host(lesson, student, tokens, pad, wanted, *rest):
        made(lesson, student, tokens, pad, wanted.as_subclass(unmoved), *rest)

    monkeypatch.setattr(distilling._Lesson, "__init__", on_the_host)
    folder = resolve_model(str(tiny_model))
    tokenizer = TextTokenizer.open(folder, 16)
    tokens, _ = tokenizer.all_of(texts)
    wanted = np.random.default_rng(0).normal(size=(len(texts), 24)).astype(np.float32)
    distil(
        ItemEncoder.open(folder), tokens, tokenizer.pad, wanted, CPU, seconds=None, seed=1, rate=1e-3
    )  # fmt: skip
    assert min(counts.values()) > 0


def test_encoding_follows_its_device(tiny_model, texts, elsewhere):
    folder = resolve_model(str(tiny_model))
    tokenizer = TextTokenizer.open(folder, 16)
    tokens, _ = tokenizer.all_of(texts)
    encoder = ItemEncoder.open(folder)
    wanted = encode_with_torch(encoder, tokens, tokenizer.pad, CPU)
    with elsewhere():
        found = encode_with_torch(encoder, tokens, tokenizer.pad, CPU)
    np.testing.assert_array_equal(found, wanted)
