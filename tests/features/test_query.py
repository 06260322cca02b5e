"""The SQL of the counters: its text as reviewed, and its numbers against a loop over events."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from recsys.data_schemas.errors import UsageError
from recsys.features.backends import open_backend, sql_of
from recsys.features.counter_query import (
    BOUNDED,
    BUCKET,
    ENTITY,
    EVENTS,
    KIND,
    KNOWN_AT,
    PAIRS,
    POSITION_BOUND,
    ROW,
    CountColumn,
    unknown_yet,
    window_counts,
)

SNAPSHOTS = Path(__file__).parent / "snapshots"
COLUMNS = (CountColumn((), 0), CountColumn((), 24), CountColumn((1,), 24), CountColumn((0, 2), 168))
QUERIES = {"window_counts": window_counts, "unknown_yet": unknown_yet}


@pytest.mark.parametrize("dialect", ["duckdb", "pyspark"])
@pytest.mark.parametrize("name", QUERIES)
def test_generated_sql_is_as_reviewed(name, dialect):
    """Set UPDATE_SNAPSHOTS=1 to write what is generated now, and review the difference."""
    file = SNAPSHOTS / f"{name}.{dialect}.sql"
    sql = sql_of(QUERIES[name], COLUMNS, dialect) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.write_text(sql, encoding="utf-8")
    assert sql == file.read_text(encoding="utf-8")


event = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-3, 200), st.integers(0, 50))
pair = st.tuples(st.integers(0, 3), st.integers(-3, 205))


def table(rows, *columns):
    values = list(zip(*rows, strict=True)) or [[] for _ in columns]
    types = {ENTITY: np.int32, KIND: np.int16}
    return {
        name: np.array(column, types.get(name, np.int64))
        for name, column in zip(columns, values, strict=True)
    }


def counted(events, entity, bucket, column):
    return sum(
        e == entity
        and b < bucket
        and (not column.width or b >= bucket - column.width)
        and (not column.kinds or k in column.kinds)
        for e, k, b, _ in events
    )


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(event, max_size=60), st.lists(pair, min_size=1, max_size=20, unique=True))
def test_counts_are_those_of_a_loop(events, asked):
    backend = open_backend("duckdb", 500)
    backend.put(EVENTS, table(events, ENTITY, KIND, BUCKET, KNOWN_AT))
    backend.put(PAIRS, table(asked, ENTITY, BUCKET))
    found = backend.run(window_counts, COLUMNS)
    backend.close()
    rows = list(zip(found[ENTITY].tolist(), found[BUCKET].tolist(), strict=True))
    assert sorted(rows) == sorted(asked)
    for column in COLUMNS:
        assert found[column.name].tolist() == [counted(events, *row, column) for row in rows]


def test_events_known_later_are_counted_for_each_row():
    events = [(0, 1, 5, 10), (0, 0, 5, 11), (0, 1, 9, 12), (1, 1, 5, 13)]
    rows = [(7, 0, 8, 11), (8, 0, 10, 0), (9, 1, 6, 99)]
    backend = open_backend("duckdb", 500)
    backend.put(EVENTS, table(events, ENTITY, KIND, BUCKET, KNOWN_AT))
    backend.put(BOUNDED, table(rows, ROW, ENTITY, BUCKET, POSITION_BOUND))
    found = backend.run(unknown_yet, COLUMNS)
    backend.close()
    order = np.argsort(found[ROW])
    assert found[ROW][order].tolist() == [7, 8], "the third row knew everything"
    assert found[COLUMNS[0].name][order].tolist() == [1, 3]
    assert found[COLUMNS[2].name][order].tolist() == [0, 2]


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="unknown features backend"):
        open_backend("mysql", 100)
