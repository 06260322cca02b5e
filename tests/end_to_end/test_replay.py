"""Replay: what was ranked at a moment is what the replay of that moment gives, over HTTP and after
later events, items and impressions have reached the state."""

import random
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_schemas.api import to_microseconds
from data_schemas.config import load_config
from recsys.asking import Ask
from recsys.cli.demo import service
from recsys.cli.live import open_runtime
from recsys.client import Client
from recsys.registry import Registry
from training.nightly import run_night

MOMENTS, USERS, CANDIDATES = 40, 40, 30
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
budget_minutes: 0.5
windows: {{cuts: 1}}
encoder: {{model: {model}, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, text, popular, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
"""

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_model):
    from recsys.bundled import lay_out_movies

    folder = tmp_path_factory.mktemp("replay")
    lay_out_movies(folder)
    events = pq.read_table(folder / "data" / "events.parquet")
    users = sorted(set(events["user_id"].to_pylist()))[:USERS]
    events = events.filter(pc.is_in(events["user_id"], pa.array(users)))
    items = pq.read_table(folder / "data" / "items.parquet")
    items = items.filter(pc.is_in(items["item_id"], pc.unique(events["item_id"])))
    pq.write_table(events, folder / "data" / "events.parquet")
    pq.write_table(items, folder / "data" / "items.parquet")
    (folder / "recsys.yaml").write_text(CONFIG.format(model=tiny_model), encoding="utf-8")
    config = load_config(folder / "recsys.yaml")
    night = run_night(config)
    # Whether so little data passes the gate is not the question here.
    Registry(config).promote(night.version, "replay test")
    return folder


def scores(ranked):
    return {item.item_id: item.score for item in ranked.items}


def test_replayed_moments_give_the_scores_of_the_release(workspace):
    config = workspace / "recsys.yaml"
    events = pq.read_table(workspace / "data" / "events.parquet").to_pylist()
    moments = random.Random(3).sample(events, MOMENTS)
    moments.sort(key=lambda event: event["timestamp"])
    runtime = open_runtime(load_config(config))
    ids = [runtime.state.catalogue.id_of(i) for i in range(CANDIDATES)]

    def expected(event):
        now = to_microseconds(event["timestamp"].astimezone(UTC))
        answer = runtime.answer(Ask(event["user_id"], now, items=ids))
        return dict(zip(answer.item_ids, answer.scores, strict=True))

    def close(left, right):
        assert left.keys() == right.keys()
        np.testing.assert_allclose([left[i] for i in ids], [right[i] for i in ids], rtol=1e-6)

    with service(config) as address, Client(address, timeout=60) as client:

        def replayed(event):
            at = event["timestamp"].astimezone(UTC)
            return scores(client.rank(event["user_id"], ids, as_of=at))

        for event in moments:
            close(replayed(event), expected(event))
        served = []
        for event in moments[:10]:
            served.append((event["user_id"], scores(client.rank(event["user_id"], ids))))
            client.event(event["user_id"], ids[0], "purchase")
        client.put_item("later", title="It came later")
        for event in moments:
            close(replayed(event), expected(event))
        close(served[0][1], scores(client.rank(served[0][0], ids, as_of=_data_end(runtime))))


def _data_end(runtime):
    """Just after the end of the data: where the frozen clock stood for the first served list."""
    return datetime.fromtimestamp(runtime.data_end / 1e6 + 2e-6, UTC)
