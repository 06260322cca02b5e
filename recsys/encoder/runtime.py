"""Text to vector without PyTorch: the tuned encoder's exported model on ONNX Runtime or OpenVINO.

The nightly encoding of the catalogue and text sent inline with a request go through this one class,
so that both have the same precision. Where the exported model does not agree with the tuned
weights on the user's own texts (the manifest says so), the weights run in PyTorch instead.

OpenVINO takes the same file where it is installed and the processor computes in bfloat16 (AVX-512
BF16, AMX): some 1.5 times as fast there at a cosine of .9999 and above. On a processor with AVX2 alone
it gains a tenth at most, so ONNX Runtime stays. Whether its vectors agree is checked where it runs,
on texts that the fit has put aside. Figures: `docs/encoder.md`, `benchmarks/encode_texts.py`.
"""

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.device import best_device
from recsys.encoder.manifest import EncoderManifest
from recsys.encoder.tokens import TOKENS_AT_ONCE, TextTokenizer, batches_by_length, pad_tokens
from recsys.features.interactions import Floats
from recsys.storage.processors import processors

log = logging.getLogger(__name__)

CHECK: Final = "check.npz"
"""Token ids of a few of the user's own texts, and their vectors by the tuned weights in float32."""
MIN_COSINE: Final = 0.9999
"""Least cosine, over a sample of the user's own texts, for a float32 or bfloat16 model to be used."""

Model = Callable[[Sequence[Sequence[int]]], Floats]
"""Token sequences of n texts → unit vectors float32 [n, d]."""


@dataclass(frozen=True)
class TextEncoder:
    """Encodes texts with the encoder of one folder."""

    manifest: EncoderManifest
    tokenizer: TextTokenizer
    model: Model

    @classmethod
    def open(cls, folder: Path, *, max_tokens: int | None = None) -> "TextEncoder":
        """Open an encoder folder that the fit wrote.

        Raises:
            RecsysError: a file is missing or damaged.
        """
        manifest = EncoderManifest.read(folder)
        limit = min(max_tokens or manifest.max_tokens, manifest.max_tokens)
        tokenizer = TextTokenizer.open(folder, limit)
        if manifest.inference is not None and not _on_gpu():
            model = cpu_model(folder, manifest, tokenizer.pad)
        else:
            model = _torch_model(folder, tokenizer.pad)
        return cls(manifest, tokenizer, model)

    @property
    def dimension(self) -> int:
        return self.manifest.dimension

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors float32 [n, d] of n texts."""
        return self.encode_counted(texts)[0]

    def encode_counted(self, texts: Sequence[str]) -> tuple[Floats, int]:
        """Unit vectors float32 [n, d], and how many texts were cut to max_tokens."""
        if not texts:
            return np.empty((0, self.dimension), np.float32), 0
        tokens, cut = self.tokenizer(texts)
        return self.model(tokens), sum(cut)


def _on_gpu() -> bool:
    """Whether a GPU is there to encode on; asked for only where PyTorch is loaded already."""
    import sys

    return "torch" in sys.modules and best_device().type == "cuda"


def threads() -> int:
    """Threads an encoding may use: OMP_NUM_THREADS, else the cores this process may run on."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else processors()


def cpu_model(folder: Path, manifest: EncoderManifest, pad: int) -> Model:
    """The exported model on the runtime that this processor is fast with.

    Raises:
        RecsysError: the file cannot be read.
    """
    assert manifest.inference is not None
    file = folder / manifest.inference
    # The checks' texts are the fit's; an encoder folder without them is left to ONNX Runtime.
    if manifest.precision == "float32" and (folder / CHECK).is_file() and openvino_pays():
        try:
            model = openvino_model(file, pad, manifest.dimension)
        except RecsysError as error:
            log.warning("OpenVINO is not used: %s", error)
            return onnx_model(file, pad, manifest.dimension)
        least = agreement(model, folder / CHECK)
        if least >= MIN_COSINE:
            return model
        log.warning("OpenVINO disagrees with the encoder (least cosine %.5f); not used", least)
    return onnx_model(file, pad, manifest.dimension)


def openvino_pays() -> bool:
    """Whether OpenVINO is installed and this processor computes in bfloat16."""
    if importlib.util.find_spec("openvino") is None:
        return False
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_model(file: Path, pad: int, dimension: int) -> Model:
    """An exported model in OpenVINO as a function from tokens to vectors.

    Raises:
        RecsysError: OpenVINO cannot read the file.
    """
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads(), "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = openvino.Core().compile_model(str(file), "CPU", settings)
    except RuntimeError as error:
        raise _unreadable(file, error) from None
    # A request of its own for each call: one may serve several threads.
    return _batched(
        lambda ids, mask: compiled.create_infer_request().infer(
            {"input_ids": ids, "attention_mask": mask}
        )[0],
        pad,
        dimension,
    )


def agreement(model: Model, check: Path) -> float:
    """Least cosine of a model with the vectors put aside by the fit; 0 where they cannot be read."""
    try:
        with np.load(check) as kept:
            ids, offsets, wanted = kept["ids"], kept["offsets"], kept["vectors"]
        found = model([ids[a:b] for a, b in pairwise(offsets)])
    except (OSError, ValueError, KeyError, RuntimeError):
        return 0.0
    # The cosine of unit vectors; less for one whose length is off.
    return float(1 - 0.5 * ((found - wanted) ** 2).sum(1).max())


def _unreadable(file: Path, error: Exception) -> RecsysError:
    return RecsysError(
        "the encoder's inference model cannot be read",
        where=str(file),
        found=(str(error).splitlines() or [type(error).__name__])[0][:300],
        expected="the file that the fit wrote",
        fix="train the encoder again, or restore the bundle",
    )


def onnx_model(file: Path, pad: int, dimension: int) -> Model:
    """An exported model as a function from tokens to vectors.

    Raises:
        RecsysError: ONNX Runtime cannot read the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors share no base but Exception
        raise _unreadable(file, error) from None
    return _batched(
        lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0],
        pad,
        dimension,
    )


def _batched(call: Callable[[Any, Any], Any], pad: int, dimension: int) -> Model:
    """A call on (ids, mask) int64 [B, L] as a function from token sequences of any lengths."""

    def run(tokens: Sequence[Sequence[int]]) -> Floats:
        vectors = np.empty((len(tokens), dimension), np.float32)
        lengths = np.array([len(t) for t in tokens])
        for rows in batches_by_length(lengths, TOKENS_AT_ONCE):
            vectors[rows] = call(*pad_tokens([tokens[r] for r in rows], pad))
        return vectors

    return run


def _torch_model(folder: Path, pad: int) -> Model:
    """The tuned weights in PyTorch: on a GPU, or where the exported model does not agree."""
    from recsys.encoder.torch_model import ItemEncoder, encode_with_torch

    encoder, device = ItemEncoder.open(folder), best_device()
    return lambda tokens: encode_with_torch(encoder, tokens, pad, device)
