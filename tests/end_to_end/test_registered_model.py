"""A registered model scores where this package is not installed, with what its requirements name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.frame_ranking import FrameRanker
from recsys.storage.registry import Registry

PROGRAM = Path(__file__).with_name("load_registered_model.py")


@pytest.mark.filterwarnings("ignore:::mlflow")
def test_a_registered_model_scores_without_this_package(released, tmp_path):
    registry = Registry(load_config(released / "recsys.yaml"))
    version = registry.show(registry.champion())
    model = version.source.removeprefix("file://")
    bundle = registry.local_path(version.version)
    items = pq.read_table(released / "data" / "items.parquet")["item_id"].to_pylist()[:20]
    frame = pd.DataFrame({"user_id": ["somebody"] * len(items), "item_id": items})
    done = subprocess.run(
        [
            *(sys.executable, "-P", str(PROGRAM), model, str(bundle / "encoder")),
            json.dumps(frame.to_dict("list")),
        ],
        cwd=tmp_path,
        # Without compiled kernels: compiling them anew in the copy takes longer than all the rest.
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    scores = np.array(answer["scores"])
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 1
    # Asked a moment later: what depends on the time of the call has moved a little.
    np.testing.assert_allclose(scores, FrameRanker(bundle).scores(frame), rtol=1e-3)
    assert answer["norm"] == pytest.approx(1, abs=1e-3)
