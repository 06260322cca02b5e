"""Tables as people hold them are read, or the error holds the line that helps."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recsys

NAMES = {"userId": "user_id", "movieId": "item_id", "rating": "value"}
SECONDS = [978300760, 978302109, 978301968]


def ratings(**changes):
    """As a MovieLens file has them."""
    return pd.DataFrame(
        {"userId": [1, 1, 2], "movieId": [10, 20, 10], "rating": [5.0, 3.0, 4.0],
         "timestamp": SECONDS}
    ).assign(**changes)  # fmt: skip


def read(table, **more):
    given = {"columns": NAMES, "event_type": "rating", "unit": "s"} | more
    return recsys.Dataset(table, **given)


def as_csv(frame, path, divider):
    frame.to_csv(path, sep=divider, index=False)
    return path


@pytest.mark.parametrize(
    "kind", ["pandas", "index", "arrow", "batch", "parquet", ",", ";", "\t", "|"]
)
def test_the_same_table_in_any_shape(kind, tmp_path):
    frame = ratings()
    table = pa.Table.from_pandas(frame)
    given = {
        "pandas": lambda: frame,
        "index": lambda: frame.set_index("userId"),
        "arrow": lambda: table,
        "batch": lambda: table.to_batches()[0],
        "parquet": lambda: frame.to_parquet(tmp_path / "x.parquet") or tmp_path / "x.parquet",
    }.get(kind, lambda: as_csv(frame, tmp_path / "x.csv", kind))()
    data = read(given)
    expected = pd.DataFrame(
        {
            "user_id": [1, 1, 2],
            "item_id": [10, 20, 10],
            "event_type": "rating",
            "timestamp": pd.to_datetime(SECONDS, unit="s", utc=True).astype("datetime64[us, UTC]"),
            "value": [5.0, 3.0, 4.0],
        }
    )
    pd.testing.assert_frame_equal(data.interactions, expected, check_dtype=False)
    assert data.user_ids.tolist() == [1, 2]
    assert list(frame.columns) == ["userId", "movieId", "rating", "timestamp"], "left as it was"


def test_a_polars_frame_is_read():
    polars = pytest.importorskip("polars")
    assert len(read(polars.from_pandas(ratings()))) == 3
    assert len(read(polars.from_pandas(ratings()).lazy())) == 3


def test_ids_with_leading_zeros_stay_apart(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text(
        "user_id,item_id,timestamp\n007,1,2026-01-01T00:00:00Z\n7,2,2026-01-01T00:00:00Z\n"
    )
    data = recsys.Dataset(file, event_type="click")
    assert data.user_ids.tolist() == ["007", "7"]


@pytest.mark.parametrize(
    ("table", "more", "line"),
    [
        (ratings(), {"columns": None},
         "columns={'userId': 'user_id', 'movieId': 'item_id', 'rating': 'value'}"),
        (pd.DataFrame({"Kunde": ["a"], "Artikel-Nr": ["x"], "Bestellt am": ["2026-01-01"]}), {"columns": None},
         "columns={'Kunde': 'user_id', 'Artikel-Nr': 'item_id', 'Bestellt am': 'timestamp'}"),
        (pd.DataFrame({"who": ["a"], "what": ["x"], "date": ["2026-01-01"]}), {"columns": None},
         "columns={'date': 'timestamp', …: 'user_id', …: 'item_id'}, with its name for …"),
        (ratings(), {"event_type": None}, "event_type='rating'"),
        (ratings().drop(columns="rating"), {"event_type": None, "columns": {"userId": "user_id",
         "movieId": "item_id"}}, "event_type='purchase'"),
        (ratings(), {"unit": None}, "unit='s'"),
        (ratings(timestamp=np.array(SECONDS) * 1000), {"unit": None}, "unit='ms'"),
        (ratings(timestamp=pd.to_datetime(SECONDS, unit="s")), {}, "tz='UTC'"),
        (ratings(timestamp=["2026-01-01 10:00"] * 3), {}, "tz='UTC'"),
        (ratings(timestamp="yesterday"), {}, "pandas.to_datetime"),
        (ratings(userId=[1.0, 1.0, np.nan]), {}, ".astype('Int64')"),
        (ratings(), {"columns": NAMES | {"x": "title"}}, "columns={'movieId': 'item_id'}"),
        (ratings().to_dict("list"), {}, "pandas.DataFrame"),
    ],
)  # fmt: skip
def test_what_a_table_does_not_say_is_asked_with_the_line_that_says_it(table, more, line):
    with pytest.raises(recsys.RecsysError) as problem:
        read(table, **more)
    assert line in problem.value.fix


def test_the_answer_to_each_question_is_taken():
    local = ratings(timestamp=pd.to_datetime(SECONDS, unit="s"))
    lisbon = read(local, tz="America/New_York").interactions["timestamp"]
    assert (
        (lisbon - read(local, tz="UTC").interactions["timestamp"])
        .dt.total_seconds()
        .eq(18000)
        .all()
    )
    with pytest.raises(recsys.UsageError, match="no such time zone"):
        read(local, tz="Mars")
    with pytest.raises(recsys.UsageError, match="say themselves"):
        read(ratings(event_type="click"))


def test_a_split_by_days_leaves_nothing_later_to_learn_from(data):
    train, test = data.split(days=10)
    assert len(train) + len(test) == len(data)
    assert train.interactions["timestamp"].max() < test.interactions["timestamp"].min()
    assert test.history is train


def test_a_split_by_the_last_takes_each_users_last(data):
    train, test = data.split(last=2)
    assert test.interactions.groupby("user_id").size().eq(2).all()
    last = train.interactions.groupby("user_id")["timestamp"].max()
    first = test.interactions.groupby("user_id")["timestamp"].min()
    assert (last < first).all()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "one of them"),
        ({"days": 1, "last": 1}, "one of them"),
        ({"days": 9999}, "take fewer"),
        ({"last": 50}, "take fewer"),
        ({"days": 0}, "more than 0"),
        ({"last": -1}, "more than 0"),
    ],
)
def test_a_split_that_leaves_a_part_empty_is_refused(data, how, said):
    with pytest.raises(recsys.UsageError, match=said):
        data.split(**how)


def test_rows_that_break_a_rule_are_counted_as_in_a_night(frames):
    interactions, items = frames
    with pytest.raises(recsys.DataRefused, match="unknown_item"):
        _ = recsys.Dataset(interactions, items.head(3), event_type="purchase").tables


def test_a_path_that_leads_nowhere_is_answered_with_what_is_there(tmp_path):
    (tmp_path / "articles.csv").write_text("item_id,title\n1,a\n", encoding="utf-8")
    with pytest.raises(recsys.UsageError) as problem:
        recsys.Dataset(tmp_path / "artikel.csv")
    assert problem.value.found.endswith(": articles.csv")
    with pytest.raises(recsys.UsageError, match="no folder"):
        recsys.Dataset(tmp_path / "gone" / "a.csv")
