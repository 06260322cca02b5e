"""What only a GPU can show."""

import numpy as np
import pytest
import torch

from recsys.encoder.pretrained import resolve_model
from recsys.encoder.tokens import TextTokenizer
from recsys.encoder.torch_model import ItemEncoder, encode_with_torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TEXTS = [f"red game number {i} with " + "paper and glue " * (i % 9) for i in range(60)]


def test_bf16_vectors_agree_with_the_cpu():
    folder = resolve_model("default")
    tokenizer = TextTokenizer.open(folder, 64)
    tokens, _ = tokenizer(TEXTS)
    encoder = ItemEncoder.open(folder)
    wanted = encode_with_torch(encoder, tokens, tokenizer.pad, torch.device("cpu"))
    found = encode_with_torch(encoder, tokens, tokenizer.pad, torch.device("cuda"))
    assert (wanted * found).sum(1).min() > 0.999


def test_compiled_layers_agree():
    from recsys.training.finetune.freeze import compile_layers

    folder = resolve_model("default")
    tokenizer = TextTokenizer.open(folder, 64)
    tokens, _ = tokenizer(TEXTS)
    encoder, device = ItemEncoder.open(folder), torch.device("cuda")
    wanted = encode_with_torch(encoder, tokens, tokenizer.pad, device)
    compile_layers(encoder, on=True)
    found = encode_with_torch(encoder, tokens, tokenizer.pad, device)
    assert (wanted * found).sum(1).min() > 0.999
    compile_layers(encoder, on=False)
    again = encode_with_torch(encoder, tokens, tokenizer.pad, device)
    np.testing.assert_allclose(again, wanted, atol=1e-3)
