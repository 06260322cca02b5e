"""Where the past is cut, and what is refused before any work is done."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data_schemas.config import FeaturesConfig, WindowsConfig
from recsys.data_schemas.errors import DataRefused
from recsys.features.catalogue import Catalogue
from recsys.features.interactions import DAY
from recsys.ingestion.tables.ingest import ITEMS_FILE
from recsys.ingestion.tables.resolution import Resolution
from recsys.training.night.window_plan import _over, windows_of
from recsys.training.windows import Windows, plan_windows


def planned(interactions):
    return plan_windows(interactions, WindowsConfig(), ordinal_until=None)


def at_days(interactions, days):
    return replace(interactions, time=np.array(days, np.int64) * DAY)


def test_one_moment_cannot_be_split(interactions_of):
    with pytest.raises(DataRefused, match="one single timestamp"):
        planned(at_days(interactions_of([0, 0, 1], [0, 1, 2]), [3, 3, 3]))


def test_no_event_cannot_be_split(interactions_of):
    with pytest.raises(DataRefused, match="no event"):
        planned(interactions_of([], []))


def test_two_moments_leave_one_window_which_is_the_test(interactions_of):
    windows = planned(at_days(interactions_of([0, 0, 1, 1], [0, 1, 2, 3]), [0, 1, 0, 1]))
    assert windows.ranker == ()
    assert windows.test == (DAY,)


def test_only_repeats_at_the_end_are_refused(interactions_of):
    # item 0 is new to both users on day 0 only; lists leave it out afterwards
    repeats = at_days(interactions_of([0, 1] * 10, [0] * 20), np.arange(20) // 2)
    with pytest.raises(DataRefused, match="new to them"):
        planned(repeats)
    fresh = repeats.item.copy()
    fresh[-1] = 1
    assert planned(replace(repeats, item=fresh)).test


def test_dislikes_alone_are_refused(interactions_of):
    users, items = [0, 1] * 10, list(range(20))
    with pytest.raises(DataRefused, match="no event is positive"):
        planned(at_days(interactions_of(users, items, [-1] * 20), np.arange(20) // 2))


def test_cuts_stay_while_little_has_come_since():
    times = np.arange(0, 120)
    windows = Windows("time", "by date", (20, 60, 80), 100, 2)
    longer = windows.longer(105, times, growth=0.1, days=1)
    assert (longer.cuts, longer.first_test) == (windows.cuts, 2)
    assert longer.label_end(60) == 80
    assert longer.label_end(80) == 105
    assert "5 events have come since" in longer.why
    assert windows.longer(100, times, growth=0.1, days=1) == windows
    assert windows.longer(108, times, growth=0.1, days=1) is not None
    assert windows.longer(109, times, growth=0.1, days=1) is None  # 9 against 80
    assert windows.longer(99, times, growth=0.1, days=1) is None  # a night of the past
    late = 100 + 2 * DAY
    assert windows.longer(late, np.append(times[:100], late - 1), growth=0.1, days=1) is None


def test_a_kept_plan_without_a_window_for_the_ranker_gives_way(interactions_of, tmp_path):
    """It would be kept for a week although there is something to learn from by now."""
    pointer = tmp_path / "windows.json"
    config = SimpleNamespace(windows=WindowsConfig(), features=FeaturesConfig())
    wishes = WindowsConfig().model_dump(mode="json")
    seconds = Resolution("seconds", None, "")
    events = at_days(interactions_of([0, 1, 2] * 40, list(range(120))), np.arange(120) // 6)
    first = windows_of(events, seconds, config, pointer).windows
    assert first.ranker
    without = replace(first, cuts=first.test, first_test=0)
    pointer.write_text(json.dumps({"wishes": wishes, "windows": without.facts()}))
    assert windows_of(events, seconds, config, pointer).windows == first
    pointer.write_text(json.dumps({"wishes": wishes, "windows": first.facts()}))
    record = {"wishes": wishes, "windows": first.facts()}
    assert windows_of(events, seconds, config, pointer).record == record


def test_windows_are_read_as_they_were_written():
    windows = Windows("time", "by date", (20, 60, 80), 100, 2)
    assert Windows.parse(json.loads(json.dumps(windows.facts()))) == windows


@pytest.mark.parametrize(("vectors", "kept"), [([[1.0, 2.0]] * 4, True), ([[1.0]] * 4, False)])
def test_windows_take_tonights_items_where_their_vectors_are_others(
    tmp_path, interactions_of, vectors, kept
):
    def items(values):
        table = {"item_id": [f"i{n}" for n in range(4)], "title": ["a"] * 4, "vector": values}
        return pa.table(table)

    pq.write_table(items([[1.0, 2.0]] * 4), tmp_path / ITEMS_FILE)
    events = interactions_of([0, 0, 1], [0, 1, 2], n_items=4)
    inputs = SimpleNamespace(
        windows=SimpleNamespace(test=[events.time.max()]),
        interactions=events,
        config=SimpleNamespace(features=FeaturesConfig()),
        tables=SimpleNamespace(
            catalogue=Catalogue.from_table(items(vectors)),
            users=None,
            impressions=None,
            summary={},
            resolution=None,
            meaning=None,
        ),
    )
    assert (_over(inputs, tmp_path) is not None) == kept
