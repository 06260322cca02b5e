"""What a night finds again: cuts that stay, and what is known before them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import parse_config
from recsys.features.interactions import DAY
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import read_data
from recsys.training.night.night_context import Night

USERS, ITEMS, DAYS = 30, 12, 60


def events_of(days, users, items):
    count = len(days)
    return {
        "user_id": [f"user {u}" for u in users],
        "item_id": [f"item {i}" for i in items],
        "event_type": ["purchase"] * count,
        "timestamp": pa.array((np.array(days) * DAY).astype(np.int64), pa.timestamp("us", "UTC")),
    }


@pytest.fixture
def night_over(tmp_path):
    """(further events) → inputs of a night over sixty days and those."""
    pq.write_table(
        pa.table(
            {
                "item_id": [f"item {i}" for i in range(ITEMS)],
                "title": [f"Item {i}" for i in range(ITEMS)],
            }
        ),
        tmp_path / "items.parquet",
    )
    rng = np.random.default_rng(1)
    days = 20_000 + np.sort(rng.random(USERS * ITEMS)) * DAYS
    pairs = rng.permutation(USERS * ITEMS)
    first = list(zip(days, USERS - 1 - pairs // ITEMS, pairs % ITEMS, strict=True))
    raw = {"data": {"items": "items.parquet", "events": "events.parquet"}}

    def over(*more, windows=None):
        table = pa.table(events_of(*zip(*first, *more, strict=True)))
        pq.write_table(table, tmp_path / "events.parquet")
        config = parse_config(raw | ({"windows": windows} if windows else {}), tmp_path)
        workspace = Workspace(config.workspace_path)
        runner = StageRunner(workspace, Reporter(quiet=True))
        night = Night(config, workspace, runner, Reporter(quiet=True))
        night.tables = read_data.validate(night)
        return read_data.split(night, read_data.load(night.tables.product, night.config))

    return over


def keys(data):
    return [data.key_before(cut) for cut in data.windows.cuts]


def test_a_further_day_leaves_what_lies_before_it(night_over):
    first = night_over()
    # a user who was not there before, whose name sorts before all others
    second = night_over((20_060.5, "0", 3), (20_060.6, "0", 4))
    assert second.windows.cuts == first.windows.cuts
    assert second.windows.end > first.windows.end
    assert keys(second) == keys(first)
    assert second.key_before(second.windows.end) != first.key_before(first.windows.end)


def test_a_late_event_changes_what_lies_after_it_alone(night_over):
    first = night_over()
    cut = first.windows.cuts[1]
    late = night_over((cut / DAY - 0.001, 0, 1))
    assert late.windows.cuts == first.windows.cuts
    assert keys(late)[0] == keys(first)[0]
    assert not set(keys(late)[1:]) & set(keys(first)[1:])


def test_cuts_move_when_much_has_come_or_other_ones_are_asked_for(night_over):
    first = night_over()
    more = [(20_060 + 0.01 * n, n % USERS, n % ITEMS) for n in range(60)]
    assert night_over(*more).windows.cuts != first.windows.cuts
    assert len(night_over(windows={"cuts": 3}).windows.cuts) == 9
