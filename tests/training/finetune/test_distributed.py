"""Two processes under torchrun (gloo) reach the single process's loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
from recsys.data_schemas.config import EncoderConfig
from recsys.features.interactions import Interactions
from recsys.training.finetune.fit import fit_encoder

arrays = np.load(sys.argv[1], allow_pickle=False)
names = ("user", "item", "kind", "time", "value", "weight", "grade", "position")
events = Interactions(*(arrays[n] for n in names), list(map(str, range(120))), ("purchase",), 64)
out = Path(sys.argv[4])
learned = fit_encoder(
    events, arrays["texts"].tolist(), EncoderConfig(**json.loads(sys.argv[2])),
    fit_until=int(events.time.max()), out_dir=out / "encoder", seed=3, budget_seconds=None,
)
losses = learned.get("learned", learned)["losses"]
(out / f"losses-{os.environ.get('RANK', 'one')}.json").write_text(json.dumps(losses))
"""


def launch(command, out):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return {f.name: json.loads(f.read_text()) for f in out.glob("losses-*.json")}


def test_two_processes_give_the_single_process_loss(behaviour, texts, settings, tmp_path):
    names = ("user", "item", "kind", "time", "value", "weight", "grade", "position")
    data = tmp_path / "data.npz"
    np.savez(data, texts=np.array(texts), **{n: getattr(behaviour, n) for n in names})
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    config = settings(dropout=0.0, head_steps=3, max_steps=5, learning_rate=1e-4).model_dump_json()
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    single = launch([sys.executable, str(script), str(data), config, "-", str(one)], one)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = launch([*torchrun, str(script), str(data), config, "-", str(two)], two)
    assert sorted(both) == ["losses-0.json", "losses-1.json"]
    for losses in both.values():
        np.testing.assert_allclose(losses, single["losses-one.json"], rtol=1e-4)
    assert (two / "encoder" / "manifest.json").exists()
