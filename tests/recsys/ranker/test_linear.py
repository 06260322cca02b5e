"""The linear part: columns that say the same thing, and weights that do not run away."""

import numpy as np
import pytest

from recsys.ranker.linear import Design, LinearPart


@pytest.fixture(scope="module")
def rows():
    """200 groups of ten rows: a count, the same count read a little later, and noise."""
    draw = np.random.default_rng(0)
    count = draw.exponential(size=2000)
    later = count * (1 + 0.01 * draw.normal(size=2000))
    x = np.column_stack([count, later, draw.normal(size=2000)]).astype(np.float32)
    target = np.zeros(2000, np.float32)
    best = (count + draw.gumbel(size=2000)).reshape(200, 10).argmax(1)
    target[np.arange(200) * 10 + best] = 1
    return x, target, np.arange(0, 2001, 10)


def test_the_second_of_two_twins_has_no_weight(rows):
    x, target, offsets = rows
    part = LinearPart.fit(x, target, offsets, penalty=1.0)
    assert part.weights[0] > 0.3
    assert part.weights[1] == 0.0
    assert part.weights[2] != 0.0


def test_a_shift_of_one_twin_alone_changes_no_score(rows):
    x, target, offsets = rows
    part = LinearPart.fit(x, target, offsets, penalty=1.0)
    shifted = x.copy()
    shifted[:, 1] *= 1.2
    np.testing.assert_array_equal(part.score(shifted), part.score(x))


def test_columns_that_differ_are_both_kept():
    draw = np.random.default_rng(1)
    first = draw.normal(size=1000)
    x = np.column_stack([first, first + 0.5 * draw.normal(size=1000)]).astype(np.float32)
    assert (Design.fit(x).scale > 0).all()
