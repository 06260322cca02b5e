"""The nightly parity job: rows that a service answered with are the rows that batch gives, whatever
came in between; a planted skew is found and named."""

import json
import time

import numpy as np
import pytest

from recsys.data_schemas.api import Bury, Slot, to_time
from recsys.data_schemas.config import load_config
from recsys.features.interactions import HOUR
from recsys.features.kinds.trend import Trend
from recsys.features.kinds.user_activity import UserActivity
from recsys.features.parity import LIMIT
from recsys.operations.cli.demo import service
from recsys.operations.cli.main import main
from recsys.operations.open_release import load_release
from recsys.serving.client import Client
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import StageRunner, rest
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data, served_parity
from recsys.training.night.night_context import Night
from recsys.training.nightly import run_night

USERS, LISTS = 40, 12
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, text, popular, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
serving: {{parity_share: 1.0, timeout_ms: 60000}}
"""

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, slice_of_movies):
    """A workspace after its first night and an eventful day of service."""
    folder, users = slice_of_movies(
        tmp_path_factory.mktemp("served"), USERS, CONFIG.format(model=tiny_model)
    )
    config = load_config(folder / "recsys.yaml")
    night = run_night(config)
    # Whether so little data passes the gate is not the question here.
    Registry(config).promote(night.version, "parity test")
    serve_a_day(folder, config, users)
    return folder


def serve_a_day(folder, config, users):
    """Lists between late events, events of a type never seen, new and changed items, a wish to be
    forgotten; some requests bring their own history or items."""
    loaded = load_release(config)
    ids = [loaded.state.catalogue.id_of(i) for i in range(30)]
    end = loaded.moment - 1
    with service(folder / "recsys.yaml") as address, Client(address, timeout=60) as client:
        for number in range(LISTS):
            user, item = users[number], ids[number]
            late = to_time(end - (number % 5) * HOUR - 1)
            client.event(user, item, "rating" if number % 2 else "wish", timestamp=late)
            client.event("newcomer", ids[number + 1], "purchase", timestamp=late)
            client.recommend(user, k=10)
            client.recommend("newcomer", k=5, exclude=ids[:3], filters={"category": ["Drama"]})
            client.rank(user, ids[:20], context={"slot": 2})
            client.event(None, ids[number + 2], "purchase", session_id="visit", timestamp=late)
            client.recommend(None, k=5, session_id="visit", filters=EITHER, rules=RULES)
            if number == 3:
                client.put_item("fresh", title="A heist on the moon", tags=["Crime"])
                ids.append("fresh")
                until_encoded(client, "fresh")
            if number == 5:
                client.event(user, "fresh", "purchase", timestamp=late)
                client.put_item(ids[1], category="Documentary", tags=["Quiet"])
            if number == 8:
                client.forget_user(users[0])
                client.event(None, item, "purchase", session_id="earlier", timestamp=late)
                client.merge(users[2], "earlier")
        client.rank(users[1], [*ids[-5:], {"item_id": "inline", "title": "A train"}])
        client.rank(users[1], ids[:5], history=[{"item_id": ids[0], "event_type": "view"}])


EITHER = {"or": [{"tags": {"any": ["Drama", "Comedy"]}}, {"not": {"category": "Drama"}}]}
RULES = [
    Slot(name="promo", filters={"tags": "Crime"}, places=[2]),
    Bury(name="old", filters={"tags": "Drama"}),
]


def until_encoded(client, item_id):
    """A new item's text is encoded beside the requests; lists until then are left out."""
    for _ in range(1200):
        if any(found.score > 0 for found in client.similar(item_id, k=1)):
            return
        time.sleep(0.1)
    raise AssertionError("the text of a new item was never encoded")


def checked(folder):
    config = load_config(folder / "recsys.yaml")
    workspace = Workspace(config.workspace_path)
    reporter = Reporter(quiet=True)
    night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
    return served_parity.compare(night, read_data.drain(night).product)


def test_served_rows_are_the_rows_of_batch(folder):
    found = checked(folder)
    assert found.lists >= 2 * LISTS
    assert found.rows > 10 * LISTS
    # The text of an item that changed may still have been waiting for a list or two.
    assert found.left_out["history"] == 1
    assert set(found.left_out) <= {"history", "waiting"}
    assert {name: found.example[name] for name, d in found.worst.items() if d > LIMIT} == {}
    assert len(found.worst) > 30


def test_the_day_shows_in_the_rows(folder):
    """What the day brought is seen: without it the comparison would prove little."""
    samples = served_parity.read_samples(
        max((folder / "work" / "stages" / "drain").glob("*/impressions.parquet"))
    )
    config = load_config(folder / "recsys.yaml")
    registry = Registry(config)
    bundle = served_parity._bundle(registry, samples[0].version)
    assert len(bundle.features["features"]) == samples[0].served.features.shape[1]
    early, late = samples[3].served, samples[-3].served
    assert late.position > early.position
    assert {s.facts["recommended"] for s in samples} == {True, False}
    newcomer = [s.served.features for s in samples if s.served.user_id == "newcomer"]
    assert not np.array_equal(newcomer[0][0], newcomer[-1][0], equal_nan=True)


@pytest.mark.parametrize(("kind", "column"), [(UserActivity, "user.events.all"), (Trend, "trend.")])
def test_a_planted_skew_is_found_and_named(folder, monkeypatch, kind, column):
    name = "online" if kind is UserActivity else "read"
    honest = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, at: honest(self, at) + np.float32(0.01))
    found = checked(folder)
    broken = {name for name, d in found.worst.items() if d > LIMIT}
    assert any(name.startswith(column) for name in broken)
    assert all(name.startswith(("user.", "trend.")) for name in broken)
    checks = served_parity.checks(json.loads(json.dumps(found.facts())))
    assert not checks[0].passed
    assert {c.name for c in checks[1:]} == {f"served feature {name}" for name in broken}
    assert "served " in checks[1].detail
    assert "in batch " in checks[1].detail


def test_checking_features_scans_the_rows_of_the_last_night(folder, capsys, monkeypatch):
    """Compressed ones too, as those of a night of some size are."""
    monkeypatch.setattr(rest, "LEAST_BYTES", 0)
    rows = Workspace(folder / "work").newest_output("groups-ranker")
    rest.put_to_rest(rows, drop=False)
    assert not (rows / "x.npy").exists()
    assert main(["features", "check", "-c", str(folder / "recsys.yaml"), "--worlds", "1"]) == 0
    assert "columns of the last night's " in capsys.readouterr().out


def test_the_next_night_reports_it(folder):
    config = load_config(folder / "recsys.yaml")
    night = run_night(config)
    report = json.loads((night.report.parent / "report.json").read_text(encoding="utf-8"))
    names = [
        check[0] if isinstance(check, list) else check["name"]
        for check in report["context"]["parity"]
    ]
    assert any("served rows" in name for name in names)
    assert not [a for a in report["alarms"] if "served" in a]
