"""A small night's groups over generated data with impressions, and over the same without them."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.features.kinds.request_value import Context
from recsys.ingestion.generator.settings_of import settings_of
from recsys.ingestion.generator.write import generate
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import (
    fit_ranker,
    leakage,
    position_weights,
    ranking_data,
    read_data,
    tune_encoder,
)
from recsys.training.night.night_context import Night
from recsys.training.night.products import TEXT, Recipe

CONFIG = """
data: {{items: data/items.parquet, events: data/events, impressions: data/impressions}}
workspace: work-{name}
clock: end_of_data
windows: {{cuts: 2}}
features: {{own: ["{own}"]}}
sources: {{depth: 40, candidates: 30}}
ranker: {{trees: 5, seeds: 1}}
"""
RECIPE = Recipe({"popular": {}, "item_item": {}}, {}, {})

pytestmark = pytest.mark.filterwarnings("default")
"""LightGBM warns of its own parts here; our warnings are errors elsewhere."""


@dataclass(frozen=True)
class Device(Context):
    """What the request says of its device."""

    name: str = "device"
    values: tuple[str, ...] = ("desk", "phone")


def told_by_phone(place):
    """Let every third list's request have said that it came from a phone, the others from a desk."""
    for file in sorted((place / "data" / "impressions").rglob("*.parquet")):
        table = pq.read_table(file)
        said = [
            '{"device": "phone"}' if n % 3 == 0 else '{"device": "desk"}' for n in range(len(table))
        ]
        pq.write_table(table.append_column("context", pa.array(said)), file)


class Job:
    """A night up to its ranker, without an encoder."""

    def __init__(self, folder, name, silent, impressions=True):
        file = folder / f"{name}.yaml"
        file.write_text(CONFIG.format(name=name, own=f"{__name__}:Device"), encoding="utf-8")
        config = load_config(file)
        workspace = Workspace(config.workspace_path)
        reporter = Reporter(quiet=True)
        self.said = []
        reporter.say = self.said.append
        self.night = Night(config, workspace, StageRunner(workspace, reporter), reporter)
        self.night.workers = 1
        self.night.tables = read_data.validate(self.night)
        self.data = read_data.split(
            self.night, read_data.load(self.night.tables.product, self.night.config)
        )
        if not impressions:
            tables = replace(self.data.tables, impressions=None)
            self.data = replace(self.data, tables=tables)
        self.night.data, self.night.recipe = self.data, RECIPE
        self.night.encoded = SimpleNamespace(
            source=lambda: silent, vectors=lambda: None, vectors_stage=SimpleNamespace(key="none")
        )
        self.night.learned = ranking_data.build_ranking_data(self.night, "ranker")
        self.rows = self.night.learned.product

    def column(self, name):
        return self.rows.x[:, self.rows.features.columns.index(name)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shown") / "generated"
    settings = settings_of(users=150, items=80, days=14, lists_per_user=1.0)
    generate(settings, place, Reporter(quiet=True))
    told_by_phone(place)
    return place


@pytest.fixture(scope="module")
def job(folder, silent):
    return Job(folder, "shown", silent)


@pytest.fixture(scope="module")
def silent():
    """In the place of the text source."""
    from recsys.features.protocols import Recalled

    return SimpleNamespace(
        name=TEXT,
        columns=("score",),
        fit_until=0,
        score=lambda history, items, now: np.full((len(items), 1), np.nan, np.float32),
        recall=lambda *_: Recalled(np.empty(0, np.int32), np.empty(0, np.float32)),
        save=None,
        load=None,
    )


def test_lists_of_the_rankers_windows_are_groups_beside_those_of_recall(job):
    rows, windows = job.rows, job.data.windows
    now = rows.moments.time
    assert set(now[~rows.shown].tolist()) <= set(windows.ranker)
    assert ((now[rows.shown] >= windows.ranker[0]) & (now[rows.shown] < windows.test[0])).all()
    groups = rows.groups()
    learned = rows.shown[groups.with_positive()]
    assert 50 < learned.sum() == rows.shown.sum()
    assert learned.mean() <= ranking_data.SHOWN_SHARE
    sizes = np.diff(groups.offsets)[rows.shown]
    assert ((sizes >= 2) & (sizes <= 10)).all()
    assert (groups.relevant[rows.shown] < sizes).all()


def test_a_lists_time_is_its_own(job):
    """Within a cut recall's moments have one hour; lists have those at which they were shown."""
    per_row = np.repeat(job.rows.shown, np.diff(job.rows.table.offsets))
    hours = job.column("time.of_day")
    assert not np.isnan(hours).any()
    assert len(np.unique(hours[~per_row])) <= len(job.data.windows.ranker)
    assert len(np.unique(np.floor(hours[per_row]))) > 12
    first = job.rows.table.offsets[:-1][job.rows.shown]
    day = 24 * 3600 * 1_000_000
    np.testing.assert_allclose(hours[first] / 24, job.rows.moments.time[job.rows.shown] % day / day)
    assert len(np.unique(job.column("time.of_week")[per_row])) > 1


def test_what_a_request_said_is_known_of_its_list(job):
    """A cut says nothing; a list's request said one of two things."""
    per_row = np.repeat(job.rows.shown, np.diff(job.rows.table.offsets))
    device = job.column("context.device")
    assert np.isnan(device[~per_row]).all()
    assert set(device[per_row].tolist()) == {0.0, 1.0}


def test_a_list_does_not_know_what_was_done_with_it(job):
    """What was taken of a list is as new to its user as what was left, unless there is a past."""
    rows, events = job.rows, job.data.interactions
    groups = rows.groups()
    since = job.column("recency.item")
    for g in np.flatnonzero(rows.shown)[:100]:
        part = slice(groups.offsets[g], groups.offsets[g + 1])
        user, now = rows.moments.user[g], rows.moments.time[g]
        before = events.item[(events.user == user) & (events.time < now)]
        known = ~np.isnan(since[part])
        assert set(rows.table.items[part][known].tolist()) <= set(before.tolist())


def test_the_ranker_learns_from_both_and_says_so(job, monkeypatch):
    monkeypatch.setattr(fit_ranker, "ABLATIONS", {})
    fitted = fit_ranker.fit(job.night)
    found = len(job.rows.groups().with_positive())
    said = f"{found:,} groups, {int(job.rows.shown.sum()):,} of them impressions"
    assert f"ranker: {said}" in job.said
    assert fitted.facts["learned from"] == said


def test_labels_of_lists_are_weighted_by_place(job):
    weight = position_weights.place_weights(job.night).weight
    per_row = np.repeat(job.rows.shown, np.diff(job.rows.table.offsets))
    acted = job.rows.table.grade > 0
    assert (weight[per_row & acted] > 1).mean() > 0.3
    assert (weight[~acted] == 1).all()


def test_lists_that_a_rule_of_the_shop_moved_teach_nothing(job, monkeypatch):
    """Neither which items were left, nor what places do, nor the encoder; shown they were all the same."""
    shown = job.data.tables.impressions
    ruled = np.arange(len(shown)) % 2 == 0

    def with_lists(lists):
        return replace(job.data, tables=replace(job.data.tables, impressions=lists))

    marked = with_lists(replace(shown, ruled=ruled))
    without = with_lists(shown.take(np.flatnonzero(~ruled)))
    groups, alone = ranking_data.shown_groups(marked), ranking_data.shown_groups(without)
    assert 20 < len(groups.lists) < len(ranking_data.shown_groups(job.data).lists)
    assert groups.moments.time.tolist() == alone.moments.time.tolist()
    learned = marked.tables.ranked_lists
    assert learned.time[groups.lists].tolist() == groups.moments.time.tolist()
    biases = []
    for data in (marked, without, job.data):
        monkeypatch.setattr(job.night, "data", data)
        biases.append(list(position_weights.place_weights(job.night).bias.examination))
    assert biases[0] == biases[1] != biases[2]
    lists = [tune_encoder.shown_before(data, data.windows.test[0]) for data in (marked, without)]
    for name in ("time", "user", "items"):
        assert getattr(lists[0], name).tolist() == getattr(lists[1], name).tolist()
    assert len(marked.tables.impressions) == len(shown), "what is counted by item"
    now = job.data.windows.test[0]
    assert marked.key_before(now) != job.data.key_before(now)


def test_recall_and_lists_are_never_mixed_in_the_leak_scan(job):
    offsets, first = job.rows.table.offsets, int((~job.rows.shown).sum())
    _, grade, group = leakage.sampled(job.rows)
    assert len(grade) == offsets[first]
    assert group.max() < first
    x, grade, group = leakage.sampled(job.rows, shown=True)
    assert len(x) == len(grade) == len(group) == offsets[-1] - offsets[first]
    assert len(np.unique(group)) == job.rows.shown.sum()


def test_the_test_has_no_lists(job):
    assert not ranking_data.build_ranking_data(job.night, "test").product.shown.any()


def test_without_impressions_recalls_groups_are_the_same(folder, silent, job):
    plain = Job(folder, "plain", silent, impressions=False)
    assert not plain.rows.shown.any()
    assert (
        fit_ranker.learned_from(plain.rows)
        == f"{len(plain.rows.groups().with_positive()):,} groups"
    )
    recalled = int((~job.rows.shown).sum())
    offsets = job.rows.table.offsets[: recalled + 1]
    assert plain.rows.table.offsets.tolist() == offsets.tolist()
    items = job.rows.table.items[: offsets[-1]]
    assert plain.rows.table.items.tolist() == items.tolist()
    assert plain.rows.table.grade.tolist() == job.rows.table.grade[: offsets[-1]].tolist()
