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
from recsys.data_schemas.errors import UsageError
from recsys.frame_ranking import FrameRanker
from recsys.operations.cli.main import main
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


@pytest.fixture
def champion(released):
    """(version, folder of its bundle) of the small release."""
    registry = Registry(load_config(released / "recsys.yaml"))
    version = registry.show(registry.champion())
    return version, registry.local_path(version.version)


@pytest.mark.filterwarnings("ignore:::mlflow", "ignore:::pydantic")
def test_its_signature_takes_a_history_and_its_example_is_answered(champion):
    import mlflow

    version, _ = champion
    model = mlflow.pyfunc.load_model(version.source.removeprefix("file://"))
    names = model.metadata.signature.inputs.input_names()
    assert names == ["user_id", "item_id", "timestamp", "history"]
    assert [p.name for p in model.metadata.signature.params] == ["k", "filter_viewed"]
    assert np.isfinite(model.predict(model.input_example)).all()
    seen = model.input_example["item_id"][0]
    asked = pd.DataFrame({"user_id": ["a"], "history": [[{"item_id": seen}]]})
    fresh = model.predict(asked, params={"k": 5})
    assert fresh["rank"].tolist() == [1, 2, 3, 4, 5]
    assert seen not in set(fresh["item_id"])
    every = model.predict(asked, params={"k": 60, "filter_viewed": False})
    assert seen in set(every["item_id"])


def test_a_history_changes_what_is_ranked(champion, released):
    _, bundle = champion
    items = pq.read_table(released / "data" / "items.parquet")["item_id"].to_pylist()[:30]
    past = [{"item_id": item, "event_type": "rating", "value": 5.0} for item in items[:3]]
    frame = pd.DataFrame({"user_id": "a", "item_id": items[5:]})
    ranker = FrameRanker(bundle)
    alone = ranker.scores(frame)
    with_list = ranker.scores(frame.assign(history=[past] * len(frame)))
    as_text = ranker.scores(frame.assign(history=json.dumps(past)))
    assert not np.allclose(alone, with_list)
    np.testing.assert_allclose(with_list, as_text, rtol=1e-3)
    for wrong in ('{"item_id": "m1"}', "no json", '[{"event_type": "click"}]'):
        with pytest.raises(UsageError, match="a list of events"):
            ranker.scores(frame.assign(history=wrong))


def test_the_registry_tells_the_verdict_the_night_and_the_data(champion, released):
    from mlflow.tracking import MlflowClient

    version, _ = champion
    registry = Registry(load_config(released / "recsys.yaml"))
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    run = client.get_run(version.run_id)
    assert run.info.run_name.startswith("night 20")
    kept = client.get_model_version(registry.name, str(version.version))
    assert "On ndcg@10" in kept.description
    assert run.data.tags["mlflow.note.content"] == kept.description
    assert run.data.metrics["system/processor_seconds"] > 1.0
    assert run.data.metrics["system/workspace_megabytes"] > 0.1
    data = run.inputs.dataset_inputs[0].dataset
    assert data.name == "tables"
    assert str(released) not in f"{data.source}{data.profile}", "no address of the caller's tables"


def test_the_encoder_is_loaded_by_others(champion, released, tmp_path, capsys):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from recsys.encoder.runtime import TextEncoder

    _, bundle = champion
    target = tmp_path / "encoder"
    arguments = [
        "models",
        "export-encoder",
        "--to",
        str(target),
        "-c",
        str(released / "recsys.yaml"),
    ]
    assert main(arguments) == 0
    card = (target / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers")
    assert not (target / "tower.safetensors").exists()
    texts = ["red widget", "the moon and the sea"]
    theirs = sentence_transformers.SentenceTransformer(str(target), device="cpu").encode(
        texts, normalize_embeddings=True
    )
    ours = TextEncoder.open(bundle / "encoder").encode(texts)
    assert ((theirs * ours).sum(1) > 0.999).all()
    assert main(arguments) == 2, "a folder that holds something is left alone"
