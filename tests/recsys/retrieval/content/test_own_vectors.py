"""Vectors that items brought: near by cosine, items that came later beside the others."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data_schemas.columns import ITEM_ID, VECTOR
from recsys.data_schemas.errors import DataRefused
from recsys.features.catalogue import Catalogue
from recsys.retrieval.content import own_vectors
from recsys.retrieval.content.own_vectors import OwnVectors
from recsys.retrieval.fitted_source import SourceInputs
from recsys.testing import SourceTests


class TestConformance(SourceTests):
    source = OwnVectors


PLANE = [[2.0, 0.0], [0.0, 3.0], None, [1.0, 1.0], [-1.0, 0.0]]


def catalogue(vectors=PLANE):
    table = {
        ITEM_ID: [f"i{k}" for k in range(len(vectors))],
        VECTOR: pa.array(vectors, pa.list_(pa.float32())),
    }
    return Catalogue.from_table(pa.table(table))


def source(interactions_of, vectors=PLANE):
    events = interactions_of([0, 0, 1], [0, 1, 3], n_items=len(vectors))
    inputs = SourceInputs(catalogue(vectors), [""] * len(vectors))
    return OwnVectors.fit(events, inputs, {}, seed=1, workers=1)


def test_scores_are_cosines_with_the_mean_and_the_nearest(interactions_of, history):
    found = source(interactions_of).score(history([1, 0]), np.arange(5, dtype=np.int32), 9)
    mean = np.array([1.0, 0.8]) / np.sqrt(1.0 + 0.8**2)  # decay .8 for the older item
    expected = [mean[0], mean[1], np.nan, (mean[0] + mean[1]) / np.sqrt(2), -mean[0]]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found[:, 1], [1.0, 1.0, np.nan, half, 0.0], rtol=1e-6, atol=1e-7)


def test_items_without_a_vector_say_nothing(interactions_of, history):
    mine = source(interactions_of)
    assert np.isnan(mine.score(history([2]), np.arange(5, dtype=np.int32), 9)).all()
    listed = mine.recall(history([0]), 9, 9, np.zeros(5, np.uint8))
    assert listed.items.tolist() == [0, 3, 1, 4]


def test_later_items_are_listed_scored_and_read_in_a_history(interactions_of, history):
    mine = source(interactions_of)
    more = mine.with_extra(np.array([[9.0, 1.0], [0.0, 0.0]], np.float32))
    free = np.zeros(7, np.uint8)
    listed = more.recall(history([0]), 3, 9, free)
    assert listed.items.tolist() == [0, 5, 3]
    scores = more.score(history([0]), np.array([5, 6, 0], np.int32), 9)[:, 0]
    np.testing.assert_array_equal(scores[[2, 0]], listed.scores[:2])
    assert np.isnan(scores[1])
    free[5] = 1
    assert more.recall(history([0]), 3, 9, free).items.tolist() == [0, 3, 1]
    assert more.recall(history([5]), 1, 9, np.zeros(7, np.uint8)).items.tolist() == [5]
    # What was there before is as it was, and vectors of another model are none.
    np.testing.assert_array_equal(
        more.score(history([0, 1]), np.arange(5, dtype=np.int32), 9),
        mine.score(history([0, 1]), np.arange(5, dtype=np.int32), 9),
    )
    other = mine.with_extra(np.ones((1, 3), np.float32))
    assert other.recall(history([0]), 9, 9, np.zeros(6, np.uint8)).items.tolist() == [0, 3, 1, 4]


def test_large_catalogues_are_searched_by_lists(interactions_of, history, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32).tolist()
    whole = source(interactions_of, vectors)
    monkeypatch.setattr(own_vectors, "LISTS_FROM", 100)
    indexed = source(interactions_of, vectors)
    assert indexed.lists is not None
    free = np.zeros(400, np.uint8)
    a, b = (s.recall(history([7, 8]), 20, 9, free) for s in (whole, indexed))
    assert a.items.tolist() == b.items.tolist()


def test_a_catalogue_keeps_vectors_and_those_that_come_later(tmp_path):
    mine = catalogue()
    mine.save(tmp_path / "c")
    opened = Catalogue.open(tmp_path / "c")
    assert opened.vector_length == 2
    np.testing.assert_array_equal(opened.vectors, mine.vectors)
    opened.append({ITEM_ID: "late", VECTOR: [0.5, 0.25]})
    opened.append({ITEM_ID: "none"})
    opened.append({ITEM_ID: "other", VECTOR: [0.5, 0.25, 1.0]})
    assert opened.fields(5)[VECTOR] == [0.5, 0.25]
    assert [opened.fields(i)[VECTOR] for i in (2, 6, 7)] == [None, None, None]
    assert opened.vectors_from(4).tolist() == [[-1.0, 0.0], [0.5, 0.25], [0.0, 0.0], [0.0, 0.0]]
    opened.update(0, {VECTOR: [4.0, 4.0]})
    opened.save(tmp_path / "again")
    assert Catalogue.open(tmp_path / "again").vectors.tolist()[0] == [4.0, 4.0]
    extent = opened.extent()
    opened.append({ITEM_ID: "lent", VECTOR: [1.0, 2.0]})
    opened.cut(extent)
    opened.append({ITEM_ID: "next"})
    assert opened.fields(8)[VECTOR] is None


def test_a_catalogue_without_vectors_does_without():
    plain = Catalogue.from_table(pa.table({ITEM_ID: ["a"]}))
    plain.append({ITEM_ID: "b", VECTOR: [1.0]})
    assert plain.vectors is None
    assert VECTOR not in plain.fields(1)
    assert plain.vectors_from(1).shape == (1, 0)


def test_vectors_of_several_lengths_are_refused():
    with pytest.raises(DataRefused, match="1 and 2 numbers"):
        catalogue([[1.0], [1.0, 2.0]])
