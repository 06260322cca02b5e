"""One day of lists and what users did with them, as arrays.

Shapes: L lists of a chunk, S places in a list, M draws per list, E events.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.features.interactions import (
    DAY,
    HOUR,
    SECOND,
    Ints,
    Longs,
)
from recsys.ingestion.generator.world import (
    TOPICS,
    Array,
    World,
    make_world,
)
from recsys.ingestion.generator.world_settings import BEHAVIOURS, WorldSettings

CHUNK = 100_000
"""Lists simulated at a time; bounds memory to some 300 MB."""
NEWNESS = 0.7
"""Log popularity added to an item on its first day; halves every week. Assumed."""
_HOURS = np.array(
    [2, 1, 1, 1, 1, 2, 4, 6, 7, 7, 7, 7, 8, 7, 7, 7, 8, 9, 10, 11, 12, 11, 8, 5], np.float64
)
"""Relative traffic of each hour of the day (UTC)."""


@dataclass(frozen=True)
class Chunk:
    """Lists shown and events they led to."""

    user: Ints
    """int32[L]"""
    shown_at: Longs
    """int64[L] µs, ascending."""
    length: Ints
    """int32[L] places of each list."""
    item: Ints
    """int32[places of all lists]"""
    propensity: Array
    """float32[places]: probability of the item at its place, given the places before."""
    event_list: Ints
    """int32[E] list of each event."""
    event_place: Ints
    """int32[E] index into `item`."""
    event_kind: npt.NDArray[np.int8]
    """int8[E] index into BEHAVIOURS."""
    event_time: Longs
    """int64[E] µs, ascending."""


@dataclass(frozen=True)
class Policy:
    """What a day's lists are drawn from: a topic by interest, then an item by popularity."""

    items: Ints
    """Items available, grouped by topic."""
    share: Array
    """Probability of each within its topic."""
    cumulated: npt.NDArray[np.float64]
    """Topic number plus cumulated share: one sorted array for all topics."""
    stocked: npt.NDArray[np.bool_]
    """bool[K]: topics with an item."""


def examination(settings: WorldSettings) -> Array:
    """float32[S]: probability that a place in a list is looked at."""
    return ((1.0 + np.arange(settings.list_length)) ** -settings.examine_decay).astype(np.float32)


def simulate_day(world: World, day: int) -> Iterator[Chunk]:
    """Chunks of a day, in order of time; the same for the same seed and day."""
    settings = world.settings
    draw = np.random.default_rng([settings.seed, 2, day])
    here = np.flatnonzero(world.joined <= day).astype(np.int32)
    weekday = 1.2 if (settings.start // DAY + day + 3) % 7 >= 5 else 0.92
    rates = world.activity[here].astype(np.float64)
    lists = draw.poisson(settings.lists_per_user * weekday * rates.sum())
    policy = day_policy(world, day)
    cumulated = rates.cumsum() / rates.sum()
    times = _times(draw, lists) + settings.start + day * DAY
    for low in range(0, lists, CHUNK):
        shown_at = times[low : low + CHUNK]
        user = here[
            np.searchsorted(cumulated, draw.random(len(shown_at)), "right").clip(max=len(here) - 1)
        ]
        yield _chunk(world, policy, draw, user, shown_at, settings.start + (day + 1) * DAY)


def day_policy(world: World, day: int) -> Policy:
    """Popularity of the items that are there at the day's beginning."""
    now = world.settings.start + day * DAY
    there = np.flatnonzero(world.created_at <= now).astype(np.int32)
    order = there[np.argsort(world.item_topic[there], kind="stable")]
    topic = world.item_topic[order]
    weeks = (now - world.created_at[order]) / (7 * DAY)
    appeal = world.quality[order] * 1.5 + NEWNESS * 0.5**weeks
    appeal += world.topic_popularity[day][topic]
    weight = np.exp(appeal.astype(np.float64))
    totals = np.bincount(topic, weight, minlength=TOPICS)
    share = weight / totals[topic]
    running = share.cumsum()
    before = np.concatenate([[0.0], running])[np.searchsorted(topic, topic)]
    return Policy(order, share.astype(np.float32), topic + running - before, totals > 0)


def _times(draw: np.random.Generator, count: int) -> Longs:
    """int64[count] µs since midnight, ascending, following the day's traffic."""
    edges = np.concatenate([[0.0], _HOURS.cumsum() / _HOURS.sum()])
    at = np.interp(np.sort(draw.random(count)), edges, np.arange(25))
    return (at * HOUR).astype(np.int64).clip(max=DAY - 1)


def _chunk(
    world: World, policy: Policy, draw: np.random.Generator, user: Ints, shown_at: Longs, end: int
) -> Chunk:
    """Show a list to each user and see what happens before `end` (µs).

    Args:
        world: users, items and their tastes.
        policy: chooses what is shown.
        draw: random generator.
        user: int32[L], user of each list.
        shown_at: int64[L], when it is shown, µs UTC.
        end: end of the log, µs UTC.
    """
    row, item, propensity = _lists(world, policy, draw, user)
    length = np.bincount(row, minlength=len(user)).astype(np.int32)
    first = np.concatenate([[0], length.cumsum()[:-1]])
    place = np.arange(len(row)) - first[row]
    looked = draw.random(len(row), np.float32) < examination(world.settings)[place]
    index, kind, time = _events(world, draw, user[row], item, shown_at[row], place, looked)
    kept = time < end
    index, kind, time = index[kept], kind[kept], time[kept]
    order = np.lexsort((kind, index, time))
    index, kind, time = index[order], kind[order], time[order]
    return Chunk(
        user,
        shown_at,
        length,
        item,
        propensity,
        row[index].astype(np.int32),
        index.astype(np.int32),
        kind,
        time,
    )


def _lists(
    world: World, policy: Policy, draw: np.random.Generator, user: Ints
) -> tuple[npt.NDArray[np.int64], Ints, Array]:
    """(list, item, propensity) of every place shown, list after list.

    Drawing again until an item is new to its list equals drawing without replacement, so the
    propensity of a place is p(item | user) / (1 - Σ p of the places before). A list whose draws
    were used up is shorter.
    """
    settings = world.settings
    draws = 2 * settings.list_length
    topics = _policy_topics(world, policy, user)
    cumulated = topics.cumsum(axis=1)
    cumulated[:, -1] = 1.0
    at = draw.random((len(user), draws), np.float32)
    topic = np.empty((len(user), draws), np.int64)
    for j in range(draws):
        topic[:, j] = (at[:, [j]] >= cumulated).sum(axis=1)
    within = topic + draw.random((len(user), draws))
    found = np.searchsorted(policy.cumulated, within, "right").clip(max=len(policy.items) - 1)
    fresh = _first_of_each(found)
    fresh &= fresh.cumsum(axis=1) <= settings.list_length
    row, column = np.nonzero(fresh)
    chosen = found[row, column]
    item = policy.items[chosen]
    probability = topics[row, world.item_topic[item]] * policy.share[chosen]
    return row, item, _conditional(row, probability)


def _policy_topics(world: World, policy: Policy, user: Ints) -> Array:
    """float32[L, K]: the policy's probabilities of topics for each user."""
    explore = world.settings.explore
    wanted = (1 - explore) * world.user_topics[user] + explore / TOPICS
    wanted = wanted * policy.stocked
    shares: Array = wanted / wanted.sum(axis=1, keepdims=True)
    return shares


def _first_of_each(values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """bool[L, M]: whether a value is met for the first time in its row."""
    order = np.argsort(values, axis=1, kind="stable")
    arranged = np.take_along_axis(values, order, axis=1)
    first = np.ones(values.shape, bool)
    first[:, 1:] = arranged[:, 1:] != arranged[:, :-1]
    found = np.empty(values.shape, bool)
    np.put_along_axis(found, order, first, axis=1)
    return found


def _conditional(row: npt.NDArray[np.int64], probability: Array) -> Array:
    """Probabilities given the places before in the same list (rows are contiguous)."""
    running = probability.astype(np.float64).cumsum()
    starts = np.searchsorted(row, row)
    before = running - probability - (running - probability)[starts]
    given = probability / np.maximum(1.0 - before, 1e-6)
    propensity: Array = np.clip(given, 1e-9, 1.0).astype(np.float32)
    return propensity


def _events(
    world: World,
    draw: np.random.Generator,
    user: Ints,
    item: Ints,
    shown_at: Longs,
    place: npt.NDArray[np.int64],
    looked: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8], Longs]:
    """(index of the place, kind, time) of every event, kind after kind.

    Args:
        world: users, items and their tastes.
        draw: random generator.
        user: int32[n], user at each place.
        item: int32[n], item there.
        shown_at: int64[n], when it was shown, µs UTC.
        place: int64[n], place in the list, from 0.
        looked: bool[n], whether it was looked at.
    """
    seen = np.flatnonzero(looked)
    liking = world.affinity(user[seen], item[seen])
    start = shown_at[seen] + (place[seen] * 2 * SECOND)
    reached = {"examined": (np.arange(len(seen)), start)}
    found = []
    for code, behaviour in enumerate(BEHAVIOURS):
        among, since = reached[behaviour.follows]
        logit = behaviour.base + behaviour.slope * liking[among]
        if behaviour.name == "purchase":
            logit = logit - 0.5 * (np.log(world.price[item[seen[among]]]) - 3.0)
        done = draw.random(len(among)) < 1 / (1 + np.exp(-logit))
        delay = draw.exponential(behaviour.delay, int(done.sum())) * SECOND
        time = since[done] + delay.astype(np.int64) + 1
        reached[behaviour.name] = (among[done], time)
        found.append((seen[among[done]], np.full(len(time), code, np.int8), time))
    index, kind, time = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return index, kind, time


def pilot(settings: WorldSettings) -> float:
    """Events per list of a small world."""
    world = make_world(settings)
    chunks = list(simulate_day(world, 0))
    return sum(len(x.event_kind) for x in chunks) / max(sum(len(x.user) for x in chunks), 1)
