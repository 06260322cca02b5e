"""Data that spoil the candidate and the champion's recipe alike: the champion's recorded lists tell."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import ExitCode
from recsys.operations.cli.main import main
from recsys.retrieval.collaborative.item_item import ItemItem
from recsys.storage.bundle import open_bundle
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.training.night.gate import REJECT
from recsys.training.nightly import run_night

pytestmark = pytest.mark.filterwarnings("default")
"""Third parties (MLflow, LightGBM) warn about each other here; ours are errors elsewhere."""

USERS, ITEMS, TASTES, DAYS, EACH = 60, 90, 3, 60, 12
DAY, START = 86_400_000_000, 1_600_000_000_000_000
LAST_DAY = START + (DAYS - 1) * DAY
RECORDED = "not worse than the champion's recorded lists"
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, fine_tune: false, max_tokens: 16}}
sources: {{use: [item_item, popular], tune: false, depth: 40, candidates: 30}}
ranker: {{trees: 3, seeds: 1, max_groups: 60, refit_all: true}}
evaluation: {{bootstrap: 50, examples: 1}}
drift: {{psi_stop: 50, share_stop: 1.0}}
gate: {{min_overlap: 0.0, max_score_shift: 100}}
"""


def laid_out(folder, model):
    """Users of six tastes, each buying within its own over sixty days."""
    draw = np.random.default_rng(5)
    (folder / "data").mkdir(parents=True)
    items = {
        "item_id": [f"i{i}" for i in range(ITEMS)],
        "title": [f"thing {i}" for i in range(ITEMS)],
    }
    pq.write_table(pa.table(items), folder / "data" / "items.parquet")
    users = np.repeat(np.arange(USERS), EACH)
    own = ITEMS // TASTES
    bought = np.concatenate(
        [u % TASTES + TASTES * draw.permutation(own)[:EACH] for u in range(USERS)]
    )
    times = draw.integers(0, DAYS * DAY, len(users)) + START
    order = np.argsort(times)
    write(folder, users[order], bought[order], times[order])
    (folder / "recsys.yaml").write_text(CONFIG.format(model=model), encoding="utf-8")
    return load_config(folder / "recsys.yaml")


def write(folder, users, bought, times):
    table = {
        "user_id": [f"u{u}" for u in users],
        "item_id": [f"i{i}" for i in bought],
        "event_type": ["purchase"] * len(users),
        "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(table), folder / "data" / "events.parquet")


def permuted(folder):
    """Each month's item ids dealt anew among its events: every count stays, no taste does."""
    events = pq.read_table(folder / "data" / "events.parquet")
    month = events["timestamp"].to_numpy().astype("datetime64[M]").astype(int)
    items, draw = np.array(events["item_id"].to_pylist()), np.random.default_rng(1)
    for one in np.unique(month):
        rows = np.flatnonzero(month == one)
        items[rows] = items[draw.permutation(rows)]
    place = events.column_names.index("item_id")
    pq.write_table(
        events.set_column(place, "item_id", pa.array(items)), folder / "data" / "events.parquet"
    )


def rule(decision, start):
    return next(r for r in decision.rules if r.name.startswith(start))


def without_a_source_the_night_goes_on_and_is_refused(config, monkeypatch, champion):
    """Found out when it is fitted on everything, after the recipe was tuned with it."""
    fit, config = ItemItem.fit, config.model_copy(update={"seed": 1})
    whole = None

    def breaks(cls, interactions, *args, **more):
        nonlocal whole
        if len(interactions) == USERS * EACH:
            whole = interactions
            raise MemoryError("no room for the neighbours")
        return fit(interactions, *args, **more)

    monkeypatch.setattr(ItemItem, "fit", classmethod(breaks))
    night = run_night(config, reporter=Reporter(quiet=True))
    assert whole is not None
    assert night.decision.action == REJECT
    lost = rule(night.decision, "sources of the champion that could not be fitted (item_item)")
    assert not lost.passed
    said = json.loads((night.report.parent / "report.json").read_text(encoding="utf-8"))
    why = "the source “item_item” could not be fitted, the night goes on without it: MemoryError"
    assert any(alarm.startswith(why) for alarm in said["context"]["alarms"])
    registry = Registry(config)
    assert registry.champion() == champion
    assert set(open_bundle(registry.local_path(night.version)).facts["recipe"]["dials"]) == {
        "popular"
    }


def what_was_judged_and_what_is_released_are_named(config, night):
    """The released ranker learned from the tested window's groups too."""
    said = json.loads((night.report.parent / "report.json").read_text(encoding="utf-8"))
    seen = said["context"]["seen"]
    assert "the tested window included" in seen["ranker, released"]
    assert "tested window" not in seen["ranker, evaluated"]
    registry = Registry(config)
    ranker = open_bundle(registry.local_path(night.version)).facts["ranker"]
    assert ranker["released"]["later"] > 0


def test_item_ids_dealt_anew_are_refused_by_the_recorded_lists(
    tmp_path, tiny_model, capsys, monkeypatch
):
    config = laid_out(tmp_path, tiny_model)
    first = run_night(config, until=LAST_DAY, reporter=Reporter(quiet=True))
    assert first.decision.promoted, "\n".join(first.decision.reasons)
    what_was_judged_and_what_is_released_are_named(config, first)
    sound = run_night(config, reporter=Reporter(quiet=True))
    assert sound.decision.promoted, "\n".join(sound.decision.reasons)
    assert rule(sound.decision, RECORDED).passed
    whole = (tmp_path / "data" / "events.parquet").read_bytes()
    permuted(tmp_path)
    assert main(["nightly", "-c", str(tmp_path / "recsys.yaml")]) == ExitCode.PROMOTION_REFUSED
    registry = Registry(config)
    assert registry.champion() == sound.version
    said = capsys.readouterr().out
    assert "FAILED: " + RECORDED in said
    # Its recipe fitted again sees nothing: it is spoilt alike.
    assert "passed: not worse than the champion (overall): the same lists" in said

    # Behind it, for its other seed tunes a recipe of its own.
    (tmp_path / "data" / "events.parquet").write_bytes(whole)
    without_a_source_the_night_goes_on_and_is_refused(config, monkeypatch, sound.version)
