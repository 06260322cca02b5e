"""Live lists of two versions: rates by hand, a sure fall, what follows from it."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas import columns as c
from recsys.data_schemas.config import load_config
from recsys.evaluation.live_outcomes import DAY
from recsys.storage.registry.version_tags import Change
from recsys.training.night import live_lists

NOON = 19_700 * DAY + DAY // 2
TIME = pa.timestamp("us", tz="UTC")
RATES = {"click@1", "click@10", "positive@1", "positive@10", "degraded lists", "cold items shown"}


def write(folder, lists, events):
    """lists: (user, day, items, version, degraded); events: (user, item, day, type)."""
    folder.mkdir(exist_ok=True)
    rows = {
        c.IMPRESSION_ID: [f"l{n}" for n in range(len(lists))],
        c.USER_ID: [row[0] for row in lists],
        c.TIMESTAMP: pa.array([NOON + row[1] * DAY for row in lists], TIME),
        c.ITEM_IDS: [row[2] for row in lists],
        c.MODEL_VERSION: [row[3] for row in lists],
        c.DEGRADED: [["ranking_late"] if row[4] else None for row in lists],
        c.SCORES: [[n % 50 + 100.0 * (row[3] == "2")] * len(row[2]) for n, row in enumerate(lists)],
        "known_position": [0] * len(lists),
        "features": pa.nulls(len(lists), pa.string()),
    }
    pq.write_table(pa.table(rows), folder / "impressions.parquet")
    acts = {
        c.USER_ID: [row[0] for row in events],
        c.ITEM_ID: [row[1] for row in events],
        c.EVENT_TYPE: [row[3] for row in events],
        c.TIMESTAMP: pa.array([NOON + int(row[2] * DAY) for row in events], TIME),
        c.EVENT_ID: [f"e{n}" for n in range(len(events))],
    }
    pq.write_table(pa.table(acts), folder / "events.parquet")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A workspace's config, its tables (item `known` has many events) and a registry."""
    (tmp_path / "recsys.yaml").write_text("data: {items: i, events: e}\n")
    tables = tmp_path / "tables"
    write(tables, [], [("x", "known", -30, "view")] * 9)
    pq.write_table(pa.table({c.ITEM_ID: ["known", "new", "a", "b"]}), tables / "items.parquet")
    monkeypatch.setattr(live_lists, "read_summary", lambda _: {})
    state = {"champion": 2, "previous": 1, "rolled": []}
    registry = SimpleNamespace(
        champion=lambda: state["champion"],
        alias=lambda name: state[name],
        history=lambda: [
            Change("", "promote", 1, None, "", ""),
            Change("", "promote", 2, 1, "", ""),
        ],
        rollback=lambda reason: state["rolled"].append(reason),
        local_path=lambda number: tmp_path / "none",
    )
    return SimpleNamespace(
        config=load_config(tmp_path / "recsys.yaml"), drained=tmp_path / "drained",
        tables=tables, registry=registry, state=state, folder=tmp_path,
    )  # fmt: skip


def found(shop):
    pair = live_lists.champions(shop.registry)
    return live_lists.joined(shop.config, shop.drained, shop.tables, shop.registry, pair)


def test_rates_by_hand(shop):
    write(
        shop.drained,
        [
            ("u", -20, ["a"], "1", False),  # beyond the last seven days
            ("u", -1, ["known", "new"], "1", True),
            ("u", 0, ["known", "a"], "2", False),
            ("v", 0, ["a", "known"], "2", False),
            ("v", 0, ["a"], "1+2", False),
            ("w", 0, ["b"], None, False),
        ],
        [("u", "known", 0.1, "click"), ("v", "known", 0.2, "purchase"), ("v", "a", 1.5, "click")],
    )
    result = found(shop)
    second, first = result["versions"]
    assert (second["version"], second["lists"], first["lists"]) == ("2", 2, 1)
    assert set(second["rates"]) == RATES
    assert {name: second["rates"][name][0] for name in RATES} == {
        "click@1": 0.5, "click@10": 0.5, "positive@1": 0.5, "positive@10": 1.0,
        "degraded lists": 0.0, "cold items shown": 0.5,
    }  # fmt: skip
    assert (first["rates"]["degraded lists"][0], first["rates"]["cold items shown"][0]) == (1, 0.5)
    assert second["coverage"] == 0.5
    assert len(second["days"]) == 1
    assert (result["champion"], result["before"], result["fall"]) == ("2", "1", None)
    assert result["change"]["positive@10"]["low"] is None  # three persons


def two_versions(shop, before, now, people=1200):
    """Lists of two days with these chances of a click at place 1."""
    rng = np.random.default_rng(5)
    lists, events = [], []
    for day, version, chance in ((-1, "1", before), (0, "2", now)):
        for n in range(people):
            lists.append((f"u{version}{n}", day, ["known", "a"], version, False))
            if rng.random() < chance:
                events.append((f"u{version}{n}", "known", day + 0.1, "click"))
    write(shop.drained, lists, events)


@pytest.mark.parametrize(
    ("before", "now", "falls"), [(0.3, 0.15, True), (0.2, 0.2, False), (0.15, 0.3, False)]
)
def test_only_a_sure_fall_is_one(shop, before, now, falls):
    two_versions(shop, before, now)
    result = found(shop)
    assert (result["fall"] is not None) == falls
    drifts = {row["what"]: row["level"] for row in result["drift"]}
    assert drifts == {"score at place 1": "stop"}


class Told:
    """A night that only remembers."""

    def __init__(self, shop, on_live_loss):
        live = shop.config.live.model_copy(update={"on_live_loss": on_live_loss})
        self.config = shop.config.model_copy(update={"live": live})
        self.runner = SimpleNamespace(dry_run=False)
        self.workspace = SimpleNamespace(live=shop.folder / "live.json")
        self.drained = SimpleNamespace(product=shop.drained)
        self.tables = SimpleNamespace(product=shop.folder / "tables")
        self.registry, self.until, self.alarms = shop.registry, None, []

    def alarm(self, text):
        self.alarms.append(text)


def told(shop, on_live_loss, **more):
    night = Told(shop, on_live_loss)
    vars(night).update(more)
    night.live = live_lists.check(night)
    return night


def test_a_fall_is_an_alarm_or_the_way_back(shop, monkeypatch):
    two_versions(shop, 0.3, 0.15)
    night = told(shop, "warn")
    assert len(night.alarms) == 1
    assert "version 2 earns less than version 1" in night.alarms[0]
    assert shop.state["rolled"] == []
    assert night.workspace.live.exists()
    assert night.live["versions"][0]["version"] == "2"
    night = told(shop, "rollback")
    assert len(shop.state["rolled"]) == 1
    assert "champion again" in night.alarms[1]
    shop.state["previous"] = None
    night = told(shop, "rollback")
    assert len(shop.state["rolled"]) == 1
    assert "cannot come back" in night.alarms[1]


def test_nothing_served_says_nothing(shop):
    write(shop.drained, [], [])
    assert told(shop, "rollback").live is None
    two_versions(shop, 0.3, 0.15, people=200)
    assert told(shop, "rollback", until=NOON).live is None
