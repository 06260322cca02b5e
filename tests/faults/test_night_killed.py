"""The real night on a slice of the bundled data, killed at random moments.

RECSYS_KILLS sets how often (30 by default). Every restart goes on where the last one stopped, the
champion can always be opened, and the release is the undisturbed night's.
"""

import os
import random
import signal
import subprocess
import sys
import time
from importlib import resources

import duckdb
import pytest

from data_schemas.config import load_config
from recsys.bundle import open_bundle
from recsys.registry import Registry

KILLS = int(os.environ.get("RECSYS_KILLS", "30"))
USERS = 120
CONFIG = """
data: {{items: items.parquet, events: events.parquet}}
clock: end_of_data
encoder: {{model: {model}, max_steps: 5, epochs: 1, max_tokens: 32}}
evaluation: {{bootstrap: 100}}
sources: {{tune: false}}
"""


def lay_out(folder, model):
    """A slice of `movies` with a recsys.yaml."""
    folder.mkdir()
    movies = resources.files("recsys") / "bundled" / "movies"
    with duckdb.connect() as duck:
        duck.execute(
            f"create table e as select * from '{movies}/events.parquet' where user_id in (select "
            f"user_id from '{movies}/events.parquet' group by 1 having count(*) > 20 "
            f"order by user_id limit {USERS})"
        )
        duck.execute("create table top as select item_id from e group by 1 having count(*) >= 4")
        duck.execute(
            "copy (select * from e where item_id in (from top) order by timestamp, user_id, item_id)"
            f" to '{folder}/events.parquet'"
        )
        duck.execute(
            f"copy (select * from '{movies}/items.parquet' where item_id in (from top) "
            f"order by item_id) to '{folder}/items.parquet'"
        )
    (folder / "recsys.yaml").write_text(CONFIG.format(model=model))
    return folder / "recsys.yaml"


def night(config):
    return subprocess.Popen(
        [sys.executable, "-m", "recsys", "nightly", "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def champion_of(config):
    registry = Registry(load_config(config))
    version = registry.champion()
    return None if version is None else open_bundle(registry.local_path(version))


@pytest.mark.slow
def test_the_night_killed_anywhere_ends_as_if_undisturbed(tmp_path, tiny_model):
    calm = lay_out(tmp_path / "calm", tiny_model)
    began = time.monotonic()
    _, said = (child := night(calm)).communicate(timeout=1800)
    seconds = time.monotonic() - began
    assert child.returncode == 0, said

    rough = lay_out(tmp_path / "rough", tiny_model)
    draw = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        child = night(rough)
        try:
            began = time.monotonic()
            child.communicate(timeout=draw.uniform(0.1, 0.8) * seconds)
            # What is left of the night takes no longer than this.
            seconds = time.monotonic() - began
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            killed += 1
        champion_of(rough)
    _, said = (child := night(rough)).communicate(timeout=1800)
    assert child.returncode == 0, said

    registry = Registry(load_config(rough))
    assert killed >= 1
    assert champion_of(rough).digest == champion_of(calm).digest
    assert [v.version for v in registry.list()] == [1]
    assert len(list((tmp_path / "rough").rglob("MLmodel"))) == 1
    assert not list((tmp_path / "rough" / "work").rglob("*.part"))
    assert not (tmp_path / "rough" / "work" / "lock.json").exists()
