"""A wider teacher tuned with LoRA, a student that learns from it, and the student alone that serves; all on the
processor."""

import json
import shutil

import numpy as np
import pytest
import torch

from recsys.data_schemas.config import EncoderConfig, parse_config
from recsys.data_schemas.errors import UsageError
from recsys.encoder.runtime import TextEncoder
from recsys.training.finetune import distil, teacher
from recsys.training.finetune.fit import fit_encoder
from recsys.training.finetune.teacher import parameters, teacher_of, teachers_settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="session")
def wide_model(tiny_model, tmp_path_factory):
    """A random BERT of four layers and 32 units, twice as wide as the student, with the same words."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("wide-model")
    shutil.copy(tiny_model / "tokenizer.json", folder)
    small = json.loads((tiny_model / "config.json").read_text())
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=small["vocab_size"],
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lesson(behaviour, texts, settings, wide_model, tmp_path_factory):
    """(manifest, folder, what stood beside it) of a fit with a teacher."""
    place = tmp_path_factory.mktemp("lesson")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distil, "RATE", 3e-3)
        patch.setattr(distil.distil, "__kwdefaults__", {"rate": 3e-3})
        patch.setattr(distil, "PASSES", 150)
        patch.setattr(distil, "BATCH", 32)
        manifest = fit_encoder(
            behaviour,
            texts,
            settings(teacher=str(wide_model)),
            fit_until=int(behaviour.time.max()),
            out_dir=place / "encoder",
            seed=3,
            budget_seconds=None,
        )
    return manifest, place / "encoder", sorted(path.name for path in place.iterdir())


def test_the_student_learns_and_serves(lesson, texts, settings, tiny_model):
    manifest, folder, beside = lesson
    learned = manifest["learned"]
    assert learned["teacher"]["better"]
    assert learned["teacher"]["agreement"] > learned["teacher"]["agreement_before"]
    assert "held-out items" in learned["teacher"]["note"]
    names = [row["name"] for row in learned["compared"]]
    assert "learned from the teacher, not tuned" in names
    assert "distilled start, tuned" in names
    assert "cold start, tuned" in names
    best = max(row["ndcg"] for row in learned["compared"])
    assert learned["serves"] == "frozen" or learned["best_ndcg"] >= best - 1e-9
    assert manifest["dimension"] == 16  # the student's
    assert manifest["inference"] == "inference.onnx"
    vectors = TextEncoder.open(folder).encode(["red game number 3", "blue pen"])
    assert vectors.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert beside == ["encoder"]  # neither the teacher nor what it was made from


def test_a_teacher_that_was_tuned_is_not_tuned_again(
    behaviour, texts, settings, wide_model, tmp_path, monkeypatch
):
    """A fit killed while the student learned goes on with the teacher as it was."""
    tuned = []
    write = teacher.teachers_settings
    monkeypatch.setattr(teacher, "teachers_settings", lambda c, t: tuned.append(t) or write(c, t))

    def run():
        return fit_encoder(
            behaviour,
            texts,
            settings(teacher=str(wide_model), head_steps=2, max_steps=2),
            fit_until=int(behaviour.time.max()),
            out_dir=tmp_path / "encoder",
            seed=3,
            budget_seconds=None,
            checkpoint_dir=tmp_path / "state",
        )

    with monkeypatch.context() as killed:
        killed.setattr(teacher, "distil", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len(tuned) == 1
    assert run()["learned"]["teacher"]["steps"] >= 0
    assert len(tuned) == 1
    assert not (tmp_path / "state" / "lessons").exists()


def test_a_processor_has_no_teacher_under_auto(wide_model):
    config = EncoderConfig(model="auto", teacher=str(wide_model))
    assert teacher_of(config, CPU) is None
    assert teacher_of(config, CUDA) == wide_model
    assert teacher_of(EncoderConfig(teacher=str(wide_model)), CPU) == wide_model
    assert teacher_of(EncoderConfig(), CUDA) is None


def test_one_at_hand_is_found_by_its_size(wide_model, monkeypatch):
    stored = {"thenlper/gte-large": wide_model}
    monkeypatch.setattr(teacher, "stored_snapshot", stored.get)
    auto = EncoderConfig(model="auto")
    assert teacher_of(auto, CUDA) is None  # far too small
    monkeypatch.setattr(teacher, "SMALLEST", parameters(wide_model) - 1)
    assert teacher_of(auto, CUDA) == wide_model
    assert teacher_of(auto, CPU) is None
    monkeypatch.setattr(teacher, "LARGEST", parameters(wide_model) - 1)
    assert teacher_of(auto, CUDA) is None


def test_a_teacher_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="cannot be found"):
        teacher_of(EncoderConfig(teacher="./nowhere"), CPU)


def test_a_teacher_is_tuned_with_lora(wide_model):
    given = teachers_settings(EncoderConfig(), wide_model)
    assert (given.freeze, given.model, given.teacher) == ("lora", str(wide_model), None)
    assert given.learning_rate == teacher.RATE
    assert teachers_settings(EncoderConfig(learning_rate=1e-3), wide_model).learning_rate == 1e-3


def test_a_teacher_beside_the_yaml_is_found(tmp_path):
    (tmp_path / "big").mkdir()
    raw = {"data": {"items": "i", "events": "e"}, "encoder": {"model": "auto", "teacher": "big"}}
    config = parse_config(raw, tmp_path)
    assert config.encoder.teacher == str(tmp_path / "big")
    assert config.encoder.model == "auto"
