"""Encoding: the cache, resuming, counts, and agreement of the two runtimes."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from recsys.data_schemas.config import EncoderConfig
from recsys.data_schemas.errors import RecsysError
from recsys.encoder import encode as encode_module
from recsys.encoder import runtime
from recsys.encoder.cache import VectorCache, text_keys
from recsys.encoder.encode import encode_items
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.runtime import TextEncoder, onnx_model
from recsys.encoder.shared_weights import whole_model
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.encoder.tower import UNFITTED, InterestSource
from recsys.features.interactions import Interactions
from recsys.training.finetune.fit import fit_encoder

TEXTS = [f"alpha widget number {i % 7}" for i in range(20)] + ["", "red game with glue " * 30]


def nothing(n_items):
    none = np.empty(0)
    return Interactions(
        none.astype(np.int32),
        none.astype(np.int32),
        none.astype(np.int16),
        none.astype(np.int64),
        none.astype(np.float32),
        none.astype(np.float32),
        none.astype(np.int8),
        none.astype(np.int64),
        np.empty(0, object),
        ("purchase",),
        n_items,
    )


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("encoder") / "out"
    config = EncoderConfig(model=str(tiny_model), fine_tune=False, max_tokens=16)
    manifest = fit_encoder(
        nothing(len(TEXTS)), TEXTS, config, fit_until=5, out_dir=out, seed=0, budget_seconds=None
    )
    assert manifest["fit_until"] == UNFITTED
    assert manifest["truncated"] == 1
    return out


def test_the_exported_model_agrees_with_the_weights(folder):
    manifest = EncoderManifest.read(folder)
    assert manifest.inference == "inference.onnx"
    assert manifest.agreement["least"] > 0.9999
    encoder = TextEncoder.open(folder)
    tokens, _ = encoder.tokenizer(TEXTS)
    wanted = encode_with_torch(
        ItemEncoder.open(folder), tokens, encoder.tokenizer.pad, __import__("torch").device("cpu")
    )
    np.testing.assert_allclose(encoder.encode(TEXTS), wanted, atol=1e-5)


def exported_bytes(model):
    """Bytes of the tensors that lie in a model's own file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def bytes_inside(file):
    return exported_bytes(onnx.load(file, load_external_data=False))


def test_the_exported_model_reads_the_weights_that_lie_beside_it(folder, tmp_path):
    """Each weight lies in the folder once; the vectors are those of a model with all of them inside."""
    exported = folder / "inference.onnx"
    model = whole_model(exported)
    assert bytes_inside(exported) < 3_000 < 30_000 < exported_bytes(model)
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(model.SerializeToString())
    encoder = TextEncoder.open(folder)
    tokens, _ = encoder.tokenizer(TEXTS)
    wanted = onnx_model(alone, encoder.tokenizer.pad, encoder.dimension)(tokens)
    assert np.array_equal(encoder.model(tokens), wanted)
    lone = tmp_path / exported.name
    lone.write_bytes(exported.read_bytes())
    with pytest.raises(RecsysError, match="cannot be read"):
        onnx_model(lone, encoder.tokenizer.pad, encoder.dimension)


def test_a_runtime_that_cannot_read_another_file_gets_a_whole_model(
    folder, tiny_model, tmp_path, monkeypatch, caplog
):
    def refuse(file, *more):
        if file.name.startswith("shared-"):
            raise RecsysError("the encoder's inference model cannot be read")
        return onnx_model(file, *more)

    monkeypatch.setattr("recsys.encoder.onnx_export.onnx_model", refuse)
    config = EncoderConfig(model=str(tiny_model), fine_tune=False, max_tokens=16)
    out = tmp_path / "out"
    fit_encoder(
        nothing(len(TEXTS)), TEXTS, config, fit_until=5, out_dir=out, seed=0, budget_seconds=None
    )
    assert "keeps weights of its own" in caplog.text
    assert bytes_inside(out / "inference.onnx") > 30_000
    assert not list(out.glob("shared-*"))
    found = TextEncoder.open(out).encode(TEXTS)
    np.testing.assert_array_equal(found, TextEncoder.open(folder).encode(TEXTS))


@pytest.fixture(scope="module")
def small(tiny_model, tmp_path_factory):
    """The same encoder, asked for in 8 bits."""

    def make(name, least):
        out = tmp_path_factory.mktemp(name) / "out"
        config = EncoderConfig(
            model=str(tiny_model), fine_tune=False, max_tokens=16, inference="int8"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recsys.encoder.onnx_export.MIN_MEAN_COSINE", least)
            fit_encoder(
                nothing(len(TEXTS)),
                TEXTS,
                config,
                fit_until=5,
                out_dir=out,
                seed=0,
                budget_seconds=None,
            )
        return out

    return make


def test_eight_bits_serve_where_they_agree(folder, small):
    out = small("agreeing", 0.95)
    manifest = EncoderManifest.read(out)
    assert manifest.precision == "int8"
    assert manifest.inference == "inference-int8.onnx"
    assert not (out / "inference.onnx").exists()
    assert 0.95 <= manifest.agreement["mean"] < 1
    assert manifest.cache_name != EncoderManifest.read(folder).cache_name
    cosine = (TextEncoder.open(out).encode(TEXTS) * TextEncoder.open(folder).encode(TEXTS)).sum(1)
    assert cosine.mean() > 0.95


def test_eight_bits_that_disagree_give_way_to_float32(small, caplog):
    out = small("disagreeing", 1.1)
    manifest = EncoderManifest.read(out)
    assert manifest.precision == "float32"
    assert manifest.inference == "inference.onnx"
    assert not (out / "inference-int8.onnx").exists()
    assert "8 bits disagrees" in caplog.text


class FakeOpenVino:
    """OpenVINO as far as it is asked, computing with ONNX Runtime, off by `error`."""

    def __init__(self, capabilities, error=0.0):
        self.capabilities, self.error = capabilities, error

    def Core(self):
        return self

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities

    def compile_model(self, file, device, settings):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(file)
        return self

    def create_infer_request(self):
        return self

    def infer(self, feed):
        vectors = self.session.run(None, feed)[0]
        return [vectors + self.error * np.arange(vectors.shape[1])]


@pytest.mark.parametrize(
    ("capabilities", "error", "used"),
    [(["FP32", "BF16"], 0.0, True), (["FP32", "BF16"], 0.1, False), (["FP32"], 0.0, False)],
)
def test_openvino_serves_where_it_is_fast_and_agrees(
    folder, monkeypatch, capabilities, error, used
):
    fake = FakeOpenVino(capabilities, error)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    found = runtime.importlib.util.find_spec
    monkeypatch.setattr(
        runtime.importlib.util,
        "find_spec",
        lambda name: True if name == "openvino" else found(name),
    )
    opened = []
    onnx = runtime.onnx_model
    monkeypatch.setattr(runtime, "onnx_model", lambda *a: opened.append(a) or onnx(*a))
    vectors = TextEncoder.open(folder).encode(TEXTS)
    assert bool(opened) != used
    assert hasattr(fake, "session") == (capabilities == ["FP32", "BF16"])
    monkeypatch.undo()
    np.testing.assert_allclose(vectors, TextEncoder.open(folder).encode(TEXTS), atol=1e-5)


def test_vectors_written_to_a_file_are_the_same(folder, tmp_path, monkeypatch):
    wanted, _ = encode_items(folder, TEXTS, None)
    monkeypatch.setattr("recsys.encoder.cache.ROWS_AT_ONCE", 4)
    mapped, counts = encode_items(folder, TEXTS, tmp_path / "cache", out=tmp_path / "v.npy")
    assert isinstance(mapped, np.memmap)
    assert counts.encoded == 9
    np.testing.assert_allclose(mapped, wanted, atol=1e-5)
    assert np.array_equal(np.load(tmp_path / "v.npy"), mapped)


def test_without_the_exported_model_the_weights_serve(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / "manifest.json").read_text()) | {"inference": None}
    (copy / "manifest.json").write_text(json.dumps(content))
    np.testing.assert_allclose(
        TextEncoder.open(copy).encode(TEXTS), TextEncoder.open(folder).encode(TEXTS), atol=1e-5
    )


def test_vectors_are_unit_and_in_order(folder):
    vectors, counts = encode_items(folder, TEXTS, None)
    assert vectors.dtype == np.float32
    assert counts == (9, 13, 1)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[7])
    np.testing.assert_allclose(vectors, TextEncoder.open(folder).encode(TEXTS), atol=1e-5)


def test_a_text_is_encoded_once(folder, tmp_path):
    first, counts = encode_items(folder, TEXTS, tmp_path)
    assert counts.encoded == 9
    again, counts = encode_items(folder, [*TEXTS, "blue robot"], tmp_path)
    assert counts == (1, 22, 0)
    assert np.array_equal(again[:-1], first)


def test_an_unchanged_catalogue_does_not_open_the_model(folder, tmp_path, monkeypatch):
    first, _ = encode_items(folder, TEXTS, tmp_path)
    monkeypatch.setattr(TextEncoder, "open", lambda *a, **k: pytest.fail("the model was opened"))
    again, counts = encode_items(folder, TEXTS, tmp_path)
    assert counts.encoded == 0
    assert np.array_equal(again, first)


def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "TEXTS_AT_ONCE", 4)
    wanted, _ = encode_items(folder, TEXTS, None)

    def die(done, of):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_items(folder, TEXTS, tmp_path, progress=die)
    store = next(f for f in tmp_path.iterdir() if f.is_dir())
    with (store / "vectors.bin").open("ab") as stream:  # a vector half written when it died
        stream.write(b"\x01" * 30)
    vectors, counts = encode_items(folder, TEXTS, tmp_path)
    assert counts.encoded == 5
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_stale_texts_and_versions_are_collected(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 4)).astype(np.float32)
    keys = text_keys([f"text {i}" for i in range(3000)])
    with VectorCache(tmp_path / "now", 4).locked() as cache:
        cache.append(keys, vectors)
        assert cache.collect(keys[:2000]) == 0
        assert cache.collect(keys[5:500]) == 2505
        assert len(cache) == 495
    with VectorCache(tmp_path / "now", 4).locked() as cache:
        assert np.array_equal(cache.read(cache.find(keys[5:500])), vectors[5:500])
        assert cache.find(keys[:1])[0] == -1
    for name in ("old", "older", "oldest"):
        VectorCache(tmp_path / name, 4)
    from recsys.encoder.cache import collect_versions

    assert collect_versions(tmp_path, tmp_path / "now") == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_the_plain_tower_serves_without_a_fit(folder):
    vectors, _ = encode_items(folder, TEXTS, None)
    source = InterestSource.open(folder, vectors, UNFITTED)
    assert source.n_items == len(TEXTS)


def test_encoding_needs_no_torch(folder):
    code = (
        "import sys; from pathlib import Path; from recsys.encoder.runtime import TextEncoder;"
        f"v = TextEncoder.open(Path({str(folder)!r})).encode(['red game']);"
        "assert v.shape == (1, 16); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_folder_opens_in_transformers_too(folder):
    from transformers import AutoModel, AutoTokenizer

    assert AutoModel.from_pretrained(folder).config.hidden_size == 16
    assert AutoTokenizer.from_pretrained(folder)("red game")["input_ids"][0] == 2


@pytest.mark.parametrize("name", ["manifest.json", "inference.onnx", "tokenizer.json"])
def test_a_damaged_folder_gives_one_message(folder, tmp_path, name):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_bytes((copy / name).read_bytes()[:40])
    with pytest.raises(RecsysError, match=name):
        TextEncoder.open(copy)


def test_a_manifest_of_the_future_is_refused(folder, tmp_path):
    content = json.loads((folder / "manifest.json").read_text()) | {"format": 99}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RecsysError, match="another version of recsys"):
        EncoderManifest.read(tmp_path)
