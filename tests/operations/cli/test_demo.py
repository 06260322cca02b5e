"""What the demonstration prints and leaves behind, without a night."""

import json
import time
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys.operations.ahead_lines import differences
from recsys.operations.cli.demo import apart
from recsys.operations.cli.demo_new_film import last_here, post_and_ask, told


@pytest.mark.parametrize("serving", ["", "serving: {workers: 1, log: postgresql://host/log}\n"])
def test_the_demonstration_calls_beside_the_workspaces_log(folder, serving):
    config = folder / "recsys.yaml"
    config.write_text(config.read_text() + serving)
    before = config.read_text()
    with apart(config) as beside:
        settings = yaml.safe_load(beside.read_text())
        assert beside.parent == folder  # relative paths stay what they were
        assert not settings["serving"]["log"].startswith(str(folder))
        assert "postgresql" not in settings["serving"]["log"]
        assert settings["data"] == yaml.safe_load(before)["data"]
    assert config.read_text() == before
    assert sorted(p.name for p in folder.iterdir()) == ["recsys.yaml"]


def report(folder, **interval):
    figures = {
        "main": "recsys",
        "main_metric": "ndcg@10",
        "users": 1200,
        "groups": 1500,
        "differences": {
            name: {"ndcg@10": {"interval": interval}} for name in ("als", "bm25", "popularity")
        },
    }
    (folder / "report.json").write_text(json.dumps({"evaluation": figures}))
    return folder / "report.html"


def test_differences_are_shown_with_their_intervals(tmp_path):
    lines = differences(report(tmp_path, value=0.03, low=-0.01, high=0.07))
    assert "1,200 users, 1,500 lists" in lines[0]
    assert lines[1:] == [
        "  popularity  +0.0300 [-0.0100, +0.0700]",
        "  als         +0.0300 [-0.0100, +0.0700]",
    ]


def test_differences_of_nothing(tmp_path):
    assert differences(None) == []
    assert differences(tmp_path / "report.html") == []
    assert differences(report(tmp_path, value=None, low=None, high=None)) == []


class Service:
    """Answers as the service does: a film posted stands second in the lists of even people."""

    def __init__(self, encoded_after=2):
        self.film, self.waits = None, encoded_after

    def __call__(self, method, path, body):
        if method == "PUT":
            assert set(body) == {"title", "tags", "category", "description", "created_at"}
            self.film = path.rsplit("/", 1)[-1]
            return {"item_id": self.film, "position": 1}
        if path.startswith("/v1/items/"):
            self.waits -= 1
            near = [] if self.waits >= 0 else [{"item_id": "7", "title": "Heat (1995)"}]
            return {"items": near, "degraded": []}
        if path == "/v1/rank":
            sentence = {"en": "Because you liked Heat (1995)."}
            reasons = {self.film: {"sentence": sentence}}
            return {"items": [{"item_id": i, "reasons": reasons.get(i)} for i in body["items"]]}
        items = [{"item_id": str(n), "fields": {"title": f"Film {n}"}} for n in range(body["k"])]
        if self.film and int(body["user_id"]) % 2 == 0:
            place = 7 + int(body["user_id"])
            items.insert(place, {"item_id": self.film, "fields": {"title": "Posted"}})
        return {"items": items[: body["k"]]}


def test_a_new_film_is_posted_and_told_with_a_list_before_and_after(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    scene = post_and_ask(Service(), [str(n) for n in range(9)], "2015-01-01T00:00:00+00:00")
    assert scene.near == ["Heat (1995)"]
    assert [user for user, _, _ in scene.getting] == ["0", "2", "4", "6", "8"]
    lines = told(scene)
    assert "of 9 people asked before and after, 5 have it" in lines[3]
    assert lines[4] == "         0  place   8  Because you liked Heat (1995)."
    assert [line.split() for line in lines[-10:]] == [
        ["before", "after"],
        ["1", "Film", "0", "Film", "0"],
        ["2", "Film", "1", "Film", "1"],
        ["3", "Film", "2", "Film", "2"],
        ["…"],
        ["6", "Film", "5", "Film", "5"],
        ["7", "Film", "6", "Film", "6"],
        ["8", "Film", "7", "Posted", "<-", "new"],
        ["9", "Film", "8", "Film", "7"],
        ["10", "Film", "9", "Film", "8"],
    ]


def test_a_film_that_nobody_gets_is_said_so(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    lines = told(post_and_ask(Service(), ["1", "3"], "2015-01-01T00:00:00+00:00"))
    assert "of 2 people asked before and after, 0 have it" in lines[-1]


def test_the_people_asked_were_here_last(tmp_path):
    times = [datetime(2015, 1, day, tzinfo=UTC) for day in (1, 3, 2, 4)]
    table = pa.table({"user_id": ["a", "b", "c", "a"], "timestamp": times})
    pq.write_table(table, tmp_path / "events.parquet")
    people, day_before = last_here(tmp_path / "events.parquet")
    assert (people, day_before) == (["a", "b", "c"], "2015-01-03T00:00:00+00:00")
