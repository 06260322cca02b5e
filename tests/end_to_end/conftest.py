"""One small release, made once."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.storage.registry import Registry
from recsys.training.nightly import run_night

USERS = 40
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, text, popular, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
serving: {{timeout_ms: 60000}}
"""


def laid_out(folder, count, config):
    """(folder, users): the bundled data of the first `count` users, and a config beside it."""
    from recsys.ingestion.bundled import lay_out_movies

    lay_out_movies(folder)
    events = pq.read_table(folder / "data" / "events.parquet")
    users = sorted(set(events["user_id"].to_pylist()))[:count]
    events = events.filter(pc.is_in(events["user_id"], pa.array(users)))
    items = pq.read_table(folder / "data" / "items.parquet")
    items = items.filter(pc.is_in(items["item_id"], pc.unique(events["item_id"])))
    pq.write_table(events, folder / "data" / "events.parquet")
    pq.write_table(items, folder / "data" / "items.parquet")
    (folder / "recsys.yaml").write_text(config, encoding="utf-8")
    return folder, users


@pytest.fixture(scope="session")
def slice_of_movies():
    """`laid_out`, for modules with a config of their own."""
    return laid_out


@pytest.fixture(scope="session")
def released(tmp_path_factory, tiny_model):
    """A workspace with a small release; tests may add to its log, not change its state."""
    folder, _ = laid_out(
        tmp_path_factory.mktemp("released"), USERS, CONFIG.format(model=tiny_model)
    )
    config = load_config(folder / "recsys.yaml")
    night = run_night(config)
    # Whether so little data passes the gate is not the question here.
    Registry(config).promote(night.version, "test")
    return folder
