"""A workspace that is moved with its data, or mounted elsewhere, makes nothing again: no key holds a path."""

import io
import json
import re
import shutil

import pytest

from recsys.data_schemas.config import load_config
from recsys.storage.progress import Reporter
from recsys.storage.stages.identity import MARKER
from recsys.training.nightly import run_night

USERS = 30
CONFIG = """
data: {{items: data/items.parquet, events: data/*.parquet}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, fine_tune: false, max_tokens: 16}}
sources: {{use: [item_item, text, popular, bm25], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 10, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
serving: {{timeout_ms: 60000}}
"""

pytestmark = pytest.mark.filterwarnings("default")
"""LightGBM and MLflow warn of their own parts here; our warnings are errors elsewhere."""


@pytest.fixture(scope="module")
def moved(slice_of_movies, tiny_model, tmp_path_factory):
    """(the config in the new place, the old place), with everything moved: data, model, workspace."""
    old = tmp_path_factory.mktemp("here") / "shop"
    slice_of_movies(old, USERS, "")
    (old / "data" / "log").mkdir()
    (old / "data" / "events.parquet").rename(old / "data" / "log" / "events.parquet")
    model = shutil.copytree(tiny_model, old / "model")
    text = CONFIG.replace("data/*.parquet", "data/log/*.parquet")
    (old / "recsys.yaml").write_text(text.format(model=model), encoding="utf-8")
    run_night(load_config(old / "recsys.yaml"), reporter=Reporter(quiet=True))
    new = tmp_path_factory.mktemp("elsewhere") / "mounted" / "store"
    new.parent.mkdir()
    shutil.move(old, new)
    (new / "recsys.yaml").write_text(text.format(model=new / "model"), encoding="utf-8")
    return load_config(new / "recsys.yaml"), old


def test_no_key_holds_a_path_of_this_machine(moved):
    config, old = moved
    markers = sorted((config.workspace_path / "stages").glob(f"*/*/{MARKER}"))
    assert len(markers) > 15
    for marker in markers:
        made_from = json.loads(marker.read_text(encoding="utf-8"))
        held = json.dumps([made_from["inputs"], made_from["code"]])
        assert not re.search(r'"[^"]*/(tmp|home|root|shop)/', held), marker
        assert str(old.parent) not in held


def test_every_stage_of_a_moved_workspace_is_unchanged(moved):
    config, old = moved
    assert not old.exists()
    foreseen = run_night(config, dry_run=True, reporter=Reporter(quiet=True))
    assert foreseen.unchanged, foreseen.lines
    said = io.StringIO()
    run_night(config, reporter=Reporter(said))
    assert "running because" not in said.getvalue()
    assert "unchanged" in said.getvalue()


def test_another_model_or_another_table_is_told_by_what_it_holds(moved):
    config, _ = moved
    file = config.path("model") / "config.json"
    kept = file.read_bytes()
    file.write_bytes(kept + b"\n")
    from recsys.training.night import night_context

    night_context._content_of.cache_clear()
    try:
        again = run_night(config, dry_run=True, reporter=Reporter(quiet=True))
    finally:
        file.write_bytes(kept)
        night_context._content_of.cache_clear()
    assert any(line.startswith("encoder: would run") for line in again.lines), again.lines
    assert again.lines[-1].startswith("… what follows depends on the output of ")
