"""The generated log shows what its truth says, and the same seed gives the same bytes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import DAY
from recsys.ingestion.generator import generate, settings_of
from recsys.ingestion.generator.simulate import (
    _chunk,
    day_policy,
    examination,
    pilot,
    simulate_day,
)
from recsys.ingestion.generator.topics import NAMES
from recsys.ingestion.generator.topics import TOPICS as WORDS_OF
from recsys.ingestion.generator.world import TOPICS, item_texts, make_world
from recsys.ingestion.generator.world_settings import BEHAVIOURS
from recsys.ingestion.tables.ingest import ingest
from recsys.storage.files import files_below, hash_file
from recsys.storage.progress import Reporter

SMALL = settings_of(users=400, items=200, days=4, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("generated") / "log"
    generate(SMALL, place, Reporter(quiet=True))
    return place


@pytest.fixture(scope="module")
def world():
    return make_world(settings_of(users=3000, items=500, days=6, seed=5))


@pytest.fixture(scope="module")
def chunk(world):
    """20,000 lists of one user type mix on one day."""
    draw = np.random.default_rng(1)
    user = draw.integers(0, 3000, 20_000).astype(np.int32)
    start = world.settings.start
    return _chunk(world, day_policy(world, 2), draw, user, np.full(20_000, start), start + 9 * DAY)


def test_same_seed_same_bytes(folder, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    generate(SMALL, again, Reporter(quiet=True))
    generate(settings_of(users=400, items=200, days=4, seed=12), other, Reporter(quiet=True))
    names = files_below(folder)
    assert files_below(again) == names
    assert all(hash_file(folder / n) == hash_file(again / n) for n in names)
    events = next(n for n in names if n.startswith("data/events"))
    assert hash_file(folder / events) != hash_file(other / events)


def test_tables_are_accepted_whole(folder, tmp_path):
    summary = ingest(load_config(folder / "recsys.yaml"), tmp_path / "tables")
    truth = json.loads((folder / "truth.json").read_text())
    for table, rows in truth["rows"].items():
        assert summary["tables"][table]["accepted"] == rows > 0
        assert summary["tables"][table]["quarantined"] == 0
    assert summary["resolution"]["kind"] == "seconds"
    assert set(summary["event_types"]) == {b.name for b in BEHAVIOURS}
    assert summary["item_attributes"] == ["price"]
    assert summary["user_attributes"] == ["hobby", "country"]


def test_partitions_hold_their_day_in_order(folder):
    days = sorted((folder / "data" / "events").iterdir())
    assert len(days) == 4
    for day in days:
        times = np.concatenate(
            [pq.read_table(f)["timestamp"].to_numpy() for f in sorted(day.iterdir())]
        )
        assert (np.diff(times) >= np.timedelta64(0)).all()
        assert {str(t)[:10] for t in times} == {day.name.removeprefix("day=")}


def test_items_arrive_over_time_and_only_then_are_shown(world):
    created = world.created_at
    start, end = world.settings.start, world.settings.start + 6 * DAY
    assert 0.5 < (created < start).mean() < 0.7
    assert created.max() < end
    for day in (0, 5):
        for part in simulate_day(world, day):
            assert (created[part.item] <= np.repeat(part.shown_at, part.length)).all()
            assert (world.joined[part.user] <= day).all()


def test_lists_repeat_no_item(chunk):
    lists = np.repeat(np.arange(len(chunk.length)), chunk.length)
    assert len(np.unique(np.stack([lists, chunk.item]), axis=1).T) == len(chunk.item)


def test_propensities_are_the_shown_frequencies(world, chunk):
    """First places: an item's expected share over users equals how often it was shown."""
    policy = day_policy(world, 2)
    explore = world.settings.explore
    topic = (1 - explore) * world.user_topics[chunk.user] + explore / TOPICS
    expected = np.zeros(world.settings.items)
    expected[policy.items] = topic.mean(axis=0)[world.item_topic[policy.items]] * policy.share
    assert expected.sum() == pytest.approx(1, abs=1e-4)
    first = np.concatenate([[0], chunk.length.cumsum()[:-1]])
    shown = np.bincount(chunk.item[first], minlength=world.settings.items) / len(first)
    error = np.sqrt(expected * (1 - expected) / len(first))
    assert (np.abs(shown - expected) < 5 * error + 1e-9).all()
    assert (chunk.propensity > 0).all()
    assert (chunk.propensity <= 1).all()


def test_propensity_of_a_later_place_leaves_out_the_earlier(world, chunk):
    policy = day_policy(world, 2)
    share = np.zeros(world.settings.items)
    share[policy.items] = policy.share
    explore = world.settings.explore
    first = np.concatenate([[0], chunk.length.cumsum()[:-1]])
    for row in (0, 17):
        interest = (1 - explore) * world.user_topics[chunk.user[row]] + explore / TOPICS
        items = chunk.item[first[row] : first[row] + 3]
        p = interest[world.item_topic[items]] * share[items]
        expected = [p[0], p[1] / (1 - p[0]), p[2] / (1 - p[0] - p[1])]
        assert chunk.propensity[first[row] : first[row] + 3] == pytest.approx(expected, rel=1e-4)


def test_position_bias_is_what_the_truth_says(world, chunk):
    """Views per place, at equal liking, follow the examination curve."""
    first = np.concatenate([[0], chunk.length.cumsum()[:-1]])
    lists = np.repeat(np.arange(len(chunk.length)), chunk.length)
    place = np.arange(len(chunk.item)) - first[lists]
    view = BEHAVIOURS[0]
    liking = world.affinity(chunk.user[lists], chunk.item)
    viewed_if_seen = 1 / (1 + np.exp(-(view.base + view.slope * liking)))
    views = np.bincount(place[chunk.event_place[chunk.event_kind == 0]], minlength=10)
    expected = np.bincount(place, viewed_if_seen, minlength=10) * examination(world.settings)
    assert views == pytest.approx(expected, rel=0.06)


def test_behaviours_have_their_own_rates_and_order(chunk):
    counts = np.bincount(chunk.event_kind, minlength=5)
    view, click, comment, share, purchase = counts
    assert view > click > purchase > 0
    assert min(comment, share) > 0
    clicked = set(chunk.event_place[chunk.event_kind == 1].tolist())
    assert set(chunk.event_place[chunk.event_kind == 4].tolist()) <= clicked
    assert (np.diff(chunk.event_time) >= 0).all()


def test_what_is_liked_is_clicked_more(world, chunk):
    lists = np.repeat(np.arange(len(chunk.length)), chunk.length)
    liking = world.affinity(chunk.user[lists], chunk.item)
    clicked = np.zeros(len(liking), bool)
    clicked[chunk.event_place[chunk.event_kind == 1]] = True
    assert liking[clicked].mean() > liking[~clicked].mean() + 0.5


def test_affinity_is_standardised(world):
    draw = np.random.default_rng(0)
    user, item = draw.integers(0, 3000, 50_000), draw.integers(0, 500, 50_000)
    liking = world.affinity(user.astype(np.int32), item.astype(np.int32))
    assert abs(liking.mean()) < 0.15
    assert 0.8 < liking.std() < 1.5


def test_texts_tell_of_the_topic(world):
    texts = item_texts(world, 0, 500)
    right = 0
    for row in range(500):
        words = (texts["title"][row].as_py() + " " + texts["description"][row].as_py()).split()
        topics = [sum(w in WORDS_OF[n].split() for w in words) for n in NAMES]
        right += int(np.argmax(topics)) == world.item_topic[row]
        assert texts["tags"][row].as_py()[0] == NAMES[world.item_topic[row]]
    assert right > 380


def test_topics_drift(world):
    walk = world.topic_popularity
    assert walk.shape == (6, TOPICS)
    assert np.abs(np.diff(walk, axis=0)).mean() == pytest.approx(0.08 * 0.8, rel=0.3)


def test_events_per_user_sets_the_rate(tmp_path):
    settings = settings_of(users=500, items=300, days=5, seed=3, events_per_user=20)
    counts = generate(settings, tmp_path / "x", Reporter(quiet=True))
    # 70 % of the users are there from the first day, the others half of the days on average.
    assert counts["events"] == pytest.approx(500 * 20 * 0.85, rel=0.25)
    assert pilot(settings) > 0


def test_a_full_folder_is_refused(folder):
    with pytest.raises(UsageError, match="not empty"):
        generate(SMALL, folder, Reporter(quiet=True))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"users": 0}, "--users"),
        ({"items": 1}, "--items"),
        ({"days": 0}, "--days"),
        ({"seed": -1}, "--seed"),
        ({"lists_per_user": 0.0}, "--lists-per-user"),
        ({"lists_per_user": 1.0, "events_per_user": 1.0}, "--events-per-user"),
    ],
)
def test_wrong_numbers_are_named(wrong, name):
    with pytest.raises(UsageError) as caught:
        settings_of(**({"users": 10, "items": 10, "days": 2} | wrong))
    assert name in caught.value.render()


def test_smallest_world(tmp_path):
    counts = generate(settings_of(users=1, items=2, days=1), tmp_path / "x", Reporter(quiet=True))
    assert counts["items"] == 2
    assert Path(tmp_path / "x" / "recsys.yaml").is_file()
