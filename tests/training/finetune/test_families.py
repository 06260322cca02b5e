"""Encoders of other families: the same fit, the same files, the same agreement."""

import json
import shutil

import numpy as np
import pytest

from recsys.encoder.encode import encode_items
from recsys.encoder.manifest import EncoderManifest
from recsys.training.finetune.fit import fit_encoder

SIZES = {
    "vocab_size": 0,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def make(family, folder, tiny_model):
    """A random model of a family with the small tokenizer."""
    import torch
    import transformers

    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    size = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    settings = SIZES | {"vocab_size": size}
    if family == "DistilBert":
        settings = {
            "vocab_size": size,
            "dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 32,
            "max_position_embeddings": 64,
        }
    if family == "ModernBert":
        settings |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = getattr(transformers, f"{family}Config")(**settings)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("family", ["Roberta", "DistilBert", "ModernBert", "Electra"])
def test_a_family_is_tuned_and_served(family, tiny_model, tmp_path, behaviour, texts, settings):
    model = make(family, tmp_path / "model", tiny_model)
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    manifest = fit_encoder(
        behaviour,
        texts,
        settings(model=str(model), max_steps=2, head_steps=2, template="passage: {title}"),
        fit_until=int(behaviour.time.max()),
        out_dir=tmp_path / "out",
        seed=0,
        budget_seconds=None,
    )
    assert manifest["pooling"] == "cls"
    assert np.isfinite(manifest["learned"]["losses"]).all()
    assert manifest["learned"]["layers"]["steps"] > 0
    assert EncoderManifest.read(tmp_path / "out").agreement["least"] > 0.9999
    vectors, _ = encode_items(tmp_path / "out", texts, None)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
