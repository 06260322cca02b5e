from datetime import UTC, datetime, timedelta, timezone

import pytest

from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import DAY, HOUR
from recsys.features.time_buckets import (
    MISSING_TIME,
    UNBOUNDED,
    microseconds,
    window_buckets,
    window_name,
    window_us,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (17, 17),
        (None, MISSING_TIME),
        ("1970-01-02T00:00:00Z", DAY),
        ("1970-01-01T01:00:00.000001+01:00", 1),
        ("1970-01-02", DAY),
        (datetime(1970, 1, 1, 0, 0, 0, 123456, UTC), 123456),
        (datetime(1969, 12, 31, 23, 0, tzinfo=timezone(timedelta(hours=-1))), 0),
    ],
)
def test_times_are_microseconds(value, expected):
    assert microseconds(value) == expected


@pytest.mark.parametrize("name", ["all", "90m", "6h", "7d"])
def test_windows_are_written_as_they_are_read(name):
    assert window_name(window_us(name)) == name


def test_weeks_are_days():
    assert window_name(window_us("2w")) == "14d"


@pytest.mark.parametrize("name", ["", "7", "d", "0d", "-1d", "1.5h", "7 d"])
def test_a_window_that_is_not_one_is_refused(name):
    with pytest.raises(UsageError, match="a window is not understood"):
        window_us(name)


def test_a_window_shorter_than_a_bucket_is_refused():
    with pytest.raises(UsageError, match=r"30m with buckets of 1h"):
        window_buckets(HOUR // 2, HOUR)


def test_a_window_of_part_buckets_is_refused():
    with pytest.raises(UsageError, match=r"a multiple of 1d"):
        window_buckets(36 * HOUR, DAY)


def test_the_unbounded_window_has_no_width():
    assert window_buckets(UNBOUNDED, HOUR) == 0
