"""Shown lists: chances of the first place by arithmetic, off-policy estimates and label weights on
generated logs whose truth is known."""

import itertools

import numpy as np
import pytest

from recsys.evaluation.off_policy import off_policy
from recsys.evaluation.report_context import PositionBias
from recsys.evaluation.shown_lists import (
    acted_on,
    bias_of_lists,
    choices_of_lists,
    first_given_set,
    label_weights,
)
from recsys.features.impressions import Impressions
from recsys.features.interactions import Interactions
from recsys.features.ragged import offsets_of

HOUR = 3_600_000_000


def drawn(chance: list[float]) -> np.ndarray:
    """Logged chances of a list drawn in this order without replacement."""
    before = np.cumsum([0.0, *chance[:-1]])
    return np.array(chance) / (1 - before)


def events_of(user: list[int], item: list[int], time: list[int]) -> Interactions:
    n = len(user)
    return Interactions(
        np.array(user, np.int32), np.array(item, np.int32), np.zeros(n, np.int16),
        np.array(time, np.int64), np.full(n, np.nan, np.float32), np.ones(n, np.float32),
        np.ones(n, np.int8), np.arange(n), np.array([f"u{u}" for u in range(9)], object),
        ("click",), 50,
    )  # fmt: skip


def one_list(items: list[int], propensity: np.ndarray, user: int = 0, time: int = 0) -> Impressions:
    return Impressions.of(
        np.array([0, len(items)]), np.array(items, np.int32), np.array([time]),
        user=np.array([user]), propensity=propensity.astype(np.float32),
    )  # fmt: skip


def test_the_first_of_a_set_by_going_through_its_orders() -> None:
    chance = [0.3, 0.2, 0.1]
    total = np.zeros(3)
    for order in itertools.permutations(range(3)):
        total[order[0]] += np.prod(drawn([chance[i] for i in order]))
    found = first_given_set(one_list([7, 8, 9], drawn(chance)))
    np.testing.assert_allclose(found, total / total.sum(), rtol=1e-5)
    assert found.sum() == pytest.approx(1.0)


def test_lists_with_rare_swaps_carry_their_chance_and_unknown_ones_none() -> None:
    swapped = first_given_set(one_list([1, 2, 3], np.array([0.95, 0.9, 0.95])))
    assert swapped[0] == pytest.approx(0.95)
    assert np.isnan(swapped[1:]).all()
    assert np.isnan(first_given_set(one_list([1, 2], np.array([np.nan, np.nan])))).all()


@pytest.fixture(scope="module")
def generated() -> tuple[Impressions, Interactions, np.ndarray, object]:
    """Lists of the generator, their events, the affinity of each shown item, and the world."""
    from recsys.ingestion.generator.settings_of import settings_of
    from recsys.ingestion.generator.simulate import simulate_day
    from recsys.ingestion.generator.world import make_world

    settings = settings_of(3000, 200, 2, seed=5, lists_per_user=3.0)
    world = make_world(settings)
    chunks = [chunk for day in range(2) for chunk in simulate_day(world, day)]
    lengths = np.concatenate([c.length for c in chunks])
    lists = Impressions.of(
        offsets_of(lengths),
        np.concatenate([c.item for c in chunks]),
        np.concatenate([c.shown_at for c in chunks]),
        user=np.concatenate([c.user for c in chunks]),
        propensity=np.concatenate([c.propensity for c in chunks]),
    )
    user = np.concatenate([c.user[c.event_list] for c in chunks])
    item = np.concatenate([c.item[c.event_place] for c in chunks])
    time = np.concatenate([c.event_time for c in chunks])
    n = len(user)
    events = Interactions(
        user, item, np.zeros(n, np.int16), time, np.full(n, np.nan, np.float32),
        np.ones(n, np.float32), np.ones(n, np.int8), np.arange(n),
        np.array([f"u{u}" for u in range(3000)], object), ("view",), 200,
    )  # fmt: skip
    row = np.repeat(np.arange(len(lists)), lengths)
    return lists, events, world.affinity(lists.user[row], lists.items), world


def test_the_bias_is_recovered_from_lists_and_events(generated) -> None:
    from recsys.ingestion.generator.simulate import examination

    lists, events, _, world = generated
    found = bias_of_lists(lists, events, resamples=60)
    known = examination(world.settings)
    held = [a <= k <= b for a, k, b in zip(found.low, known, found.high, strict=True)]
    assert sum(held) >= 8, (found.examination, known)
    assert np.abs(np.array(found.examination) - known).max() < 0.06


def test_the_value_of_another_order_is_estimated_from_the_log(generated) -> None:
    """Showing the shown item of highest affinity first earns what the world says it earns."""
    lists, events, affinity, _ = generated
    log = choices_of_lists(lists, acted_on(lists, events), affinity)
    found = off_policy(log, resamples=300)
    assert found.refused is None
    view = next(b for b in _behaviours() if b.name == "view")
    best = np.maximum.reduceat(affinity, lists.offsets[:-1])
    worth = float((1 / (1 + np.exp(-(view.base + view.slope * best)))).mean())
    for name in ("ips", "snips", "doubly_robust"):
        low, high = found.estimates[name].low, found.estimates[name].high
        assert low <= worth <= high, (name, low, worth, high)
    assert found.logged < found.estimates["snips"].low
    dr, ips = (found.estimates[n] for n in ("doubly_robust", "ips"))
    assert dr.high - dr.low < 1.1 * (ips.high - ips.low)


def _behaviours() -> tuple:
    from recsys.ingestion.generator.world_settings import BEHAVIOURS

    return BEHAVIOURS


def test_too_few_lists_are_refused_in_words(generated) -> None:
    lists, events, affinity, _ = generated
    few = lists.take(np.arange(150))
    log = choices_of_lists(few, acted_on(few, events), affinity[: few.offsets[-1]])
    found = off_policy(log)
    assert found.estimates == {}
    assert "effective choices" in str(found.refused)


def test_a_late_click_weighs_as_many_as_its_place_hid() -> None:
    bias = PositionBias([1.0, 0.5, 0.05], [1.0] * 3, [1.0] * 3, "known")
    lists = one_list([4, 5, 6], np.full(3, np.nan), user=2, time=10 * HOUR)
    events = events_of([2, 2, 2, 3], [5, 6, 9, 5], [11 * HOUR] * 4)
    user, item = np.array([2, 2, 2, 3]), np.array([5, 6, 9, 5])
    begin, end = np.full(4, 9 * HOUR), np.full(4, 20 * HOUR)
    found = label_weights(lists, events, bias, user, item, (begin, end))
    # Place 2: 1/0.5; place 3: no more than 1/0.2; item 9 and user 3 were shown nothing.
    np.testing.assert_allclose(found, [2.0, 5.0, 1.0, 1.0])
    later = label_weights(lists, events, bias, user, item, (begin + 2 * HOUR, end))
    np.testing.assert_allclose(later, 1.0)
