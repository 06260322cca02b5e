"""What only a GPU can show of a fit."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from recsys.training.finetune.fit import fit_encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BOUND = 0.02
"""Relative difference of the loss that bf16 may make."""


def test_bf16_tuning_reaches_the_float32_loss(behaviour, texts, settings, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        learned = fit_encoder(
            behaviour,
            texts,
            settings(dropout=0.0, precision=precision),
            fit_until=int(behaviour.time.max()),
            out_dir=tmp_path / precision,
            seed=1,
            budget_seconds=None,
        )["learned"]
        losses[precision] = np.array(learned["losses"])
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=BOUND)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_agree():
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", os.path.join(here, "test_distributed.py")],
        check=False,
    )
    assert done.returncode == 0
