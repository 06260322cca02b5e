"""Names as people and engines have them, through a whole small night and a ranking call.

The workspace's path, attributes of items and users, event types, users and items, all at once.
"""

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.limits import NAME_LENGTH, name_fault
from recsys.data_schemas.log_record import LogRecord
from recsys.operations.open_release import state_folder
from recsys.query import RankingQuery
from recsys.recommender import LoadedRelease
from recsys.storage.bundle import open_bundle
from recsys.storage.registry import Registry
from recsys.training.nightly import run_night

FOLDER = "мой shop #1 [2] &'q\" 100%20 why? {x}"
ATTRIBUTES = [
    "rowid", "file_row_number", "filename", "__path", "__file", "__row", "__rule", "c0", "a0",
    "order", "select", "index", "label", "size, cm", "brand name", '["x"]', "{y}: z", 'say "hi"',
    "it's", "a,b", "price ($)", "$x$", "цена, руб", "價格", "😀", "100%", "%41", " spaced ", "x.y", "x/y",
    "\\", "A", "value", "event_type", "history", "score", "als", "popular", "text", "<b>", "x" * NAME_LENGTH,
    "=", "any", "on", "null", "1",
]  # fmt: skip
OF_USERS = ["events.all", "any.7d", "item.share", "страна", 'age "years"', "item_id", "rowid", "on"]
TYPES = ["any", "events", "shown", "on", "null", "a b", "it's", '"', "купил", "rating"]
ITEM_IDS = [
    "a/b",
    "100%",
    "50%25",
    "q?z=1",
    "h#1",
    "ключ",
    "😀",
    "..",
    "a\\b",
    'q"q',
    "it's",
    "<b>",
]
USER_IDS = ["u/1", "ü", "null", "a b", "100%", "'; drop table users; --"]
START = datetime(2024, 3, 1, 8, tzinfo=UTC)
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet, users: data/users.parquet}}
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 4, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, text, popular, attributes], tune: false, depth: 40, candidates: 30}}
ranker: {{trees: 10, seeds: 1}}
evaluation: {{bootstrap: 20, examples: 1, segments: ["$x$", "страна"]}}
notify: {{on: [failed]}}
events:
  types:
    any: {{weight: 5, grade: 3}}
    on: {{weight: 3, grade: 2}}
    null: {{weight: 2, grade: 1}}
"""


def column(k, n):
    """Attributes take turns in being texts, numbers and flags."""
    draw = random.Random(k)
    values = [["p", "q", "r"], [1.5, 2.0, 40.0], [True, False, True]][k % 3]
    return [draw.choice(values) for _ in range(n)]


def lay_out(folder, model):
    (folder / "data").mkdir(parents=True)
    items = [*ITEM_IDS, *(f"i{k}" for k in range(40 - len(ITEM_IDS)))]
    users = [*USER_IDS, *(f"u{k}" for k in range(50 - len(USER_IDS)))]
    draw = np.random.default_rng(3)
    rows = []
    for u, user in enumerate(users):
        for step, i in enumerate(draw.choice(np.arange(u % 2, 38, 2), 8, replace=False)):
            at = START + timedelta(days=float(step * 5 + draw.random()), seconds=u)
            kind = "any" if step % 2 else TYPES[(u + step) % len(TYPES)]
            rows.append((at, user, items[int(i)], kind, 5.0 if kind == "rating" else None))
    rows.sort(key=lambda row: row[0])
    at, who, what, kind, value = zip(*rows, strict=True)
    tables = {
        "items": {
            "item_id": items,
            "title": [f"a heavy lamp number {k}" for k in range(len(items))],
            "category": [f"hall {k % 2}" for k in range(len(items))],
            **{name: column(k, len(items)) for k, name in enumerate(ATTRIBUTES)},
        },
        "users": {
            "user_id": users,
            **{name: column(k, len(users)) for k, name in enumerate(OF_USERS)},
        },
        "events": {
            "user_id": who,
            "item_id": what,
            "event_type": kind,
            "timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            "value": pa.array(value, pa.float64()),
        },
    }
    for name, table in tables.items():
        pq.write_table(pa.table(table), folder / "data" / f"{name}.parquet")
    (folder / "recsys.yaml").write_text(CONFIG.format(model=model), encoding="utf-8")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_model):
    """(config, loaded release) of the night."""
    place = tmp_path_factory.mktemp("odd")
    lay_out(place / FOLDER, tiny_model)
    config = load_config(place / FOLDER / "recsys.yaml")
    night = run_night(config)
    # Whether so little data passes the gate is not the question here.
    Registry(config).promote(night.version, "test")
    assert [path.name for path in place.iterdir()] == [FOLDER], "nothing is written beside"
    loaded = LoadedRelease.open(
        Registry(config).local_path(night.version), state_folder(config), version="1"
    )
    return config, loaded


def test_every_name_is_a_feature_of_the_release(shop):
    config, loaded = shop
    assert all(name_fault(name) is None for name in ATTRIBUTES)
    columns = set(loaded.features.columns)
    assert {f"item.{name}" for name in ATTRIBUTES} <= columns
    assert {"of_user.events.all", "of_user.item.share", "user.страна", "user.on"} <= columns
    assert {"count.item.=any.all", "count.item.any.all"} <= columns
    assert loaded.ranker.features == loaded.features.columns
    assert open_bundle(Registry(config).local_path(1)).n_items == 40


def test_people_and_items_are_who_they_were(shop):
    _, loaded = shop
    assert set(USER_IDS) <= set(loaded.state.user_ids())
    for item_id in ITEM_IDS:
        assert loaded.item(item_id)["item_id"] == item_id
    first = loaded.item("a/b")
    assert {name: first[name] for name in ATTRIBUTES} == {
        name: column(k, 40)[0] for k, name in enumerate(ATTRIBUTES)
    }


def test_ranking_filtering_and_reasons_by_those_names(shop):
    _, loaded = shop
    now = loaded.moment
    for user in USER_IDS:
        answer = loaded.answer(RankingQuery(user, now, k=5, explain=2, keep_seen=True))
        assert len(answer.item_ids) == 5
        assert np.isfinite(answer.scores).all()
    for name in ("$x$", "цена, руб", "size, cm", "a,b"):
        wanted = loaded.item("a/b")[name]
        query = RankingQuery("u/1", now, k=40, filters={name: wanted}, keep_seen=True)
        found = loaded.answer(query).item_ids
        assert found
        assert {loaded.item(item_id)[name] for item_id in found} == {wanted}


@pytest.mark.parametrize("value", ["", "cheap", True, 1e300, float("nan"), [1], None])
def test_an_odd_value_of_one_lent_item_leaves_the_others_their_scores(shop, value):
    _, loaded = shop
    now = loaded.moment

    def scores(attributes):
        lent = {"item_id": "new", "title": "a red lamp", **attributes}
        query = RankingQuery("u/1", now, items=["a/b", "new", "i3"], new_items={"new": lent}, k=3)
        answer = loaded.answer(query)
        assert answer.degraded == [] or answer.degraded == ["text_encoder_late"]
        return dict(zip(answer.item_ids, answer.scores, strict=True))

    numbers = [n for n, kind in loaded.attribute_kinds.items() if kind == "number"]
    assert len(numbers) > 10
    assert scores(dict.fromkeys(numbers, value)) == scores({})


def test_a_new_attribute_is_of_the_kind_that_the_log_told_first(shop):
    """Lists and filters do not know it before the next night."""
    _, loaded = shop
    known, at = dict(loaded.attribute_kinds), loaded.log_position
    item = {"item_id": "told/1", "title": "a lamp", "colour": "red", **dict.fromkeys(known, 1.0)}
    likes = {"user_id": "u/1", "attributes": {"likes": 5.0, "страна": "x", "on": "x"}}
    users = dict(loaded.user_attribute_kinds)
    loaded.apply([LogRecord(at + 1, "item", item, 0), LogRecord(at + 2, "user", likes, 0)])
    loaded.apply([LogRecord(at + 3, "item", item | {"colour": 5.0}, 0)])
    assert loaded.taken_kinds == known | {"colour": "text"}
    assert loaded.attribute_kinds == known
    assert loaded.user_attribute_kinds == users | {"likes": "number"}
