"""The tuned encoder as an ONNX file for the CPU, used only if its vectors agree with the weights.

In 8 bits it is half as fast again or more, depending on the processor, at vectors that differ a little:
there the mean cosine on the user's own texts decides, and float32 serves where it is too low.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.pretrained import WEIGHTS
from recsys.encoder.runtime import CHECK, MIN_COSINE, onnx_model
from recsys.encoder.shared_weights import share_weights, whole_model
from recsys.encoder.tokens import Tokens, pad_tokens
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch
from recsys.features.interactions import Floats

log = logging.getLogger(__name__)

INFERENCE: Final = "inference.onnx"
INT8: Final = "inference-int8.onnx"
MIN_MEAN_COSINE: Final = 0.995
"""Mean cosine, over the same sample, for an 8-bit model to be used."""
CHECKED: Final = 16
"""Texts put aside for runtimes that are checked where they run."""
SAMPLE: Final = 64
"""Texts compared."""
_OPSET = 17


def export_onnx(
    encoder: ItemEncoder, file: Path, example: Sequence[Sequence[int]], pad: int
) -> None:
    """Write the encoder (float32) as ONNX: input_ids, attention_mask int64 [B, L] → vectors [B, d]."""
    ids, mask = pad_tokens(example, pad)
    axes = {0: "texts", 1: "tokens"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            encoder.cpu().eval(),
            (torch.from_numpy(ids), torch.from_numpy(mask)),
            str(file),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "texts"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def sample_of(tokens: Sequence[Sequence[int]] | Tokens, count: int = SAMPLE) -> list[Sequence[int]]:
    """Texts of all lengths, evenly spread, the longest included."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    picked = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))
    return [tokens[order[i]] for i in picked]


class Inference(NamedTuple):
    """What an encoder folder serves with on a CPU."""

    file: str | None
    """None: the weights in PyTorch."""
    precision: str
    """`float32` or `int8`."""
    agreement: dict[str, float]
    """Least and mean cosine with the tuned weights over a sample of the user's texts."""


def write_inference(
    encoder: ItemEncoder,
    folder: Path,
    tokens: Sequence[Sequence[int]] | Tokens,
    pad: int,
    precision: str = "float32",
) -> Inference:
    """Export for the CPU into `folder`, in the wished precision if its vectors agree with those of
    the weights over a sample of `tokens`, else in float32, else not at all.

    Args:
        encoder: the fitted model.
        folder: where the exported model is written.
        tokens: token ids of texts, a sample of which is compared.
        pad: id of the padding token.
        precision: wished for: `float32` or `int8`.
    """
    sample = sample_of(tokens)
    if not sample:
        return Inference(None, "float32", {})
    wanted = encode_with_torch(encoder, sample, pad, torch.device("cpu"))
    file = folder / INFERENCE
    try:
        export_onnx(encoder, file, sample[-2:], pad)
        found = onnx_model(file, pad, encoder.dimension)(sample)
    except Exception as error:  # exporters fail in many ways; PyTorch then serves instead
        log.warning("the encoder could not be exported (%s); PyTorch will be used", error)
        file.unlink(missing_ok=True)
        return Inference(None, "float32", {})
    agreement = _agreement(found, wanted)
    if not agreement["least"] >= MIN_COSINE:
        log.warning(
            "the exported encoder disagrees with the weights (least cosine %.4f, wanted %.4f); "
            "PyTorch will be used",
            agreement["least"],
            MIN_COSINE,
        )
        file.unlink(missing_ok=True)
        return Inference(None, "float32", agreement)
    if precision == "int8" and (small := _write_int8(folder, encoder, sample, wanted, pad)):
        file.unlink()
        return Inference(INT8, "int8", small)
    _put_aside(folder, sample, wanted)
    _share(file, encoder, sample, wanted, pad)
    return Inference(INFERENCE, "float32", agreement)


def _share(
    file: Path, encoder: ItemEncoder, sample: Sequence[Sequence[int]], wanted: Floats, pad: int
) -> None:
    """Let the exported model read the weights beside it, where it gives the same vectors then."""
    weights = file.with_name(WEIGHTS)
    if not weights.is_file():
        return
    shared = file.with_name(f"shared-{file.name}")
    try:
        share_weights(file, weights, shared)
        if (
            _agreement(onnx_model(shared, pad, encoder.dimension)(sample), wanted)["least"]
            >= MIN_COSINE
        ):
            shared.replace(file)
    except RecsysError as error:  # a runtime that cannot read tensors from another file
        log.warning("the exported encoder keeps weights of its own: %s", error)
    finally:
        shared.unlink(missing_ok=True)


def _write_int8(
    folder: Path,
    encoder: ItemEncoder,
    sample: Sequence[Sequence[int]],
    wanted: Floats,
    pad: int,
) -> dict[str, float] | None:
    """The exported model in 8 bits; its agreement, or None (and no file) where that is too low."""
    file = folder / INT8
    for kept in (False, True):
        quantize(folder / INFERENCE, file, keep_wide=kept)
        agreement = _agreement(onnx_model(file, pad, encoder.dimension)(sample), wanted)
        if agreement["mean"] >= MIN_MEAN_COSINE:
            return agreement
    log.warning(
        "the encoder in 8 bits disagrees with the weights (mean cosine %.4f, wanted %.4f); float32 "
        "will be used",
        agreement["mean"],
        MIN_MEAN_COSINE,
    )
    file.unlink()
    return None


def _agreement(found: Floats, wanted: Floats) -> dict[str, float]:
    cosine = (found * wanted).sum(1)
    return {"least": float(cosine.min()), "mean": float(cosine.mean()), "texts": len(cosine)}


def _put_aside(folder: Path, sample: Sequence[Sequence[int]], wanted: Floats) -> None:
    """Keep a few texts with their vectors, for runtimes that are checked where they run."""
    places = np.unique(np.linspace(0, len(sample) - 1, min(CHECKED, len(sample))).astype(int))
    kept = Tokens.of([sample[i] for i in places])
    np.savez(folder / CHECK, ids=kept.flat, offsets=kept.offsets, vectors=wanted[places])


def quantize(source: Path, target: Path, *, keep_wide: bool = False) -> None:
    """Write an exported model with int8 weights and activations scaled as they come.

    The vector of a text then depends a little on the texts beside it. `keep_wide` leaves the products
    that lead back from the wide inner layer in float32: most of the error comes from there.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exclude = []
    model = whole_model(source)
    if keep_wide:
        graph = model.graph
        sides = {i.name: list(i.dims) for i in graph.initializer}
        for node in graph.node:
            shape = next((sides[x] for x in node.input if x in sides), [])
            if node.op_type == "MatMul" and len(shape) == 2 and shape[0] > shape[1]:
                exclude.append(node.name)
    logging.disable(logging.WARNING)  # it logs advice about image models, on the root logger
    try:
        quantize_dynamic(
            model,
            str(target),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=exclude,
        )
    finally:
        logging.disable(logging.NOTSET)
