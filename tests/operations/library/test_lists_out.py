"""Ids as Arrow, Decimal and nothing at all give them."""

from decimal import Decimal

import pyarrow as pa
import pytest

import recsys
from recsys.operations.library.lists_out import as_ids


@pytest.mark.parametrize("given", [pa.array(["a", None]), pa.array([True]), [Decimal("1.5")], None])
def test_ids_of_arrow_that_name_nobody_are_refused(given):
    with pytest.raises(recsys.UsageError, match="names nobody"):
        as_ids(given, "users")


@pytest.mark.parametrize("given", [pa.array([1.0, 2.0]), pa.array([1, 2]), [Decimal("1.0"), 2]])
def test_whole_numbers_of_arrow_are_ids(given):
    assert as_ids(given, "users") == ["1", "2"]
