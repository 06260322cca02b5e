"""Tables and the log behind them, joined, are the tables that would have held everything."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.meaning import DEFAULT_TYPES, EventMeaning
from recsys.features.catalogue import Catalogue
from recsys.features.parity import ItemPlaces, with_log
from recsys.features.random_world import RandomWorld, _impressions

MEANING = EventMeaning(DEFAULT_TYPES)
COLUMNS = ("item", "time", "weight", "grade", "position")


def log_table(records, base=0):
    """Event records as the log's export has them."""
    events = [r for r in records if r.kind == "event"]
    table = {name: [r.payload[name] for r in events] for name in events[0].payload}
    table |= {
        "timestamp": pa.array(table["timestamp"], pa.timestamp("us", "UTC")),
        "value": pa.array(table["value"], pa.float64()),
        "position": [r.position - base for r in events],
    }
    return pa.table(table)


@pytest.mark.parametrize("cut", [0, 80, 249])
def test_tables_and_log_are_the_whole(trial: RandomWorld, cut):
    catalogue, whole = Catalogue.from_table(trial.table), trial.interactions
    base = whole.where(whole.position < cut)
    joined = with_log(base, log_table(trial.log[cut:]), ItemPlaces(catalogue, {}), MEANING, 0)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert joined.user_ids[joined.user].tolist() == whole.user_ids[whole.user].tolist()
    assert [joined.kinds[k] for k in joined.kind] == [whole.kinds[k] for k in whole.kind]


def test_the_log_is_numbered_behind_the_tables(trial: RandomWorld):
    catalogue, whole = Catalogue.from_table(trial.table), trial.interactions
    base = whole.where(whole.position < 80)
    log = log_table(trial.log[80:], base=80)
    joined = with_log(base, log, ItemPlaces(catalogue, {}), MEANING, 80)
    np.testing.assert_array_equal(joined.position, whole.position)


def test_an_item_counts_from_the_moment_it_was_posted(trial: RandomWorld):
    """Events on it before are left out, as the fold leaves them out; other types and users stay."""
    catalogue, base = Catalogue.from_table(trial.table), trial.interactions
    log = pa.table(
        {
            "user_id": ["new", "user-1", "user-1"],
            "item_id": ["fresh", "fresh", "never posted"],
            "event_type": ["wish", "wish", "wish"],
            "timestamp": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
            "value": pa.array([None, 4.5, None], pa.float64()),
            "position": [5, 9, 10],
        }
    )
    places = ItemPlaces(catalogue, {"fresh": (catalogue.n_items, 7)})
    joined = with_log(base, log, places, MEANING, len(trial.log))
    assert len(joined) == len(base) + 1
    assert joined.n_items == base.n_items + 1
    assert (joined.item[0], joined.time[0], joined.grade[0]) == (catalogue.n_items, 2, 1)
    assert joined.kinds == (*base.kinds, "wish")


def test_nothing_behind_the_tables_changes_nothing(trial: RandomWorld):
    catalogue, base = Catalogue.from_table(trial.table), trial.interactions
    assert with_log(base, log_table(trial.log)[:0], ItemPlaces(catalogue, {}), MEANING, 9) is base


def test_lists_of_tables_and_log_are_the_whole(trial: RandomWorld):
    catalogue = Catalogue.from_table(trial.table)
    first, second = (_impressions(part, catalogue) for part in (trial.log[:120], trial.log[120:]))
    joined, whole = first.joined(second), trial.impressions
    for name in ("time", "position", "offsets", "items"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert (first.always_known().position < 0).all()
