"""Texts per second of our encoding beside sentence-transformers' `encode`, in one run.

    python benchmarks/encode_texts.py [--texts 400] [--clock wall|cpu] [--out encode.json]

Reports, for texts of about 30 and 120 tokens, texts per second, the cosine with
sentence-transformers' vectors, and the share of the machine's measured fp32 matrix peak.
`int8` is what `encoder.inference: int8` makes; OpenVINO is measured where it is installed. All take
turns, and the best of the rounds counts. On a busy machine, `--clock cpu` with OMP_NUM_THREADS=1 counts
the processor time used instead of the time passed.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from recsys.data_schemas.config import EncoderConfig
from recsys.encoder.device import best_device
from recsys.encoder.onnx_export import quantize
from recsys.encoder.pretrained import resolve_model
from recsys.encoder.runtime import (
    TextEncoder,
    onnx_model,
    openvino_model,
    threads,
)
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.features.interactions import EMPTY_HISTORY, Interactions
from recsys.training.finetune.fit import fit_encoder

WORDS = [
    "wireless",
    "game",
    "controller",
    "with",
    "long",
    "battery",
    "life,",
    "red",
    "and",
    "blue",
    "lights;",
    "the",
    "best",
    "paper",
    "for",
    "a",
    "quiet",
    "office.",
    "A",
    "detective",
    "story",
    "about",
    "two",
    "brothers",
    "who",
    "lose",
    "their",
    "way",
    "in",
    "the",
    "northern",
    "sea",
]


def make_texts(count, tokens, seed):
    """Texts of about `tokens` tokens, lengths spread like titles and descriptions are."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(3, rng.normal(tokens, tokens / 3, count)).astype(int)
    return [" ".join(rng.choice(WORDS, max(2, int(n / 1.25)))) for n in lengths]


def matrix_peak(clock):
    """Measured fp32 GFLOP/s of a large matrix product in PyTorch."""
    import torch

    torch.set_num_threads(threads())
    a, best = torch.randn(1536, 1536), 0.0
    for _ in range(5):
        began = clock()
        a @ a
        best = max(best, 2 * 1536**3 / (clock() - began) / 1e9)
    return best


def operations(encoder, lengths):
    """Floating-point operations of the encoder for texts of these lengths, unpadded."""
    config = encoder.backbone.config
    h, i, n = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    lengths = np.asarray(lengths, float)
    return float((n * (lengths * 2 * (4 * h * h + 2 * h * i) + 4 * lengths**2 * h)).sum())


def timed(runs, texts, clock, rounds=3):
    """Name → (vectors, texts per second of the best round); all run in turn."""
    vectors, best = {}, dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run(texts[:32])
    for _ in range(rounds):
        for name, run in runs.items():
            began = clock()
            vectors[name] = np.asarray(run(texts))
            best[name] = max(best[name], len(texts) / (clock() - began))
    return {name: (vectors[name], best[name]) for name in runs}


def contenders(folder, base):
    """Name → function from texts to unit vectors."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads())
    peer = SentenceTransformer(str(base), device=best_device().type)
    peer.max_seq_length = 128
    ours, weights = TextEncoder.open(folder), ItemEncoder.open(folder)
    pad, d = ours.tokenizer.pad, ours.dimension
    runs = {
        "sentence-transformers": lambda t: peer.encode(t, normalize_embeddings=True),
        "ours, PyTorch fp32": lambda t: encode_with_torch(
            weights, ours.tokenizer(t)[0], pad, best_device()
        ),
    }
    exported = {"ONNX Runtime fp32": onnx_model(folder / "inference.onnx", pad, d)}
    for name, wide in (("int8", False), ("int8, wide in fp32", True)):
        file = folder / f"{name}.onnx"
        quantize(folder / "inference.onnx", file, keep_wide=wide)
        exported[f"ONNX LoadedRelease {name}"] = onnx_model(file, pad, d)
    if importlib.util.find_spec("openvino"):
        exported["OpenVINO"] = openvino_model(folder / "inference.onnx", pad, d)
    for name, model in exported.items():
        runs[f"ours, {name}"] = lambda t, model=model: model(ours.tokenizer(t)[0])
    return ours, weights, runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    base, table = resolve_model("default"), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "encoder"
        none = Interactions(*(c.astype(c.dtype) for c in _no_events()), (), 0)
        config = EncoderConfig(fine_tune=False, max_tokens=128)
        sample = make_texts(64, 30, 0)
        fit_encoder(none, sample, config, fit_until=0, out_dir=folder, seed=0, budget_seconds=None)
        ours, weights, runs = contenders(folder, base)
        peak = matrix_peak(clock)
        print(f"{threads()} threads, {arguments.clock} clock, matrix peak {peak:.0f} GFLOP/s")
        for tokens in (30, 120):
            texts = make_texts(arguments.texts * 30 // tokens, tokens, tokens)
            lengths = [len(t) for t in ours.tokenizer(texts)[0]]
            work = operations(weights, lengths) / len(texts) / 1e9
            print(f"\n{len(texts)} texts of {np.mean(lengths):.0f} tokens")
            found = timed(runs, texts, clock)
            wanted, base_speed = found["sentence-transformers"]
            for name, (vectors, speed) in found.items():
                cosine = (vectors * wanted).sum(1)
                table[f"{name}, {tokens} tokens"] = {
                    "texts_per_second": speed,
                    "times_peer": speed / base_speed,
                    "cosine_mean": float(cosine.mean()),
                    "cosine_least": float(cosine.min()),
                    "share_of_peak": speed * work / peak,
                }
                print(
                    f"  {name:<38}{speed:8.1f} /s  ×{speed / base_speed:.2f}  cosine mean "
                    f"{cosine.mean():.5f} least {cosine.min():.5f}  {speed * work / peak:.0%} of peak",
                    flush=True,
                )
        inline = make_texts(40, 30, 5)
        one = timed({"": lambda t: np.concatenate([ours.encode([x]) for x in t])}, inline, clock)
        table["inline_ms"] = 1000 / one[""][1]
        print(f"\none inline text of 30 tokens: {table['inline_ms']:.1f} ms")
    if arguments.out:
        content = table | {
            "threads": threads(),
            "clock": arguments.clock,
            "peak_gflops": peak,
            "cores": os.cpu_count(),
        }
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")


def _no_events():
    """The columns of no events."""
    h = EMPTY_HISTORY
    floats, longs = np.empty(0, np.float32), np.empty(0, np.int64)
    users = np.empty(0, object)
    return h.item, h.item, h.kind, h.time, floats, h.weight, h.grade, longs, users


if __name__ == "__main__":
    main()
