"""A known position bias is recovered within its interval, by each method."""

import random
from dataclasses import replace

import numpy as np
import pytest

from recsys.data_schemas.errors import DataRefused, UsageError
from recsys.evaluation.position_bias import (
    ShownRows,
    estimate_position_bias,
    first_place_chance,
    rows_of_lists,
    swaps_of_lists,
)
from recsys.features.impressions import Impressions
from recsys.features.ragged import offsets_of

PLACES = 5
KNOWN = np.array([1.0, 0.7, 0.5, 0.4, 0.3])
"""Looked at, relative to the first place."""


def shown_lists(lists: int, *, noise: float, swap: bool, seed: int) -> ShownRows:
    """Lists of five of thirty items, ordered by relevance plus noise; clicks = seen × relevant."""
    rng = np.random.default_rng(seed)
    relevance = np.linspace(0.6, 0.05, 30)
    picked = np.argsort(rng.random((lists, 30)), axis=1)[:, :PLACES]
    score = relevance[picked] + noise * rng.normal(size=picked.shape)
    order = np.argsort(-score, axis=1)
    picked, score = np.take_along_axis(picked, order, 1), np.take_along_axis(score, order, 1)
    other = np.full(picked.shape, -1)
    if swap:
        upper = rng.integers(0, PLACES - 1, lists)
        row = np.arange(lists)
        flip = rng.random(lists) < 0.5
        for table in (picked, score):
            a, b = table[row, upper].copy(), table[row, upper + 1].copy()
            table[row, upper], table[row, upper + 1] = np.where(flip, b, a), np.where(flip, a, b)
        other[row, upper], other[row, upper + 1] = upper + 1, upper
    clicked = rng.random(picked.shape) < KNOWN * relevance[picked]
    return ShownRows(
        np.tile(np.arange(PLACES), lists),
        picked.ravel(),
        clicked.ravel().astype(int),
        np.repeat(np.arange(lists) // 2, PLACES),
        other.ravel() if swap else None,
        score.ravel(),
    )


@pytest.mark.parametrize(
    ("noise", "swap", "method"),
    [(0.0, True, "randomised swaps"), (0.3, False, "intervention harvesting")],
)
def test_known_bias_is_recovered(noise: float, swap: bool, method: str) -> None:
    shown = shown_lists(12_000, noise=noise, swap=swap, seed=4)
    found = estimate_position_bias(shown, PLACES, resamples=60)
    assert found.method.startswith(method)
    assert found.examination[0] == pytest.approx(1.0)
    for place in range(1, PLACES):
        assert found.low[place] <= KNOWN[place] <= found.high[place], place
        assert found.high[place] - found.low[place] < 0.35


def test_em_is_the_last_resort_and_sees_the_fall() -> None:
    """Questions never move, so only the score's bands can speak."""
    shown = shown_lists(12_000, noise=0.3, swap=False, seed=5)
    fixed = ShownRows(
        shown.place, np.arange(len(shown.place)), shown.clicked, shown.user, None, shown.score
    )
    found = estimate_position_bias(fixed, PLACES, resamples=20)
    assert found.method.startswith("EM over 50 bands")
    assert found.examination[0] == 1.0
    assert list(found.examination) == sorted(found.examination, reverse=True)
    assert np.abs(np.array(found.examination) - KNOWN).max() < 0.15


def test_no_bias_is_found_where_there_is_none() -> None:
    shown = shown_lists(8000, noise=0.3, swap=True, seed=6)
    rng = np.random.default_rng(1)
    flat = ShownRows(
        shown.place, shown.question, (rng.random(len(shown.place)) < 0.2).astype(int),
        shown.user, shown.swapped_with,
    )  # fmt: skip
    found = estimate_position_bias(flat, PLACES, resamples=60)
    assert all(low <= 1.0 <= high for low, high in zip(found.low, found.high, strict=True))


def test_rows_that_cannot_speak_are_refused_with_a_remedy() -> None:
    place = np.zeros(10, int)
    with pytest.raises(DataRefused, match="no click"):
        estimate_position_bias(ShownRows(place, place, place, place), 3)
    with pytest.raises(DataRefused, match="explore_share"):
        estimate_position_bias(ShownRows(place, place, place + 1, place), 3)
    with pytest.raises(UsageError, match="one length"):
        ShownRows(place, place, place[:3], place)


def lists_with(sizes, propensity, user=None):
    """Lists of these sizes, drawn or left alone with these chances."""
    return Impressions.of(
        offsets_of(sizes), np.zeros(len(propensity), np.int32), np.zeros(len(sizes), np.int64),
        user=np.zeros(len(sizes), np.int64) if user is None else user, propensity=propensity,
    )  # fmt: skip


def test_the_services_rare_swaps_tell_the_bias() -> None:
    """Lists as the service explores and logs them; the items never change their own place."""
    from recsys.serving.experiments import explore

    coin, rng = random.Random(3), np.random.default_rng(3)
    relevance = np.array([0.9, 0.7, 0.6, 0.5, 0.5])
    lists, items, chances = 30_000, [], []
    for _ in range(lists):
        shown, propensity = explore(list(range(PLACES)), 0.3, coin)
        items.append(shown)
        chances.append(propensity)
    clicked = rng.random((lists, PLACES)) < KNOWN * relevance[np.array(items)]
    logged = lists_with(np.full(lists, PLACES), np.concatenate(chances), np.arange(lists))
    shown = swaps_of_lists(logged, clicked.ravel().astype(int))
    found = estimate_position_bias(shown, PLACES, resamples=60)
    assert found.method.startswith("randomised swaps")
    for place in range(1, PLACES):
        assert found.low[place] <= KNOWN[place] <= found.high[place], place
        assert found.high[place] - found.low[place] < 0.25


def test_lists_without_swaps_give_no_rows() -> None:
    clicked = np.ones(3, int)
    sure = swaps_of_lists(lists_with([3], np.ones(3)), clicked)
    drawn = swaps_of_lists(lists_with([3], np.array([0.2, 0.1, 0.3])), clicked)
    unknown = swaps_of_lists(lists_with([3], np.full(3, np.nan)), clicked)
    single = swaps_of_lists(lists_with([1], np.ones(1)), clicked[:1])
    assert len(sure.place) == len(drawn.place) == len(unknown.place) == len(single.place) == 0


def test_the_bias_of_the_generator_is_recovered() -> None:
    """Personal lists drawn at random: questions are items within a band of how likely they were."""
    from recsys.ingestion.generator.settings_of import settings_of
    from recsys.ingestion.generator.simulate import examination, simulate_day
    from recsys.ingestion.generator.world import make_world

    settings = settings_of(2000, 200, 2, seed=5, lists_per_user=3.0)
    world = make_world(settings)
    chunks = [chunk for day in range(2) for chunk in simulate_day(world, day)]
    clicked = [np.isin(np.arange(len(c.item)), c.event_place).astype(int) for c in chunks]
    lengths, propensity, user, item = (
        np.concatenate([getattr(c, name) for c in chunks])
        for name in ("length", "propensity", "user", "item")
    )
    lists = replace(lists_with(lengths, propensity, user), items=item)
    chance = first_place_chance(lists)
    band = np.searchsorted(np.quantile(chance, [0.2, 0.4, 0.6, 0.8]), chance)
    shown = rows_of_lists(lists, np.concatenate(clicked), question=item * 5 + band)
    found = estimate_position_bias(shown, settings.list_length, resamples=40)
    known = examination(settings)
    assert np.abs(np.array(found.examination) - known).max() < 0.04
    held = [a <= k <= b for a, k, b in zip(found.low, known, found.high, strict=True)]
    assert sum(held) >= 8, held


def test_first_place_chance_undoes_the_conditioning() -> None:
    """Items of chance 0.5, 0.3, 0.2 drawn in this order: 0.5, then 0.3/0.5, then 0.2/0.2."""
    found = first_place_chance(lists_with([3], np.array([0.5, 0.6, 1.0])))
    np.testing.assert_allclose(found, [0.5, 0.3, 0.2])
