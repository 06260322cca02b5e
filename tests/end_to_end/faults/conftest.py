"""The real night on a slice of `movies`, as a process of its own."""

import os
import subprocess
import sys
from importlib import resources
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest

from recsys.data_schemas.config import load_config
from recsys.storage.bundle import open_bundle
from recsys.storage.registry import Registry

USERS = 120
# No budget binds: what a clock decides differs from run to run on any machine.
CONFIG = """
data: {{items: items.parquet, events: events.parquet}}
clock: end_of_data
encoder: {{model: {model}, max_steps: 5, epochs: 1, max_tokens: 32}}
budget_minutes: 600
evaluation: {{bootstrap: 100}}
sources: {{tune: false}}
"""


def lay_out(folder, model):
    """A slice of `movies` with a recsys.yaml."""
    folder.mkdir()
    movies = resources.files("recsys.ingestion.bundled") / "movies"
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
    """Started on one processor: how many threads share a sum is visible in its last digits, and the
    sequence model takes as many as are idle."""
    first = min(os.sched_getaffinity(0))
    return subprocess.Popen(
        [sys.executable, "-m", "recsys", "nightly", "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {first}),
    )


def champion_of(config):
    registry = Registry(load_config(config))
    version = registry.champion()
    return None if version is None else open_bundle(registry.local_path(version))


LEARNED = ("encoder/", "items/vectors", "items/index", "sources/sequence/", "ranker/")
"""Files of a release that gradients decide, or what comes of them: equal but for rounding, which differs
where a fit went on from a checkpoint and grows in what is fitted over it."""


def same_release(one, other):
    """Whether the champions of two configs are the same: all files that no gradient decides to the last
    byte, the items' vectors but for rounding."""
    bundles = [champion_of(config) for config in (one, other)]
    files = [
        {name: entry["sha256"] for part in b.manifest["parts"].values()
         for name, entry in part["files"].items()}
        for b in bundles
    ]  # fmt: skip
    assert files[0].keys() == files[1].keys()
    exact = {name for name in files[0] if not name.startswith(LEARNED)}
    assert {"sources/als/known.npy", "features.json"} <= exact
    differ = {name for name in exact if files[0][name] != files[1][name]}
    assert not differ
    np.testing.assert_allclose(bundles[0].vectors(), bundles[1].vectors(), atol=1e-5)
    return True


@pytest.fixture
def real_night():
    """lay_out(folder, model) → config file; night(config) → process; champion_of(config) → bundle;
    same_release(config, config)."""
    return SimpleNamespace(
        lay_out=lay_out, night=night, champion_of=champion_of, same_release=same_release
    )
