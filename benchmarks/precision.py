"""What 8 bits cost in list quality: nDCG@10 of the same tuned encoder in float32 and in int8.

    python benchmarks/precision.py DATA ENCODER [--users 1500] [--seed 0]

ENCODER is a fitted encoder's folder (`recsys train encoder` prints it), DATA what it was fitted on. Its
export is quantised as the product would do it, all texts are encoded with both, and each test user's
last positive event is ranked among all items by what the user did before. The encoder may have learned
from these events: the figures compare precisions, not models. The interval is of the paired difference,
bootstrapped over users.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from cold_items import interest, interval, load, metrics, protocol, ranks

from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.onnx_export import (
    INFERENCE,
    INT8,
    MIN_MEAN_COSINE,
    quantize,
)
from recsys.encoder.runtime import TextEncoder, onnx_model
from recsys.encoder.tower import InterestSource


def vectors_of(model, tokens):
    """(unit vectors of all texts, seconds)."""
    began = time.perf_counter()
    return model(tokens), time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    manifest = EncoderManifest.read(arguments.encoder)
    texts, events = load(arguments.data, manifest.template)
    tests = protocol(events, arguments.users, arguments.seed)[3]
    encoder = TextEncoder.open(arguments.encoder)
    tokens, _ = encoder.tokenizer(texts)
    full, seconds = vectors_of(encoder.model, tokens)
    print(f"float32: {len(texts) / seconds:.1f} texts/s")
    every = np.arange(len(texts), dtype=np.int32)

    def ndcg(vectors):
        source = InterestSource.open(arguments.encoder, vectors, manifest.fit_until)
        return metrics(ranks(interest(source), tests, every))["ndcg@10"]

    base, found = ndcg(full), {}
    with tempfile.TemporaryDirectory() as scratch:
        for keep_wide in (False, True):
            file = Path(scratch) / INT8
            quantize(arguments.encoder / INFERENCE, file, keep_wide=keep_wide)
            small, seconds = vectors_of(
                onnx_model(file, encoder.tokenizer.pad, encoder.dimension), tokens
            )
            cosine = float((small * full).sum(1).mean())
            print(
                f"int8, wide in float32 {keep_wide}: {len(texts) / seconds:.1f} texts/s", end=", "
            )
            print(f"mean cosine {cosine:.4f} (used from {MIN_MEAN_COSINE})")
            found[f"int8, wide {keep_wide}"] = ndcg(small)
    print(f"{len(tests)} users, float32 nDCG@10 {base.mean():.4f}")
    for name, values in found.items():
        mean, low, high = interval(values - base)
        print(f"{name}: {mean:+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
