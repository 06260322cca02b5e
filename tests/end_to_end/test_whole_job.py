"""The whole job on a small slice of the bundled data: a night, lists, the service, a second night."""

import io
import json
import re
import shlex
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import ExitCode
from recsys.ingestion.tables.event_partitions import read_events_table
from recsys.operations.cli.demo import apart, service, show_call
from recsys.operations.cli.main import main
from recsys.storage.progress import Reporter
from recsys.storage.registry import Registry
from recsys.training.nightly import run_night

USERS = 60
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
name: small
clock: end_of_data
budget_minutes: 10
windows: {{cuts: 2}}
encoder: {{model: {model}, head_steps: 6, max_steps: 4, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, als, text, recent], tune: false, depth: 60, candidates: 40}}
ranker: {{trees: 20, seeds: 1}}
evaluation: {{bootstrap: 100, examples: 2}}
# Whether so little data is ahead of anything is not the question here.
gate: {{margin: 0.9, segment_margin: 0.9}}
serving: {{timeout_ms: 60000}}
"""

pytestmark = pytest.mark.filterwarnings("default")
"""Third parties (MLflow, LightGBM, torch) warn about each other here; ours are errors elsewhere."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_model, slice_of_movies):
    """A folder with a slice of the bundled data, a config, and the first night done."""
    folder, _ = slice_of_movies(
        tmp_path_factory.mktemp("job"), USERS, CONFIG.format(model=tiny_model)
    )
    first = run_night(load_config(folder / "recsys.yaml"))
    return folder, first


def call(url, body=None, method="POST"):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"Content-Type": "application/json"}, method=method if data else "GET"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def tables_of(folder):
    return max(
        (folder / "work" / "stages" / "tables").glob("*/tables"), key=lambda p: p.stat().st_mtime
    )


def test_first_night_registers_a_champion_with_a_report(workspace):
    folder, first = workspace
    registry = Registry(load_config(folder / "recsys.yaml"))
    assert first.decision.promoted
    assert registry.champion() == first.version
    page = first.report.read_text(encoding="utf-8")
    assert "popularity" in page
    assert "model not yet numbered: it is registered when this page is written" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    for system in (
        "recsys",
        "popularity",
        "als",
        "text alone",
        "without text",
        "fusion of sources",
    ):
        assert "ndcg@10" in first.metrics[system]


def test_language_model_is_at_work(workspace):
    folder, first = workspace
    bundle = Registry(load_config(folder / "recsys.yaml")).local_path(first.version)
    learned = json.loads((bundle / "encoder" / "manifest.json").read_text())["learned"]
    assert learned["fine_tuned"]
    assert 1 <= learned["steps"] == len(learned["losses"])
    features = json.loads((bundle / "features.json").read_text())
    assert any("text" in json.dumps(f) for f in features["features"])


def test_the_demonstrations_own_calls_leave_nothing_to_learn(workspace, capsys):
    folder, _ = workspace
    with apart(folder / "recsys.yaml") as beside, service(beside) as address:
        show_call(address)
    shown = capsys.readouterr().out
    assert f"curl -s {address}/v1/rank" in shown
    assert '"impression_id"' in shown
    assert not list((folder / "work").rglob("log.sqlite"))
    assert not list(folder.glob(".recsys*"))


def test_repeated_night_does_nothing(workspace):
    folder, first = workspace
    config = load_config(folder / "recsys.yaml")
    foreseen = run_night(config, dry_run=True)
    assert foreseen.unchanged, foreseen.lines
    again = run_night(config)
    assert again.unchanged
    assert again.version == first.version


def test_recommend_writes_lists_without_seen_items(workspace, capsys):
    folder, _ = workspace
    out = folder / "recs.parquet"
    args = [
        "recommend",
        "-c",
        str(folder / "recsys.yaml"),
        "--all-users",
        "--k",
        "20",
        "--out",
        str(out),
    ]
    assert main(args) == ExitCode.DONE
    lists = pq.read_table(out).to_pylist()
    events = pq.read_table(folder / "data" / "events.parquet").to_pylist()
    seen = {}
    for event in events:
        seen.setdefault(event["user_id"], set()).add(event["item_id"])
    assert len(lists) == USERS
    for row in lists:
        assert len(row["item_ids"]) == len(set(row["item_ids"])) == 20
        assert not seen[row["user_id"]] & set(row["item_ids"])
        assert np.isfinite(row["scores"]).all()


def test_recommend_keeps_filters_in_the_long_form_and_finds_the_users_of_items(workspace, capsys):
    folder, _ = workspace
    out = folder / "long.parquet"
    config = ["-c", str(folder / "recsys.yaml"), "--out", str(out)]
    filters = '{"tags": {"any": ["Drama"]}}'
    words = ["recommend", *config, "--k", "4", "--format", "long", "--filters", filters]
    assert main(words) == ExitCode.DONE
    rows = pq.read_table(out).to_pylist()
    assert list(rows[0]) == ["user_id", "item_id", "rank", "score"]
    assert [row["rank"] for row in rows[:4]] == [1, 2, 3, 4]
    items = pq.read_table(folder / "data" / "items.parquet").to_pylist()
    tags = {item["item_id"]: item["tags"] for item in items}
    assert len(rows) == 4 * USERS
    assert all("Drama" in tags[row["item_id"]] for row in rows)
    popular = rows[0]["item_id"]
    assert main(["recommend", *config, "--k", "3", "--for-items", popular]) == ExitCode.DONE
    told = pq.read_table(out).to_pylist()
    assert [row["rank"] for row in told] == [1, 2, 3]
    assert {row["item_id"] for row in told} == {popular}
    assert [row["score"] for row in told] == sorted((r["score"] for r in told), reverse=True)
    capsys.readouterr()
    for wrong, said in (('{"colour": 1}', "filters.colour"), ("{", "no JSON")):
        assert main(["recommend", *config, "--filters", wrong]) == ExitCode.USAGE
        assert said in capsys.readouterr().err
    assert main(["recommend", *config, "--for-items", "none"]) == ExitCode.USAGE


def test_the_report_of_a_version_is_shown_again(workspace, tmp_path):
    folder, first = workspace
    command = ["evaluate", "-c", str(folder / "recsys.yaml"), "--out", str(tmp_path / "out")]
    assert main(command) == ExitCode.DONE
    assert (tmp_path / "out" / "report.html").read_bytes() == first.report.read_bytes()


def test_what_the_service_learns_is_in_the_next_night(workspace):
    folder, first = workspace
    config = load_config(folder / "recsys.yaml")
    with service(folder / "recsys.yaml") as address:
        put_item(address, "fresh", title="A heist on the moon", tags=["Crime"])
        ranked = call(
            f"{address}/v1/rank",
            {
                "user_id": "nobody",
                "items": ["fresh", "no-such-item", {"item_id": "inline", "title": "A train"}],
                "explain": True,
            },
        )
        listed = call(f"{address}/v1/recommend", {"user_id": "u1", "k": 5})
        posted = [
            {
                "user_id": "newcomer",
                "item_id": "fresh",
                "event_type": "rating",
                "value": 5,
                "event_id": "e1",
            }
        ]
        call(f"{address}/v1/events", posted)
        call(f"{address}/v1/events", posted)
    assert {item["item_id"] for item in ranked["items"]} == {"fresh", "inline"}
    assert ranked["unknown"] == ["no-such-item"]
    assert len(listed["items"]) == 5
    assert listed["model_version"] == str(first.version)

    second = run_night(config)
    tables = tables_of(folder)
    events = read_events_table(tables, 0).to_pylist()
    assert sum(e["event_id"] == "e1" for e in events) == 1
    items = pq.read_table(tables / "items.parquet")["item_id"].to_pylist()
    assert items[-1] == "fresh"
    shown = pq.read_table(tables / "impressions.parquet")["impression_id"].to_pylist()
    assert shown.count(listed["impression_id"]) == 1
    assert second.version != first.version
    bundle = Registry(config).local_path(second.version)
    assert json.loads((bundle / "manifest.json").read_text())["n_items"] == len(items)


def put_item(address, item_id, **fields):
    request = urllib.request.Request(
        f"{address}/v1/items/{item_id}",
        json.dumps(fields).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=60).close()


def further_night(folder):
    """(version, what it said) of a night that promotes."""
    config = load_config(folder / "recsys.yaml")
    before = Registry(config).champion()
    said = io.StringIO()
    version = run_night(config, reporter=Reporter(said)).version
    assert version > before
    return version, said.getvalue()


def test_a_further_event_leaves_what_was_made_of_earlier_ones(workspace):
    folder, _ = workspace
    event = {"user_id": "newcomer", "item_id": "m1", "event_type": "rating", "value": 5}
    with service(folder / "recsys.yaml") as address:
        call(f"{address}/v1/events", event)
    version, said = further_night(folder)
    for stage in ("encoder", "vectors", "groups-ranker", "ranker"):
        assert f"{stage}: unchanged" in said
    for stage in ("groups-test", "lists", "bundle"):
        assert f"{stage}: running" in said
    bundle = Registry(load_config(folder / "recsys.yaml")).local_path(version)
    assert json.loads((bundle / "manifest.json").read_text())["data_window"]


def test_new_and_changed_items_leave_what_the_ranker_learned_from(workspace):
    folder, _ = workspace
    known = pq.read_table(folder / "data" / "items.parquet")["item_id"][0].as_py()
    with service(folder / "recsys.yaml") as address:
        put_item(address, "newest", title="A heist under the sea", tags=["Crime"])
        put_item(address, known, title="Another title")
        call(
            f"{address}/v1/events",
            {"user_id": "newcomer", "item_id": "newest", "event_type": "rating", "value": 5},
        )
    before = tables_of(folder)
    version, said = further_night(folder)
    assert tables_of(folder) != before
    assert re.search(r"the ranker's windows keep the [\d,]+ items", said)
    for stage in ("encoder", "window-plan", "groups-ranker", "ranker"):
        assert f"{stage}: unchanged" in said
        assert f"Z {stage}: running" not in said
    for stage in ("vectors", "groups-test", "lists", "bundle"):
        assert f"{stage}: running" in said
    items = pq.read_table(tables_of(folder) / "items.parquet")["item_id"].to_pylist()
    assert "newest" in items
    bundle = Registry(load_config(folder / "recsys.yaml")).local_path(version)
    assert json.loads((bundle / "manifest.json").read_text())["n_items"] == len(items)


def test_pyfunc_ranks_a_frame(workspace):
    import pandas as pd

    from recsys.pyfunc import BundleModel

    folder, first = workspace
    path = Registry(load_config(folder / "recsys.yaml")).local_path(first.version)
    items = pq.read_table(folder / "data" / "items.parquet")["item_id"].to_pylist()[:4]
    frame = pd.DataFrame({"user_id": "someone", "item_id": [*items, "unknown"]})
    scores = BundleModel(path).predict(frame)
    assert np.isfinite(scores[:4]).all()
    assert np.isnan(scores[4])


def test_the_readmes_tour_runs_as_written(workspace, tmp_path, monkeypatch):
    folder, _ = workspace
    readme = Path(__file__).parents[2] / "README.md"
    blocks = re.findall(r"```sh\n(.*?)```", readme.read_text(encoding="utf-8"), re.S)
    (tmp_path / "shop").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    done = []
    for line in "".join(blocks).splitlines():
        command, *words = shlex.split(line, comments=True) if line.startswith("recsys ") else [""]
        if command and words[0] != "serve":
            assert main(words) == ExitCode.DONE, line
            done.append(words[0])
    assert done == ["validate", "nightly", "recommend", "models"]
    assert pq.read_table("recs.parquet").num_rows >= USERS
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (call,) = (block for block in blocks if block.startswith("curl "))
    with service(Path("shop/recsys.yaml")) as address:
        answer = subprocess.run(
            ["bash", "-c", call.replace("http://127.0.0.1:8080", address)],
            capture_output=True,
            check=True,
        )
    ranked = {item["item_id"]: item for item in json.loads(answer.stdout)["items"]}
    assert set(ranked) == {"m1", "fresh"}
    assert all(np.isfinite(item["score"]) for item in ranked.values())
