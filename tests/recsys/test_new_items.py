"""Vectors of new texts: encoded once, together, and only where somebody asked for it."""

import threading

import numpy as np
import pytest

from recsys import new_items
from recsys.data_schemas.errors import RecsysError
from recsys.new_items import NewItems, TextVectors


class Encoder:
    """A text's vector is its length and its first letter; calls are kept."""

    def __init__(self):
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        return np.array([[len(t), ord(t[0])] for t in texts], np.float32)


@pytest.fixture
def encoder(monkeypatch):
    made = Encoder()
    monkeypatch.setattr(new_items.TextEncoder, "open", lambda folder: made)
    return made


@pytest.fixture
def vectors(encoder, tmp_path):
    return TextVectors(tmp_path, 2, "{title}")


def test_a_text_is_encoded_once_and_with_others(vectors, encoder):
    vectors.encode(["ab", "c", "ab", ""])
    vectors.encode(["c", "ddd"])
    assert encoder.calls == [["ab", "c"], ["ddd"]]
    assert vectors.get("ab").tolist() == [2.0, ord("a")]
    assert vectors.get("never") is None
    assert vectors.get("") is None


def test_the_oldest_go_when_there_are_too_many(vectors, encoder, monkeypatch):
    monkeypatch.setattr(new_items, "KEPT", 2)
    vectors.encode(["a", "b"])
    vectors.encode(["c"])
    assert [vectors.get(t) is None for t in "abc"] == [True, False, False]


def test_threads_share_one_encoding(vectors, encoder):
    threads = [threading.Thread(target=vectors.encode, args=(["x", "y"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoder.calls == [["x", "y"]]


def test_an_encoder_that_cannot_be_opened_is_lost_not_an_error(monkeypatch, tmp_path):
    def broken(folder):
        raise RecsysError("damaged")

    monkeypatch.setattr(new_items.TextEncoder, "open", broken)
    vectors = TextVectors(tmp_path, 2, "{title}")
    assert not vectors.lost
    vectors.encode(["a"])
    assert vectors.lost
    assert TextVectors(None, 0, "{title}").lost


def test_items_wait_for_their_text_and_keep_the_old_vector_meanwhile(vectors):
    new = NewItems(2)
    for text in ("aa", "", "b"):
        new.append(text)
    assert new.waiting == ["aa", "b"]
    assert new.rows.tolist() == [[0, 0]] * 3
    vectors.encode(["aa"])
    assert new.take(vectors)
    assert new.waiting == ["b"]
    assert [new.has(place) for place in range(3)] == [True, False, False]
    new.retell(0, "ccc")
    assert (new.has(0), new.waits(0), new.rows[0, 0]) == (True, True, 2)
    vectors.encode(["b", "ccc"])
    new.take(vectors)
    assert new.rows[:, 0].tolist() == [3, 0, 1]
    assert not new.take(vectors)


def test_items_that_are_cut_off_leave_nothing_behind(vectors):
    new = NewItems(2)
    new.append("a")
    vectors.encode(["a", "inline"])
    new.append("inline")
    new.take(vectors)
    new.append("late")
    new.cut(1)
    assert (len(new), new.waiting) == (1, ["a"][:0])
    new.append("other")
    assert new.rows[1].tolist() == [0, 0]
    assert not new.has(1)
