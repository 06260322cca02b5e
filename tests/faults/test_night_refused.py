"""The real night on generated data: a registry that stops answering in the middle, and a candidate
made worse on purpose. The champion serves on, and the next run finishes."""

import io

import numpy as np
import pytest

from data_schemas.config import load_config
from recsys.cli.main import main
from recsys.generator.settings import Settings
from recsys.generator.write import generate
from recsys.progress import Reporter
from recsys.registry import Registry, RegistryError
from training.night import ranker
from training.night.gate import REJECT
from training.nightly import run_night

CONFIG = """
data: {{items: data/items.parquet, events: data/events, users: data/users.parquet}}
workspace: {workspace}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 2}}
encoder: {{model: {model}, fine_tune: false, max_tokens: 16}}
sources: {{use: [item_item, popular], tune: false, depth: 80, candidates: 60}}
ranker: {{trees: {trees}, seeds: 1}}
evaluation: {{bootstrap: 200, examples: 1, max_users: 600}}
gate: {{min_group: 20}}
"""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """600 users, 150 items, 12 days."""
    folder = tmp_path_factory.mktemp("refused") / "world"
    generate(Settings(600, 150, 12, lists_per_user=1.0), folder, Reporter(quiet=True))
    return folder


@pytest.fixture
def config_of(world, tiny_model):
    def write(workspace, trees=30):
        text = CONFIG.format(workspace=workspace, model=tiny_model, trees=trees)
        (world / "recsys.yaml").write_text(text, encoding="utf-8")
        return load_config(world / "recsys.yaml")

    return write


def test_shuffled_labels_are_rejected_and_an_absent_registry_costs_no_stage(
    config_of, monkeypatch, world
):
    config = config_of("work")
    register = Registry._register

    def away(self, *args):
        monkeypatch.setattr(Registry, "_register", register)
        raise ConnectionError("the registry is away")

    monkeypatch.setattr(Registry, "_register", away)
    with pytest.raises(RegistryError, match="failed while registering"):
        run_night(config, reporter=Reporter(quiet=True))
    assert Registry(config).list() == []
    said = io.StringIO()
    first = run_night(config, reporter=Reporter(said))
    assert "running because" not in said.getvalue()
    assert first.decision.promoted

    fit = ranker.fit_ranker

    def spoiled(groups, columns, settings, **more):
        """Labels dealt anew within each group, for tonight's recipe only."""
        if settings.trees == 31:
            draw = np.random.default_rng(1)
            grade = groups.grade.copy()
            for low, high in zip(groups.offsets[:-1], groups.offsets[1:], strict=True):
                grade[low:high] = draw.permutation(grade[low:high])
            groups = type(groups)(**{**vars(groups), "grade": grade})
        return fit(groups, columns, settings, **more)

    monkeypatch.setattr(ranker, "fit_ranker", spoiled)
    worse = config_of("work", trees=31)
    second = run_night(worse, reporter=Reporter(quiet=True))
    assert second.decision.action == REJECT
    assert second.decision.reasons[0].startswith("FAILED: not worse than the champion (overall)")
    registry = Registry(worse)
    assert registry.champion() == first.version
    assert registry.alias("challenger") is None
    assert registry.show(second.version).tags["gate"] == "reject"
    assert "not worse than the champion" in registry.show(second.version).tags["reasons"]
    assert "not worse than the champion" in second.report.read_text(encoding="utf-8")
    assert main(["nightly", "-c", str(world / "recsys.yaml")]) == 4
