"""Draws follow the id: whatever else is there, the same person is drawn the same way."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.draws import at_moments, chance, hash_ids, least
from recsys.features.on_disk import CHUNK

IDS = st.lists(st.text(max_size=8), min_size=1, max_size=40, unique=True)


@settings(deadline=None)  # compiled on first use
@given(IDS, st.integers(0, 2**31), st.data())
def test_a_draw_depends_on_the_id_alone(ids, seed, data):
    other = data.draw(st.permutations(ids))
    some = other[: max(1, len(other) // 2)]
    whole = dict(zip(ids, chance(hash_ids(ids), "folds", seed), strict=True))
    assert chance(hash_ids(some), "folds", seed).tolist() == [whole[name] for name in some]


def test_chances_are_even_and_purposes_seeds_and_moments_independent():
    hashes = hash_ids([f"user {n}" for n in range(20_000)])
    one = chance(hashes, "folds", 7)
    assert (one >= 0).all()
    assert (one < 1).all()
    # a tenth of 20,000 with a standard deviation of 42
    assert np.abs(np.histogram(one, 10, (0, 1))[0] - 2000).max() < 200
    later = at_moments(hashes, np.full(len(hashes), 5))
    for other in (
        chance(hashes, "masks", 7),
        chance(hashes, "folds", 8),
        chance(later, "folds", 7),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_the_least_are_taken_in_their_order():
    assert least(np.array([0.3, 0.1, 0.9, 0.2]), 2).tolist() == [1, 3]
    assert least(np.array([0.3, 0.1]), 5).tolist() == [0, 1]
    assert least(np.array([0.3, 0.1]), 0).tolist() == []


def test_the_least_of_many_are_those_of_all_at_once():
    chances = np.random.default_rng(0).integers(0, 5000, CHUNK + 5000) / 5000
    together = np.sort(np.argsort(chances, kind="stable")[:700])
    np.testing.assert_array_equal(least(chances, 700), together)
