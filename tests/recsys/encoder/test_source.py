"""Model folders are checked before any work."""

import json
import shutil

import pytest

from recsys.data_schemas.errors import RecsysError, UsageError
from recsys.encoder.pretrained import (
    check_model,
    pooling_of,
    require_local,
    resolve_model,
    tensor_shapes,
)


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_the_default_model_is_the_pinned_one():
    folder = resolve_model("default")
    shapes = tensor_shapes(folder / "model.safetensors")
    assert shapes["embeddings.word_embeddings.weight"] == (30522, 384)
    assert pooling_of(folder) == "mean"


def test_a_local_directory_is_taken(model):
    assert resolve_model(str(model)) == model
    assert pooling_of(model) == "mean"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(model, name):
    (model / name).unlink()
    with pytest.raises(RecsysError, match=name):
        check_model(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_truncated_file_is_named(model, name):
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RecsysError, match=f"damaged(.|\n)*{name}"):
        check_model(model)


def test_another_models_tokenizer_is_refused(model):
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"word{i}": 1000 + i for i in range(50)}
    (model / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(RecsysError, match="tokenizer belongs to another model"):
        check_model(model)


def test_a_directory_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be found"):
        resolve_model(str(tmp_path / "nowhere"))


def test_weights_that_are_not_the_pinned_ones_are_refused(model, monkeypatch):
    monkeypatch.setattr("recsys.encoder.pretrained._default_folder", lambda: model)
    with pytest.raises(RecsysError, match="not the pinned ones"):
        resolve_model("default")


def test_pooling_follows_the_models_settings(model):
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert pooling_of(model) == "cls"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ("{}", "mean"),
        ('{"pooling_mode": "cls"}', "cls"),
        ('{"pooling_mode": "mean", "include_prompt": true}', "mean"),
        ('{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}', "mean"),
        ('{"pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": true}', "max_tokens"),
        ('{"pooling_mode": "max"}', "max"),
        ('{"pooling_mode": "lasttoken"}', "lasttoken"),
        ('{"pooling_mode_lasttoken": true}', "lasttoken"),
        ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}', "and mean_tokens"),
    ],
)
def test_no_pooling_is_taken_for_another(model, settings, wanted):
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text(settings)
    if wanted in ("cls", "mean"):
        assert pooling_of(model) == wanted
    else:
        with pytest.raises(RecsysError, match=f"pooling is not supported(.|\n)*{wanted}"):
            pooling_of(model)


def test_a_folder_that_is_not_there_is_refused_early_and_a_hub_name_waits(tmp_path):
    require_local("default")
    require_local("sentence-transformers/all-MiniLM-L6-v2")
    with pytest.raises(UsageError, match="cannot be found"):
        require_local(str(tmp_path / "no" / "model"))
