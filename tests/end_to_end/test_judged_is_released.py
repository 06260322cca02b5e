"""What was judged is what goes live: the command's lists at a cut are the night's own, bit for bit.

A night's encoder, its sources as of a tested cut, its ranker and recipe are packed into a bundle, the
log ends at the cut, and `recsys recommend` is asked: whatever it computed at another moment, over
another history or with other features would show in the last digit.

And what was judged is what a night reaches: one that knows nothing from the cut on recommends lists that
are as good, by what was done after it, as those that the longer night judged there.
"""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.evaluation.lists import RankedLists
from recsys.evaluation.metrics import match, ndcg
from recsys.features.interactions import DAY
from recsys.features.state import OnlineState
from recsys.features.time_buckets import BUCKETS
from recsys.ingestion.generator import generate, settings_of
from recsys.operations.cli.main import main
from recsys.operations.open_release import load_release
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.storage.stages import StageResult, StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import (
    fit_ranker,
    fit_sources,
    ranking_data,
    read_data,
    refresh_encoder,
    release,
    test_lists,
)
from recsys.training.night.inputs import user_table
from recsys.training.night.night_context import Night
from recsys.training.night.release_check import counted_of_known

USERS = 240
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 4, max_steps: 1, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, transitions, als, text, popular, recent], tune: false, depth: 60, candidates: 50}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1, k: [10]}}
"""


def real_seconds(events):
    return events


def whole_days(events):
    """The same log of which only the day is known."""
    day = pc.cast(pc.floor_temporal(events["timestamp"], unit="day"), events["timestamp"].type)
    return events.set_column(events.schema.get_field_index("timestamp"), "timestamp", day)


def order_alone(events):
    """Each user's clicks on new items a day apart, all histories ending at the same moment."""
    clicks = events.filter(pc.equal(events["event_type"], "click"))
    first = clicks.group_by(["user_id", "item_id"]).aggregate([("timestamp", "min")])
    events = pa.table(
        {
            "user_id": first["user_id"],
            "item_id": first["item_id"],
            "event_type": pa.array(["click"] * len(first)),
            "timestamp": first["timestamp_min"],
        }
    )
    order = pc.sort_indices(events, [("user_id", "ascending"), ("timestamp", "ascending")])
    events = events.take(order)
    users = events["user_id"].to_pylist()
    left = np.zeros(len(users), np.int64)
    for row in range(len(users) - 2, -1, -1):
        left[row] = left[row + 1] + 1 if users[row] == users[row + 1] else 0
    end = np.int64(17_000) * DAY
    times = pa.array(end - left * DAY, pa.timestamp("us", tz="UTC"))
    return events.set_column(events.schema.get_field_index("timestamp"), "timestamp", times)


class JudgedNight:
    """A night up to its judged lists, and its parts packed as of one tested cut."""

    def __init__(self, folder):
        self.folder, self.config = folder, load_config(folder / "recsys.yaml")
        workspace = Workspace(self.config.workspace_path)
        reporter = Reporter(quiet=True)
        self.night = night = Night(
            self.config, workspace, StageRunner(workspace, reporter), reporter
        )
        night.tables = read_data.validate(night)
        night.data = self.data = read_data.split(
            night, read_data.load(night.tables.product, night.config)
        )
        night.encoded = refresh_encoder.refresh(night)
        night.recipe = fit_sources.tune(night)
        night.learned = ranking_data.build_ranking_data(night, "ranker")
        night.tested = ranking_data.build_ranking_data(night, "test")
        self.tested = night.tested.product
        night.rankers = night.served = fit_ranker.fit(night)
        self.lists = test_lists.make_lists(night).product[0]

    def with_seed(self, seed):
        """Lists int32[M, K] of the same night's ranker by another seed."""
        side = self.night.beside(config=self.config.model_copy(update={"seed": seed}))
        score = fit_ranker.score(fit_ranker.fit(side).product, "full", self.tested)
        return test_lists.best_of(score, self.tested, test_lists.caps_of(self.night))[0]

    def at(self, cut):
        """{user id: (item ids, scores)} that the night judged at a cut."""
        lists, moments, found = self.lists, self.tested.moments, {}
        for m in np.flatnonzero(moments.time == cut):
            held = lists.items[m] >= 0
            ids = [self.data.tables.catalogue.id_of(int(i)) for i in lists.items[m][held]]
            user = str(self.data.interactions.user_ids[moments.user[m]])
            found[user] = (ids, lists.scores[m][held].tolist())
        return found

    def release_as_of(self, cut):
        """Make the parts as of a cut the champion, over a log that ends there."""
        data = self.data
        known = data.known.before(cut)
        earlier = replace(
            data,
            interactions=data.interactions.before(cut),
            known=known,
            windows=replace(data.windows, end=cut),
        )
        folder = self.night.workspace.path / "as of the cut"
        OnlineState.build(
            known,
            data.tables.catalogue,
            bucket_us=BUCKETS[self.config.features.bucket],
            windows_us=release.state_windows(self.night),
            log_position=-1,
            users=user_table(data.tables),
            meaning=data.meaning,
            impressions=data.tables.impressions,
        ).save(folder)
        night = self.night.beside(
            data=earlier,
            state=StageResult("state", "cut", folder, {}, skipped=False, reason="the test's own"),
            released=fit_sources.fit_as_of(self.night, data.interactions, cut),
        )
        registry = Registry(self.config)
        version = registry.register(release.bundle(night).product, tags={}, metrics={})
        registry.promote(version, "test")
        release.publish_state(night)


@pytest.fixture(scope="module", params=[real_seconds, whole_days, order_alone])
def judged(request, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "world"
    generate(
        settings_of(users=USERS, items=120, days=20, events_per_user=20),
        folder,
        Reporter(quiet=True),
    )
    (folder / "recsys.yaml").write_text(CONFIG.format(model=tiny_model), encoding="utf-8")
    events = pq.read_table(folder / "data" / "events")
    pq.write_table(request.param(events), folder / "data" / "events.parquet")
    found = JudgedNight(folder)
    expected = "ordinal" if request.param is order_alone else "time"
    assert found.data.windows.scheme == expected
    return found


def recommended(folder, out):
    """user id → their row, by the command."""
    words = ["recommend", "-c", str(folder / "recsys.yaml"), "--all-users", "--k", "50"]
    assert main([*words, "--out", str(out)]) == 0
    return {row["user_id"]: row for row in pq.read_table(out).to_pylist()}


def test_the_command_gives_the_judged_lists_to_the_last_bit(judged, tmp_path):
    cut = judged.data.windows.test[-1]
    expected = judged.at(cut)
    assert len(expected) >= 5
    judged.release_as_of(cut)
    rows = recommended(judged.folder, tmp_path / "lists.parquet")
    known = [user for user in expected if user in rows]  # the others are new: nobody asks for them
    assert len(known) >= 5
    for user in known:
        ids, scores = expected[user]
        n = len(ids)
        assert rows[user]["item_ids"][:n] == ids
        np.testing.assert_array_equal(np.float32(rows[user]["scores"][:n]), np.float32(scores))
    the_release_check_sees_a_moment_that_nothing_practised(judged, cut)


def the_release_check_sees_a_moment_that_nothing_practised(judged, cut):
    """Asked inside a bucket, just after the last event, counters miss what every model score knows."""
    loaded = load_release(judged.config)
    data = replace(judged.data, known=judged.data.known.before(cut))
    assert counted_of_known(loaded, data) == 1.0

    class Early(type(loaded)):
        moment = property(lambda self: self.state.last_time() + 1)

    loaded.__class__ = Early
    assert counted_of_known(loaded, data) < 0.999


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_night_that_ends_at_the_cut_recommends_as_well_as_was_judged_there(judged, tmp_path):
    cut = judged.data.windows.test[-1]
    folder = known_before(judged, cut, tmp_path / "before")
    assert main(["nightly", "-c", str(folder / "recsys.yaml")]) == 0
    rows = recommended(folder, tmp_path / "lists.parquet")
    moments, catalogue = judged.tested.moments, judged.data.tables.catalogue
    users = judged.data.interactions.user_ids[moments.user].astype(str)
    asked = np.array([m for m in np.flatnonzero(moments.time == cut) if users[m] in rows])
    assert len(asked) >= 30
    truth = moments.take(asked)

    def quality(lists):
        """nDCG@10 of each list of items, float64[G]."""
        lists = RankedLists.of("lists", [(items, np.zeros(len(items))) for items in lists], 10)
        return ndcg(match(truth, lists), 10)

    own = quality([catalogue.indices_of(rows[users[m]]["item_ids"]) for m in asked])
    first = quality(judged.lists.items[asked])
    seeds = [first, *(quality(judged.with_seed(seed)[asked]) for seed in (11, 12))]

    def gap_in_spreads(values):
        """How far from what was judged, in standard errors: by seeds, and by who was asked."""
        gap = values - np.mean(seeds, axis=0)
        by_seed = np.std([np.mean(of) for of in seeds], ddof=1)
        return abs(gap.mean()) / np.hypot(by_seed, gap.std(ddof=1) / len(gap) ** 0.5)

    assert gap_in_spreads(own) < 3
    # So many people are enough to see lists that went to the wrong ones.
    assert (
        own.mean()
        > quality([catalogue.indices_of(rows[u]["item_ids"]) for u in wrong(users[asked])]).mean()
    )


def wrong(users):
    """Each user's neighbour."""
    return np.roll(users, 1)


def known_before(judged, cut, folder):
    """The same world up to a moment."""
    (folder / "data").mkdir(parents=True)
    for file in ("recsys.yaml", "data/items.parquet"):
        shutil.copyfile(judged.folder / file, folder / file)
    events = pq.read_table(judged.folder / "data" / "events.parquet")
    until = pa.scalar(cut, pa.timestamp("us", tz="UTC"))
    before = events.filter(pc.less(pc.cast(events["timestamp"], until.type), until))
    pq.write_table(before, folder / "data" / "events.parquet")
    return folder
