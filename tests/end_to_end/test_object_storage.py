"""A whole night with its tables, its scratch folder, its state and its bundle on a local S3 service."""

import json
import shutil

import pyarrow.fs as fs
import pytest

from recsys.data_schemas.config import load_config
from recsys.operations.cli.main import main
from recsys.storage.file_systems import file_system_of
from recsys.storage.registry import Registry
from recsys.storage.scratch import ScratchFolder
from recsys.training.nightly import run_night

USERS = 40
CONFIG = """
data: {{items: "{bucket}/shop/items.parquet", events: "{bucket}/shop/events"}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, text, popular, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
tracking: {{artifacts: "{bucket}/models"}}
engine: {{scratch: "{bucket}/recsys"}}
"""

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.filterwarnings("ignore")]


def recommend(folder, name, *engine):
    """Bytes of everybody's lists, with settings of the engine in the environment."""
    out = folder / name
    with pytest.MonkeyPatch.context() as patch:
        for setting, value in engine:
            patch.setenv(f"RECSYS__ENGINE__{setting}", value)
        code = main(["recommend", "-c", str(folder / "recsys.yaml"), "--out", str(out)])
    assert code == 0
    return out.read_bytes()


@pytest.mark.usefixtures("session_ends")
def test_a_night_of_which_nothing_but_its_workspace_is_local(
    tmp_path, tiny_model, slice_of_movies, s3
):
    laid_out, users = slice_of_movies(tmp_path / "shop", USERS, "")
    data = laid_out / "data"
    (data / "events").mkdir()
    (data / "events.parquet").rename(data / "events" / "all.parquet")
    system, bucket = file_system_of(s3, "test")
    fs.copy_files(str(data), f"{bucket}/shop", fs.LocalFileSystem(), system)
    shutil.rmtree(laid_out)
    folder = tmp_path / "night"
    folder.mkdir()
    (folder / "recsys.yaml").write_text(CONFIG.format(bucket=s3, model=tiny_model))
    config = load_config(folder / "recsys.yaml")

    night = run_night(config)
    registry = Registry(config)
    registry.promote(night.version, "test")
    assert registry.show(night.version).source.startswith(f"{s3}/models")
    assert run_night(config).unchanged

    # The lists come from the bundle as the store has it.
    shutil.rmtree(registry.workspace.bundles)
    here = recommend(folder, "here.parquet")
    scratch = ScratchFolder(f"{s3}/recsys")
    assert scratch.names() == set()
    conf = {
        "spark.executor.memory": "900m",
        "spark.executorEnv.RECSYS_NODE_CACHE": str(tmp_path / "node"),
    }
    there = recommend(
        folder,
        "there.parquet",
        ("KIND", "spark"),
        ("SPARK__MASTER", "local-cluster[2,1,900]"),
        ("SPARK__CONF", json.dumps(conf)),
        ("PARTS", "3"),
    )
    assert there == here
    kinds = {name.split("/")[1].split("-")[0] for name in scratch.names()}
    assert kinds == {"bundle", "state"}

    # What a person left there goes with the person.
    assert main(["forget-user", users[0], "-c", str(folder / "recsys.yaml")]) == 0
    assert scratch.names() == set()
