"""Data that is odd in every way at once: a night ends in lists, or in one message before its work."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import load_config
from recsys.data_schemas.errors import ExitCode
from recsys.operations.cli.main import main
from recsys.storage.eventlog import log_address, open_log

CONFIG = """
data: {{items: items.parquet, events: events.parquet}}
budget_minutes: 0.2
encoder: {{model: {model}, max_steps: 2, head_steps: 2, max_tokens: 16}}
evaluation: {{bootstrap: 20, examples: 1}}
"""

pytestmark = pytest.mark.filterwarnings("default")
"""Third parties (MLflow, LightGBM, torch) warn about each other here; ours are errors elsewhere."""


@pytest.fixture
def laid(tmp_path, tiny_model):
    """Writes a workspace of items (columns) and events (user, item, day); returns its folder."""

    def lay(items, events):
        pq.write_table(pa.table(items), tmp_path / "items.parquet")
        start = datetime(2024, 1, 1, tzinfo=UTC)
        times = [start + timedelta(days=day) for _, _, day in events]
        table = {
            "user_id": [f"u{user}" for user, _, _ in events],
            "item_id": [f"i{item}" for _, item, _ in events],
            "event_type": ["purchase"] * len(events),
            "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
        pq.write_table(pa.table(table), tmp_path / "events.parquet")
        config = CONFIG.format(model=tiny_model)
        (tmp_path / "recsys.yaml").write_text(config, encoding="utf-8")
        return tmp_path

    return lay


def night(folder):
    return main(["nightly", "-c", str(folder / "recsys.yaml")])


def lists(folder):
    out = folder / "recs.parquet"
    config = str(folder / "recsys.yaml")
    assert main(["recommend", "-c", config, "--all-users", "--k", "5", "--out", str(out)]) == 0
    return pq.read_table(out).to_pylist()


def test_two_moments_and_attributes_of_every_bad_kind(laid, capsys):
    n = 20
    items = {
        "item_id": [f"i{k}" for k in range(n)],
        "title": [""] * n,
        "price": [1e300, -1e300] * (n // 2),
        "same": [1.0] * n,
        "sku": [f"sku-{k}" for k in range(n)],
        "empty": pa.nulls(n, pa.float64()),
    }
    draw = np.random.default_rng(0)
    events = [
        (user, int(item), day)
        for user in range(12)
        for day, size in ((0, 4), (1, 2))
        for item in draw.choice(n, size, replace=False)
    ]
    folder = laid(items, events)
    assert night(folder) == ExitCode.DONE
    assert "Leak suspected" not in capsys.readouterr().err
    rows = lists(folder)
    assert len(rows) == 12
    for row in rows:
        assert len(row["item_ids"]) == 5
        assert np.isfinite(row["scores"]).all()


def test_three_events_are_enough_for_lists(laid):
    items = {"item_id": [f"i{k}" for k in range(5)], "title": ["red", "blue", "car", "sea", "sun"]}
    folder = laid(items, [(0, 0, 0), (0, 1, 1), (1, 2, 2)])
    assert night(folder) == ExitCode.DONE
    assert {row["user_id"]: len(row["item_ids"]) for row in lists(folder)} == {"u0": 3, "u1": 4}


def test_one_item_for_everybody_is_refused_before_any_work(laid, capsys):
    events = [(user, 0, day) for day in range(6) for user in range(10)]
    folder = laid({"item_id": ["i0"], "title": ["red"]}, events)
    assert night(folder) == ExitCode.DATA_REFUSED
    said = capsys.readouterr().err
    assert "nothing can be tested" in said
    assert "encoder: running" not in said


def named(count):
    return {"item_id": [f"i{k}" for k in range(count)], "title": [f"word{k}" for k in range(count)]}


def test_users_with_one_event_each(laid):
    draw = np.random.default_rng(1)
    events = [(user, int(draw.integers(20)), user // 4) for user in range(60)]
    folder = laid(named(20), events)
    assert night(folder) == ExitCode.DONE
    assert {len(row["item_ids"]) for row in lists(folder)} == {5}


def test_every_event_on_one_of_many_items(laid):
    folder = laid(named(20), [(user, 7, user // 4) for user in range(60)])
    assert night(folder) == ExitCode.DONE
    rows = lists(folder)
    assert len(rows) == 60
    assert all("i7" not in row["item_ids"] for row in rows), "everybody has had it"


def test_nothing_but_dislikes_is_refused_before_any_work(laid, capsys):
    draw = np.random.default_rng(2)
    folder = laid(
        named(20), [(user, int(draw.integers(20)), d) for user in range(9) for d in range(4)]
    )
    events = pq.read_table(folder / "events.parquet")
    kind = pa.array(["rating"] * len(events))
    events = events.set_column(events.schema.get_field_index("event_type"), "event_type", kind)
    # Ones alone could be likes: ones and twos are stars of a scale of five.
    events = events.append_column("value", pa.array([1.0, 2.0] * (len(events) // 2)))
    pq.write_table(events, folder / "events.parquet")
    assert night(folder) == ExitCode.DATA_REFUSED
    said = capsys.readouterr().err
    assert "no event is positive" in said
    assert "encoder: running" not in said


def some_events():
    draw = np.random.default_rng(3)
    return [(user, int(draw.integers(20)), day) for user in range(30) for day in range(5)]


def validated(folder):
    return main(["validate", "-c", str(folder / "recsys.yaml")])


def test_a_catalogue_of_which_nothing_is_available_is_refused_by_both(laid, capsys):
    folder = laid(named(20) | {"available": [False] * 20}, some_events())
    for command in (validated, night):
        assert command(folder) == ExitCode.DATA_REFUSED
        said = capsys.readouterr().err
        assert "no item is available" in said
        assert "items.available" in said
        assert "encoder: running" not in said


def test_one_available_item_that_everybody_has_had_leaves_the_ranker_without_rows(laid):
    events = [(user, 0, 0) for user in range(30)]
    events += [(user, item, day + 1) for user, item, day in some_events() if item]
    folder = laid(named(20) | {"available": [True] + [False] * 19}, events)
    assert validated(folder) == ExitCode.DONE
    assert night(folder) in (ExitCode.DONE, ExitCode.PROMOTION_REFUSED)


@pytest.mark.parametrize(
    "events", [[(0, 0, 0)], [(user, user % 20, 0) for user in range(480)]], ids=["one", "480"]
)
def test_events_of_one_single_moment_are_refused_by_both(laid, capsys, events):
    folder = laid(named(20), events)
    for command in (validated, night):
        assert command(folder) == ExitCode.DATA_REFUSED
        said = capsys.readouterr()
        assert "one single timestamp" in said.err
        assert "can be used" not in said.out


def test_files_of_one_moment_beside_a_log_are_for_the_night_to_judge(laid, capsys):
    folder = laid(named(20), [(0, 0, 0)])
    with open_log(log_address(load_config(folder / "recsys.yaml"))):
        pass
    assert validated(folder) == ExitCode.DONE
    assert "a night reads the service's log too" in capsys.readouterr().out
