"""What a device computes is what the processor computes, within the tolerances stated here.

One body for every device: on the processor it runs with the quick tests (against itself, so that it is seen to
work), on CUDA with `pytest -m gpu` (`make test-gpu`). Not yet run on a GPU.
"""

import json

import numpy as np
import pytest
import torch

from recsys.data_schemas.config import EncoderConfig, load_config
from recsys.encoder import device as devices
from recsys.encoder.device import computes_in_half, on_device
from recsys.encoder.pretrained import resolve_model
from recsys.encoder.tokens import TextTokenizer, pad_tokens
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.retrieval.sequence.source import SequenceSource
from recsys.retrieval.source_params import resolved
from recsys.training.device_speed import device_facts, flops_of, seconds_of_step, speed_line
from recsys.training.finetune.fit import fit_encoder
from recsys.training.finetune.freeze import compile_layers
from recsys.training.nightly import run_night
from recsys.training.sources import sequence
from recsys.training.sources.sequence import Negatives
from recsys.training.sources.sequence_model import SequenceModel

CPU = torch.device("cpu")
COSINE = 0.999
"""Least cosine of a text's vector: bfloat16 has 8 bits of mantissa."""
LOSS_FLOAT32, LOSS_HALF = 1e-3, 0.03
"""Relative difference of an encoder's loss after a few steps, in float32 and in bfloat16."""
SCORE = 0.02
"""Difference of a sequence model's scores after some steps without dropout, of a spread of about one."""
NDCG = 0.1
"""Difference of a small night's nDCG@10: its few people are asked about by models that differ a little."""
TEXTS = [f"red game number {i} with " + "paper and glue " * (i % 9) for i in range(60)]


NEEDS = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS])])
def device(request):
    """A device that everything is computed on while the test lasts."""
    with on_device(request.param):
        yield torch.device(request.param)


@pytest.fixture
def model(tiny_model, device):
    """The default model on a GPU; on the processor a tiny one, so that the quick tests stay quick."""
    return resolve_model(str(tiny_model) if device.type == "cpu" else "default")


def test_texts_have_the_same_vectors(model, device):
    tokenizer = TextTokenizer.open(model, 64)
    tokens, _ = tokenizer(TEXTS)
    wanted = encode_with_torch(ItemEncoder.open(model), tokens, tokenizer.pad, CPU)
    found = encode_with_torch(ItemEncoder.open(model), tokens, tokenizer.pad, device)
    assert (wanted * found).sum(1).min() > COSINE


def test_bfloat16_has_nearly_the_same_vectors(model, device, monkeypatch):
    """On the processor too, where it is not used otherwise."""
    from recsys.encoder import torch_model

    tokenizer = TextTokenizer.open(model, 64)
    tokens, _ = tokenizer(TEXTS)
    wanted = encode_with_torch(ItemEncoder.open(model), tokens, tokenizer.pad, CPU)
    monkeypatch.setattr(torch_model, "computes_in_half", lambda device: True)
    found = encode_with_torch(ItemEncoder.open(model), tokens, tokenizer.pad, device)
    assert not np.array_equal(wanted, found)
    assert (wanted * found).sum(1).min() > COSINE


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_layers_agree(model, device):
    tokenizer = TextTokenizer.open(model, 64)
    tokens, _ = tokenizer(TEXTS[:8])
    encoder = ItemEncoder.open(model)
    wanted = encode_with_torch(encoder, tokens, tokenizer.pad, device)
    compile_layers(encoder, on=True)
    found = encode_with_torch(encoder, tokens, tokenizer.pad, device)
    compile_layers(encoder, on=False)
    assert (wanted * found).sum(1).min() > COSINE


def encoder_losses(behaviour, texts, config, folder):
    learned = fit_encoder(
        behaviour,
        texts,
        config,
        fit_until=int(behaviour.time.max()),
        out_dir=folder,
        seed=1,
        budget_seconds=None,
    )["learned"]
    return np.array(learned["losses"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tuning_has_the_same_losses(
    behaviour, texts, settings, tmp_path, device, precision, monkeypatch
):
    config: EncoderConfig = settings(dropout=0.0, precision=precision, learning_rate=1e-4)
    with on_device("cpu"):
        wanted = encoder_losses(behaviour, texts, config, tmp_path / "cpu")
    if precision == "bfloat16":
        from recsys.training.finetune import fit

        monkeypatch.setattr(fit, "computes_in_half", lambda device: True)
    found = encoder_losses(behaviour, texts, config, tmp_path / "device")
    limit = LOSS_FLOAT32 if precision == "float32" else LOSS_HALF
    np.testing.assert_allclose(found, wanted, rtol=limit)


@pytest.mark.parametrize("negatives", [16, 0])
def test_the_sequence_model_learns_the_same(world, history, device, negatives):
    """Trained there, exported, and served by the kernels."""
    scores = []
    for place in (CPU, device):
        source = trained_sequence(world, place, negatives)
        asked = [history([0, 2, 4]), history([1, 3]), history([8])]
        items = np.arange(38, dtype=np.int32)
        scores.append(np.stack([source.score(one, items, 0)[:, 0] for one in asked]))
    np.testing.assert_allclose(scores[1], scores[0], atol=SCORE)
    assert scores[0].std() > 0.3


def trained_sequence(world, place, negatives):
    """A source after 60 steps in float32 without dropout: what is drawn is drawn by numpy."""
    events, inputs = world
    params = {"width": 16, "negatives": negatives, "dropout": 0, "id_dropout": 0}
    params = resolved("sequence", SequenceSource.Params, params)
    draw = np.random.default_rng(0)
    counts = np.bincount(events.item, minlength=events.n_items).astype(np.int32)
    torch.manual_seed(0)
    network = SequenceModel(counts, inputs.vectors, params, 40).to(place)
    rows = sequence.Sequences.of(sequence.positive(events), 20, 5.0)
    sequence.train(network, rows, Negatives(counts, negatives, draw), 0.5, params, draw)
    arrays = network.exported()
    return SequenceSource(
        arrays.pop("items"),
        arrays.pop("targets"),
        network.known(),
        arrays,
        params=params,
        fit_until=0,
    )


NIGHT = """
data: {{items: data/items.parquet, events: data/events.parquet}}
workspace: work-{device}
device: {device}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [popular, sequence], tune: false, depth: 60, candidates: 40, dials: {{sequence: {sequence}}}}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
"""
SMALL_SEQUENCE = "{width: 16, blocks: 1, negatives: 64, epochs: 3, learning_rate: 0.005}"


def test_a_small_night(tmp_path, device, tiny_model):
    """`device:` in the YAML, from tables to a registered model; beside the same night on the processor."""
    tables_of_some(tmp_path)
    found = {}
    for name in dict.fromkeys(["cpu", device.type]):
        file = tmp_path / f"{name}.yaml"
        file.write_text(
            NIGHT.format(device=name, model=tiny_model, sequence=SMALL_SEQUENCE), encoding="utf-8"
        )
        night = run_night(load_config(file))
        main = next(iter(night.metrics.values()))
        context = json.loads((night.report.parent / "report.json").read_text())["context"]
        assert "sequence" in context["device"]
        found[name] = main["ndcg@10"][0]
    assert found[device.type] == pytest.approx(found["cpu"], abs=NDCG)


def tables_of_some(folder):
    """The bundled data of the first 150 users."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from recsys.ingestion.bundled import lay_out_movies

    lay_out_movies(folder)
    events = pq.read_table(folder / "data" / "events.parquet")
    users = sorted(set(events["user_id"].to_pylist()))[:150]
    events = events.filter(pc.is_in(events["user_id"], pa.array(users)))
    pq.write_table(events, folder / "data" / "events.parquet")


def test_speed_and_share_of_the_peak(model, device, capsys):
    """Encoding and tuning, in tokens a second and in operations beside what the device is built for."""
    tokenizer = TextTokenizer.open(model, 64)
    tokens, _ = tokenizer(TEXTS * (1 if device.type == "cpu" else 40))
    encoder = ItemEncoder.open(model).to(device)
    ids, mask = (torch.from_numpy(array).to(device) for array in pad_tokens(tokens, tokenizer.pad))
    half = computes_in_half(device)

    def encode():
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            encoder(ids, mask)

    def tune():
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = encoder(ids, mask).float().pow(2).sum()
        loss.backward()

    name, count = device_facts(device).name, float(mask.sum())
    lines = [
        speed_line(what, name, count, flops_of(step), seconds_of_step(step, device, warm_up=2))
        for what, step in (("encoding", encode), ("tuning", tune))
    ]
    assert all("tokens/s" in line and "peak" in line for line in lines)
    if device.type == "cpu":
        assert all("unknown" in line for line in lines)
        return
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_the_choice_is_what_is_computed_on(device):
    assert devices.best_device().type == device.type
