"""Content sources keep neighbours with few events beside those that many act on."""

import itertools

import numpy as np
import pytest

from recsys.features.interactions import EMPTY_HISTORY
from recsys.retrieval.collaborative.neighbours import united
from recsys.retrieval.content import attributes, bm25
from recsys.retrieval.content.attributes import Attributes
from recsys.retrieval.content.bm25 import Bm25
from recsys.retrieval.content.words import with_columns


def csr(rows):
    """Rows of {column: value}."""
    flat = [(c, v) for row in rows for c, v in row.items()]
    return (
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        np.array([c for c, _ in flat], np.int32),
        np.array([v for _, v in flat], np.float32),
    )


def as_rows(table):
    offsets, column, value = table
    return [
        dict(zip(column[a:b].tolist(), value[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(offsets)
    ]


def test_united_rows_hold_each_column_once():
    first = [{1: 3.0, 2: 1.0}, {}, {0: 5.0}]
    second = [{2: 1.0}, {0: 2.0, 2: 1.0}, {}]
    both = united(csr(first), csr(second))
    assert as_rows(both) == [{1: 3.0, 2: 1.0}, {0: 2.0, 2: 1.0}, {0: 5.0}]


def test_chosen_columns_alone():
    kept = with_columns(csr([{0: 1.0, 2: 2.0}, {1: 3.0}]), np.array([1, 0, 1], np.uint8))
    assert as_rows(kept) == [{0: 1.0, 2: 2.0}, {}]


@pytest.mark.parametrize(
    ("source", "module", "kept"),
    [(Bm25, bm25, "KEPT_MATCHES"), (Attributes, attributes, "KEPT_COMPANIONS")],
)
def test_an_item_without_events_is_found_beside_the_popular_ones(
    world, history, monkeypatch, source, module, kept
):
    """Rows so short that popular neighbours fill them; items 38 and 39 have no event."""
    events, inputs = world
    monkeypatch.setattr(module, kept, 2)
    fitted = source.fit(events, inputs, {}, seed=1, workers=1)
    warm = np.ones(40, np.uint8)
    warm[[38, 39]] = 0
    found = fitted.recall(history([2, 6, 10]), 5, 0, warm)
    assert 38 in found.items.tolist()
    assert len(fitted.recall(EMPTY_HISTORY, 5, 0, warm).items) == 0
