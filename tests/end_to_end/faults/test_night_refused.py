"""The real night on generated data: a registry that stops answering in the middle, a candidate made
worse on purpose, and planted leaks. The champion serves on, and the next run finishes."""

import io
import json
import re

import numpy as np
import pytest

from recsys.data_schemas.config import load_config
from recsys.features.feature_set import FeatureSet
from recsys.features.future_check import FutureUse
from recsys.ingestion.generator.world_settings import WorldSettings
from recsys.ingestion.generator.write import generate
from recsys.operations.cli.main import main
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry, RegistryError
from recsys.training import nightly
from recsys.training.night import (
    fit_ranker,
    fit_sources,
    test_lists,
)
from recsys.training.night.gate import REJECT
from recsys.training.nightly import run_night
from recsys.training.windows import Windows

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
    generate(
        WorldSettings(600, 150, 12, lists_per_user=1.0, early_users=0.4),
        folder,
        Reporter(quiet=True),
    )
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

    fit = fit_ranker.fit_ranker

    def spoiled(groups, columns, settings, **more):
        """Labels dealt anew within each group, for tonight's recipe only."""
        if settings.trees == 31:
            draw = np.random.default_rng(1)
            grade = groups.grade.copy()
            for low, high in zip(groups.offsets[:-1], groups.offsets[1:], strict=True):
                grade[low:high] = draw.permutation(grade[low:high])
            groups = type(groups)(**{**vars(groups), "grade": grade})
        return fit(groups, columns, settings, **more)

    monkeypatch.setattr(fit_ranker, "fit_ranker", spoiled)
    worse = config_of("work", trees=31)
    second = run_night(worse, reporter=Reporter(quiet=True))
    assert second.decision.action == REJECT
    lost = "FAILED: not worse than the champion (overall)"  # and what else shuffled labels spoil
    assert any(reason.startswith(lost) for reason in second.decision.reasons)
    registry = Registry(worse)
    assert registry.champion() == first.version
    assert registry.alias("challenger") is None
    assert registry.show(second.version).tags["gate"] == "reject"
    assert "not worse than the champion" in registry.show(second.version).tags["reasons"]
    assert "not worse than the champion" in second.report.read_text(encoding="utf-8")
    assert main(["nightly", "-c", str(world / "recsys.yaml")]) == 4


def test_a_night_without_a_ranker_says_so_and_takes_nobodys_place(
    config_of, monkeypatch, world, capsys
):
    """What its lists are worth does not matter: nobody meant to go without."""
    first = run_night(config_of("no-ranker"), reporter=Reporter(quiet=True))
    assert first.decision.promoted
    fit = fit_ranker.fit_ranker

    def nothing_to_learn_from(groups, columns, settings, **more):
        if settings.trees == 31:
            groups = type(groups)(**{**vars(groups), "grade": np.zeros_like(groups.grade)})
        return fit(groups, columns, settings, **more)

    monkeypatch.setattr(fit_ranker, "fit_ranker", nothing_to_learn_from)
    config = config_of("no-ranker", trees=31)
    assert main(["nightly", "-c", str(world / "recsys.yaml")]) == 4
    said = capsys.readouterr()
    assert "warning: the ranker is not fitted" in said.err
    assert "FAILED: the ranker is fitted, as the champion's" in said.out
    assert Registry(config).champion() == first.version
    page = max(config.workspace_path.glob("reports/*/report.html")).read_text(encoding="utf-8")
    assert "the ranker is not fitted, the fused recall ranks alone" in page[: page.index("<table")]


def test_better_for_many_and_worse_for_new_users_is_refused_by_that_segment(config_of, monkeypatch):
    first = run_night(config_of("segments"), reporter=Reporter(quiet=True))
    assert first.decision.promoted
    score, make_lists, seen = fit_ranker.score, test_lists.make_lists, []

    def remembered(night):
        seen.append(night.data.interactions)
        return make_lists(night)

    def partial(path, name, ranking):
        """The champion's recipe knows what new users want, tonight's what those with a history do."""
        found = score(path, name, ranking)
        facts = json.loads((path / "stage.json").read_text(encoding="utf-8"))
        tonight = facts["inputs"]["ranker"]["trees"] == 31
        moments, events = ranking.moments, seen[-1]
        known = [
            ((events.user == user) & (events.time < now)).any()
            for user, now in zip(moments.user, moments.time, strict=True)
        ]
        helped = np.repeat(np.array(known) == tonight, np.diff(ranking.table.offsets))
        return found + 100.0 * (helped & (ranking.table.grade > 0))

    worse = config_of("segments", trees=31)
    monkeypatch.setattr(test_lists, "make_lists", remembered)
    monkeypatch.setattr(fit_ranker, "score", partial)
    second = run_night(worse, reporter=Reporter(quiet=True))
    assert second.decision.action == REJECT, "\n".join(second.decision.reasons)
    assert second.decision.reasons[0].startswith("FAILED: not worse than the champion (new_users)")
    overall = next(r for r in second.decision.rules if "(overall)" in r.name)
    assert overall.passed
    assert "difference +" in overall.detail
    assert Registry(worse).champion() == first.version


def future_count_as_a_feature(monkeypatch):
    batch = FeatureSet.batch

    def peeking(features, rows, inputs):
        out = batch(features, rows, inputs)
        out[:, features.columns.index("age.item")] = FutureUse().batch(rows, inputs)
        return out

    monkeypatch.setattr(FeatureSet, "batch", peeking)
    return r"age\.item"


def events_of_the_test_in_training(monkeypatch):
    """Sources are fitted on all events, whatever the cut."""
    whole = []
    split, fit = nightly.read_data.split, fit_sources.fit_sources

    def remembered(*given):
        whole.append(split(*given))
        return whole[-1]

    def greedy(events, *given, **more):
        return fit(whole[-1].interactions, *given, **more)

    monkeypatch.setattr(nightly.read_data, "split", remembered)
    monkeypatch.setattr(fit_sources, "fit_sources", greedy)
    return r"test events? "


def model_of_later_rows(monkeypatch):
    """The encoder is fitted on everything up to the end of the data."""
    monkeypatch.setattr(Windows, "encoder_until", property(lambda windows: windows.end))
    return r"encoder"


@pytest.mark.parametrize(
    "plant", [future_count_as_a_feature, events_of_the_test_in_training, model_of_later_rows]
)
def test_a_planted_leak_is_named_on_the_first_screen_and_refused(
    config_of, monkeypatch, world, plant
):
    name = plant(monkeypatch)
    config_of(plant.__name__)
    tuned = "fine_tune: true, head_steps: 2, max_steps: 1"
    text = (world / "recsys.yaml").read_text(encoding="utf-8").replace("fine_tune: false", tuned)
    (world / "recsys.yaml").write_text(text, encoding="utf-8")
    assert main(["nightly", "-c", str(world / "recsys.yaml")]) == 4
    config = load_config(world / "recsys.yaml")
    assert Registry(config).champion() is None
    page = max(config.workspace_path.glob("reports/*/report.html")).read_text(encoding="utf-8")
    first_screen = page[: page.index("<table")]
    assert re.search(f"leak.*{name}", first_screen, re.IGNORECASE | re.DOTALL), first_screen[-3000:]
