"""Content sources over large catalogues: what one word or one attribute leads to is bounded."""

import time

import numpy as np
import pytest

from recsys.retrieval.collaborative import neighbours
from recsys.retrieval.collaborative.neighbours import NeighbourRows
from recsys.retrieval.content import attributes, words
from recsys.retrieval.fitted_source import in_chunks


@pytest.fixture
def rows():
    """CSR of 80 rows, 60 columns, with a few columns that nearly all rows have."""
    rng = np.random.default_rng(3)
    chance = 0.9 ** np.arange(60)
    table = rng.random((80, 60)) < chance
    row, column = np.nonzero(table)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=80))])
    return offsets, column.astype(np.int32), np.ones(len(column), np.float32)


def test_an_attribute_leads_to_its_most_liked_items(rows, monkeypatch):
    monkeypatch.setattr(words, "TABLE_VISITS", 0)
    monkeypatch.setattr(words, "LEAST_OF_ONE", 5)
    liking = np.random.default_rng(0).integers(1, 6, 80).astype(np.float64)
    offsets, items, shares = attributes.shares_within(rows, liking, 60)
    for a in range(60):
        having = [i for i in range(80) if a in rows[1][rows[0][i] : rows[0][i + 1]]]
        expected = sorted(sorted(having, key=lambda i: (-liking[i], i))[:5])
        found = slice(offsets[a], offsets[a + 1])
        assert items[found].tolist() == expected
        if having:
            share = liking[expected] / liking[having].sum()
            np.testing.assert_allclose(shares[found], share, rtol=1e-6)


def test_a_small_catalogue_loses_nothing(rows):
    weight = np.arange(len(rows[1]), dtype=np.float64)
    for part, whole in zip(words.bounded(rows, weight), rows, strict=True):
        np.testing.assert_array_equal(part, whole)
    assert NeighbourRows(80_000, 300).keep == 300


def test_the_table_of_a_large_catalogue_is_bounded():
    assert NeighbourRows(400_000, 300).keep == 125
    assert NeighbourRows(10_000_000, 300).keep == neighbours.LEAST_KEPT
    assert NeighbourRows(10_000_000, 20).keep == 20


def test_work_that_has_not_begun_is_not_waited_for():
    """Ctrl-C in a long fit must not wait for all of it."""
    begun = []

    def work(first, until):
        begun.append(first)
        if first == 0:
            raise KeyboardInterrupt
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        in_chunks(work, 2000, 1, size=1)
    assert len(begun) < 1000
