"""Identifiers to indices: a dictionary is the reference."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.ids import IdIndex, _first

words = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True)


@settings(max_examples=50, deadline=None)
@given(words, words)
def test_is_the_dictionary(known, others):
    index = IdIndex.build(known)
    added = [word for word in others if word not in known]
    places = [index.add(word) for word in added]
    assert places == list(range(len(known), len(known) + len(added)))
    reference = {word: place for place, word in enumerate(known + added)}
    asked = [*known, *others, "nobody\0"]
    assert index.indices_of(asked).tolist() == [reference.get(word, -1) for word in asked]
    assert [index.index_of(word) for word in asked] == [reference.get(w, -1) for w in asked]
    assert [index.id_of(i) for i in range(len(index))] == known + added
    assert index.all().to_pylist() == known + added


def test_equal_hashes_are_told_apart_by_their_bytes():
    index = IdIndex.build(["a", "b", "c"])
    same = IdIndex(
        index._block, index._offsets, np.full(3, index._hashes[0]), np.arange(3, dtype=np.int32)
    )
    shared = index.id_of(int(index._order[0]))
    assert same.index_of(shared) == "abc".index(shared)


def test_opens_what_it_saved_with_what_was_added(tmp_path):
    index = IdIndex.build(pa.chunked_array([["x"], ["long identifier", ""]]))
    index.add("new")
    index.save(tmp_path, "ids")
    opened = IdIndex.open(tmp_path, "ids")
    assert opened.indices_of(["new", "", "x", "other"]).tolist() == [3, 2, 0, -1]
    assert opened.add("other") == 4


def test_drops_what_was_added_last():
    index = IdIndex.build(["a"])
    index.add("b")
    index.add("c")
    index.forget_from(2)
    assert index.indices_of(["a", "b", "c"]).tolist() == [0, 1, -1]
    assert index.add("d") == 2


def test_an_empty_index_knows_nothing(tmp_path):
    IdIndex.build([]).save(tmp_path, "none")
    opened = IdIndex.open(tmp_path, "none")
    assert opened.index_of("a") == -1
    assert opened.indices_of(["a"]).tolist() == [-1]
    assert opened.all().to_pylist() == []


@pytest.mark.parametrize("bits", [64, 40, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 50, 3000])
def test_a_hash_is_found_where_halving_finds_it(size, bits):
    """Also where hashes are not spread evenly, which only costs time."""
    draw = np.random.default_rng(size + bits)
    hashes = np.sort(draw.integers(0, 2**bits - 1, size, np.uint64, endpoint=True))
    asked = np.concatenate(
        [hashes[:100], hashes[-100:], hashes[:100] + np.uint64(1), np.array([0, 2**64 - 1], "u8"),
         draw.integers(0, 2**64 - 1, 100, np.uint64)]
    )  # fmt: skip
    for wanted in asked:
        assert _first(hashes, wanted) == np.searchsorted(hashes, wanted)
