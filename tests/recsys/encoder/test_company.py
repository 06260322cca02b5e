"""Items of a history that ask in the company of what was acted on beside them."""

import numpy as np
import pytest

from recsys.data_schemas.errors import RecsysError
from recsys.encoder.company import COMPANY, Company
from recsys.encoder.tower import InterestSource, Tower
from recsys.features.interactions import DAY, History

D = 4
COMPANIONS = Company(
    np.array([0, 2, 2, 3]), np.array([1, 2, 9], np.int32), np.array([3, 1, 1], np.float32), 0.5
)
"""Beside item 0 are 1 (thrice) and 2, beside 1 nothing, beside 2 an item that is not in the catalogue."""


def history(*items):
    n = len(items)
    return History(
        np.array(items, np.int32),
        np.zeros(n, np.int16),
        np.arange(n, dtype=np.int64) * DAY,
        np.ones(n, np.float32),
        np.ones(n, np.int8),
    )


def test_an_item_turns_towards_those_beside_it():
    vectors = np.eye(D, dtype=np.float32)
    asking = COMPANIONS.asking(vectors, np.arange(D), vectors)
    beside = np.array([0, 3, 1, 0]) / 10**0.5
    wanted = vectors[0] + 0.5 * beside
    np.testing.assert_allclose(asking[0], wanted / np.linalg.norm(wanted), atol=1e-6)
    # Nothing beside it, only what is not known, and an item that came later: as they are.
    np.testing.assert_array_equal(asking[1:], vectors[1:])
    np.testing.assert_array_equal(vectors, np.eye(D))


def test_a_source_asks_in_company_and_compares_texts_alone(tmp_path):
    vectors = np.eye(D, dtype=np.float32)
    Tower.plain(D, 5, 1).save(tmp_path)
    items, now = np.arange(D, dtype=np.int32), 9 * DAY
    alone = InterestSource.open(tmp_path, vectors, 0)
    assert alone.company is None
    COMPANIONS.save(tmp_path)
    source = InterestSource.open(tmp_path, vectors, 0)
    one, both = (s.score(history(0), items, now) for s in (alone, source))
    np.testing.assert_allclose(one[:, 0], [1, 0, 0, 0], atol=1e-6)
    assert both[0, 0] > both[1, 0] > both[2, 0] > both[3, 0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(one[:, 2:], both[:, 2:])  # cosines of texts
    found = source.recall(history(0), 3, now, np.array([1, 0, 0, 0], np.uint8))
    assert found.items.tolist() == [1, 2, 3]
    (tmp_path / "saved").mkdir()
    source.save(tmp_path / "saved")
    again = InterestSource.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.score(history(0), items, now), both)
    # An item that came after the release asks alone.
    more = source.with_extra(vectors[3:])
    assert more.score(history(4), items, now)[3, 0] == pytest.approx(1)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / COMPANY).write_bytes(b"no archive")
    with pytest.raises(RecsysError, match="beside each item"):
        Company.load(tmp_path)
