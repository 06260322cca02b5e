"""A ranker with a share of the fusion: its score, its shares, its files."""

import numpy as np
import pytest

from recsys.data_schemas.errors import RecsysError
from recsys.ranker import Blend, Ranker
from recsys.ranker.linear import Design, LinearPart
from recsys.ranker.model import BLEND_FILE

NAMES = ("taste", "fused.score", "count.item.any.all")


@pytest.fixture
def blended():
    design = Design(np.zeros(3, bool), np.zeros(3), np.ones(3), np.array([1], np.int32))
    linear = LinearPart(design, np.array([2.0, 1.0, 0.1, -0.5]))
    return Ranker(NAMES, linear, blend=Blend(0.75, 10.0, 1, 0.4, 2))


X = np.array([[1.0, 0.02, 3.0], [0.5, np.nan, 0.0]], np.float32)


def test_the_score_is_the_convex_sum(blended):
    own = np.array([2.0 + 0.02 + 0.3, 1.0 - 0.5])
    expected = 0.75 * own + 10.0 * np.array([0.02, 0.0]) + 0.4 / np.array([4.0, 1.0])
    np.testing.assert_allclose(blended.score(X), expected, 1e-6)


def test_the_shares_sum_to_the_score(blended):
    np.testing.assert_allclose(blended.contributions(X).sum(axis=1), blended.score(X), 1e-6)


def test_it_is_read_as_it_was_written(blended, tmp_path):
    blended.save(tmp_path)
    opened = Ranker.load(tmp_path)
    assert opened.blend == blended.blend
    np.testing.assert_array_equal(opened.score(X), blended.score(X))


OUTSIDE = '{"own": 1.0, "fusion": 1.0, "fused_column": 3, "few": 0.0, "events_column": -1}'


@pytest.mark.parametrize("text", ["{", "{}", OUTSIDE])
def test_a_damaged_blend_is_refused(blended, tmp_path, text):
    blended.save(tmp_path)
    (tmp_path / BLEND_FILE).write_text(text)
    with pytest.raises(RecsysError, match="blend"):
        Ranker.load(tmp_path)
