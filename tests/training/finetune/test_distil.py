"""A student comes nearer to its teacher's similarities, on texts that it was not taught."""

import numpy as np
import pytest
import torch

from recsys.encoder.pretrained import resolve_model
from recsys.encoder.tokens import TextTokenizer
from recsys.encoder.torch_model import ItemEncoder
from recsys.training.finetune import distil as module
from recsys.training.finetune.distil import distil

CPU = torch.device("cpu")
DIMENSION = 24


@pytest.fixture
def lesson(tiny_model, texts, monkeypatch):
    """A student, its tokens, and a teacher who tells texts apart by their first word, in 24 numbers."""
    monkeypatch.setattr(module, "PASSES", 150)
    monkeypatch.setattr(module, "BATCH", 32)
    folder = resolve_model(str(tiny_model))
    tokenizer = TextTokenizer.open(folder, 16)
    tokens, _ = tokenizer.all_of(texts)
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(8, DIMENSION))
    wanted = kinds[np.arange(len(texts)) % 8] + 0.1 * draw.normal(size=(len(texts), DIMENSION))
    wanted = (wanted / np.linalg.norm(wanted, axis=1, keepdims=True)).astype(np.float32)
    return ItemEncoder.open(folder), tokens, tokenizer.pad, wanted


def run(lesson, **changes):
    settings = {"seconds": None, "seed": 3, "rate": 3e-3} | changes
    return distil(*lesson, CPU, **settings)


def test_held_out_texts_are_placed_as_the_teacher_places_them(lesson):
    found = run(lesson)
    assert found.better
    assert found.after > found.before + 0.2
    assert found.held_out == 8
    assert found.steps > 0


def test_the_head_stays_the_identity(lesson):
    found = run(lesson)
    assert torch.equal(found.encoder.head.weight, torch.eye(found.encoder.dimension))


def test_without_time_the_student_is_as_it_was(lesson):
    before = {name: tensor.clone() for name, tensor in lesson[0].state_dict().items()}
    found = run(lesson, seconds=0.0)
    assert found.steps == 0
    assert not found.better
    assert all(torch.equal(t, before[name]) for name, t in found.encoder.state_dict().items())


def test_what_is_not_better_is_not_kept(lesson):
    before = {name: tensor.clone() for name, tensor in lesson[0].state_dict().items()}
    found = run(lesson, rate=30.0)  # every step destroys what there was
    if not found.better:
        assert all(torch.equal(t, before[name]) for name, t in found.encoder.state_dict().items())
    assert found.after >= found.before


def test_two_lessons_are_the_same(lesson, tiny_model):
    first = run(lesson)
    again = run((ItemEncoder.open(resolve_model(str(tiny_model))), *lesson[1:]))
    assert first[1:] == again[1:]


def test_too_few_texts_teach_nothing(lesson):
    student, tokens, pad, wanted = lesson
    few = type(tokens).of([tokens[0], tokens[1]])
    assert not run((student, few, pad, wanted[:2])).better
