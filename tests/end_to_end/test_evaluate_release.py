"""A release evaluated on events and shown lists that came after it, as an outsider would."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.api import to_microseconds
from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import ExitCode
from recsys.operations import evaluated_parts
from recsys.operations.cli.demo import service
from recsys.operations.cli.main import main
from recsys.serving.client import Client
from recsys.training.nightly import run_night

USERS, ASKED = 24, 20
CONFIG = """
data: {{items: data/items.parquet, events: data/events.parquet}}
name: small
budget_minutes: 10
windows: {{cuts: 1}}
encoder: {{model: {model}, head_steps: 6, max_steps: 2, epochs: 1, max_tokens: 16}}
sources: {{use: [item_item, recent], tune: false, depth: 40, candidates: 30}}
ranker: {{trees: 5, seeds: 1}}
evaluation: {{bootstrap: 50, examples: 1}}
"""

pytestmark = pytest.mark.filterwarnings("default")
"""Third parties (MLflow, LightGBM, torch) warn about each other here; ours are errors elsewhere."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_model, slice_of_movies):
    """A folder with a slice of the bundled data, a config, and a night done."""
    folder, _ = slice_of_movies(
        tmp_path_factory.mktemp("evaluate"), USERS, CONFIG.format(model=tiny_model)
    )
    return folder, run_night(load_config(folder / "recsys.yaml"))


def later_events(folder, count=ASKED):
    """A file of events after the end of the data: users go on with items new to them."""
    events = pq.read_table(folder / "data" / "events.parquet")
    end = max(events["timestamp"].to_pylist())
    users = sorted(set(events["user_id"].to_pylist()))
    seen = {}
    for row in events.to_pylist():
        seen.setdefault(row["user_id"], set()).add(row["item_id"])
    popular = pc.value_counts(events["item_id"]).to_pylist()
    items = [r["values"] for r in sorted(popular, key=lambda r: (-r["counts"], r["values"]))]
    rows = []
    for n, user in enumerate(users[:count]):
        fresh = [i for i in items if i not in seen[user]][: 3 + n % 3]
        rows += [(user, item, end + timedelta(hours=n + 1 + k)) for k, item in enumerate(fresh)]
    table = {
        "user_id": [u for u, _, _ in rows],
        "item_id": [i for _, i, _ in rows],
        "event_type": ["rating"] * len(rows),
        "value": [5.0] * len(rows),
        "timestamp": pa.array([t for _, _, t in rows], pa.timestamp("us", "UTC")),
    }
    return pa.table(table)


def from_microseconds(time):
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)


def evaluated(folder, table, *more):
    pq.write_table(table, folder / "later.parquet")
    out = folder / "evaluated"
    shutil.rmtree(out, ignore_errors=True)
    words = ["-c", str(folder / "recsys.yaml"), "--events", str(folder / "later.parquet")]
    code = main(["evaluate", *words, "--out", str(out), *more])
    tree = json.loads((out / "report.json").read_text()) if (out / "report.json").exists() else None
    return code, tree


def test_a_release_is_evaluated_on_events_that_came_later(workspace, capsys):
    folder, first = workspace
    table = later_events(folder)
    code, tree = evaluated(folder, table, "--model", f"models:/small/{first.version}")
    assert code == ExitCode.DONE
    found = tree["evaluation"]
    assert found["users"] == ASKED
    assert found["groups_without_truth"] == 0
    # The events are popular items, so popularity must find some and the model is told so.
    assert found["systems"]["popularity"]["recall@10"]["value"] > 0.3
    for name in ("item_item", "als", "bm25", "text alone", "frozen text", "recent popularity"):
        assert name in found["systems"], name
    assert tree["context"]["failed_systems"] == {}
    assert all(check["passed"] for check in tree["context"]["leak_checks"])
    assert tree["verdict"] in capsys.readouterr().out
    reasons = [r for i in tree["context"]["examples"][0]["items"] for r in i["reasons"]]
    assert reasons
    assert all(reason[0].isupper() for reason in reasons)


def test_items_that_the_model_never_met_are_misses(workspace):
    folder, _ = workspace
    table = later_events(folder)
    half = [f"unheard-{i}" if n % 2 else i for n, i in enumerate(table["item_id"].to_pylist())]
    whole = evaluated(folder, table)[1]["evaluation"]["systems"]["popularity"]["recall@100"]
    code, tree = evaluated(folder, table.set_column(1, "item_id", pa.array(half)))
    assert code == ExitCode.DONE
    assert tree["evaluation"]["systems"]["popularity"]["recall@100"]["value"] < 0.7 * whole["value"]
    assert any("never heard" in w for w in tree["context"]["warnings"])
    strange = pa.array([f"unheard-{i}" for i in table["item_id"].to_pylist()])
    code, tree = evaluated(folder, table.set_column(1, "item_id", strange))
    assert code == ExitCode.DATA_REFUSED
    assert "knows none of the items" in tree["alarms"][0]


def test_ids_and_types_that_the_model_does_not_know_are_said(workspace, capsys):
    folder, _ = workspace
    table = later_events(folder)
    few = pa.table({**dict(zip(table.column_names, table.columns, strict=True)), "item_id": [
        "such" if n < 2 else item for n, item in enumerate(table["item_id"].to_pylist())
    ]})  # fmt: skip
    code, tree = evaluated(folder, few.slice(0, 30))
    said = capsys.readouterr().out
    assert code == ExitCode.DONE
    assert "warning: 2 of 30 events are on items that the model has never heard of" in said
    assert "alarm: 7% of the events are on items that the model has never heard of" in said
    assert "such as 'such' where it knows" in said
    assert any("never heard" in text for text in tree["context"]["alarms"])
    index = table.column_names.index("event_type")
    zap = table.set_column(index, "event_type", pa.array(["zap "] * len(table)))
    evaluated(folder, zap)
    said = capsys.readouterr().out
    assert f"warning: {len(table)} of {len(table)} events are of type 'zap '" in said
    assert "alarm" not in said


def test_events_the_model_has_seen_are_a_leak(workspace, capsys):
    folder, _ = workspace
    seen = pq.read_table(folder / "data" / "events.parquet")
    code, tree = evaluated(folder, seen)
    assert code == ExitCode.PROMOTION_REFUSED
    assert len(tree["alarms"]) == 2
    # Identical rows count once, as they did for the night.
    count = len(seen.group_by(seen.column_names).aggregate([]))
    assert f"{count:,} of {count:,} events are among those it was fitted on" in tree["alarms"][1]
    assert "alarm: Leak suspected" in capsys.readouterr().out


def test_an_empty_window_is_said_on_the_page_and_in_the_exit_code(workspace, capsys):
    folder, _ = workspace
    code, tree = evaluated(folder, later_events(folder).slice(0, 0))
    assert code == ExitCode.DATA_REFUSED
    assert tree["alarms"][0].startswith("Nothing could be measured")
    assert "no event of the evaluation window can be used" in capsys.readouterr().err


def test_each_users_last_event_is_asked_at_its_own_time(workspace):
    folder, _ = workspace
    code, tree = evaluated(folder, later_events(folder), "--protocol", "leave-last-out")
    assert code == ExitCode.DONE
    assert tree["evaluation"]["groups"] == ASKED
    assert tree["context"]["split"]["lists are asked for at"].startswith("each query's own time")


def test_shown_lists_are_ranked_again(workspace):
    folder, _ = workspace
    table = later_events(folder)
    rows = table.to_pylist()
    items = pq.read_table(folder / "data" / "items.parquet")["item_id"].to_pylist()
    shown = [
        {
            "impression_id": f"p{n}",
            "user_id": row["user_id"],
            "timestamp": row["timestamp"] - timedelta(minutes=1),
            "item_ids": [items[n], row["item_id"], items[n + 200]],
            "surface": "home" if n % 2 else "search",
            "rules": None,
        }
        for n, row in enumerate(rows)
    ]
    # What a rule of the shop moved says nothing of the model.
    shown.append({**shown[0], "impression_id": "ruled", "rules": json.dumps({items[0]: "promo"})})
    file = folder / "shown.parquet"
    pq.write_table(pa.Table.from_pylist(shown), file)
    code, tree = evaluated(folder, table, "--impressions", str(file))
    assert code == ExitCode.DONE
    assert tree["evaluation"]["groups"] == len(rows)
    assert tree["evaluation"]["sampled_candidates"] == 3
    assert tree["evaluation"]["systems"]["as shown"]["mrr"]["value"] == pytest.approx(0.5, abs=0.1)
    assert any("none were logged" in w for w in tree["context"]["warnings"])
    assert any("1 shown lists are left out" in w for w in tree["context"]["warnings"])
    assert {s["label"] for s in tree["evaluation"]["segments"]["surface"]} == {"home", "search"}


def test_the_protocol_and_the_files_must_fit(workspace, capsys):
    folder, _ = workspace
    config = str(folder / "recsys.yaml")
    assert main(["evaluate", "-c", config, "--protocol", "window", "--out", "x"]) == ExitCode.USAGE
    code, tree = evaluated(folder, later_events(folder), "--protocol", "impressions")
    assert code == ExitCode.USAGE
    assert tree is None
    code, tree = evaluated(folder, later_events(folder), "--model", "models:/small/99")
    assert code == ExitCode.USAGE
    assert "no such model version" in capsys.readouterr().err


@pytest.mark.parity
def test_replayed_over_http_the_moments_get_the_scores_of_the_evaluation(workspace, monkeypatch):
    """The events come in one by one, each moment is asked when the service knows what came before."""
    folder, _ = workspace
    table = later_events(folder).sort_by("timestamp")
    asked = {}
    answer = evaluated_parts.lists_of_release

    def remembered(loaded, users, now, *rest, **more):
        lists = answer(loaded, users, now, *rest, **more)
        ids = [[loaded.state.catalogue.id_of(int(i)) for i in row if i >= 0] for row in lists.items]
        for user, at, row, scores in zip(users, now, ids, lists.scores, strict=True):
            asked[int(at), user] = dict(zip(row, scores.tolist(), strict=False))
        return lists

    monkeypatch.setattr(evaluated_parts, "lists_of_release", remembered)
    monkeypatch.setenv("RECSYS__ENGINE__PARTS", "1")
    evaluated(folder, table, "--protocol", "leave-last-out")
    assert len(asked) == ASKED
    moments = sorted(asked)
    with service(folder / "recsys.yaml") as address, Client(address, timeout=60) as client:
        for event in table.to_pylist():
            at = event.pop("timestamp").astimezone(UTC)
            for now, user in [moment for moment in moments if moment[0] <= to_microseconds(at)]:
                moments.remove((now, user))
                found = client.recommend(user, 100, as_of=from_microseconds(now))
                expected = asked[now, user]
                assert {i.item_id for i in found.items} == set(expected)
                for item in found.items:
                    assert item.score == pytest.approx(expected[item.item_id], rel=1e-6)
            client.event(**event, timestamp=at)
    assert not moments
