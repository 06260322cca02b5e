"""The truth: who likes what, what is there from when on, and what texts say of it.

Shapes: U users, N items, K topics, H hidden factors, D days.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.features.interactions import DAY, Ints, Longs
from recsys.ingestion.generator.topics import (
    DEPARTMENTS,
    FILLER,
    NAMES,
    WORDS,
)
from recsys.ingestion.generator.world_settings import WorldSettings

Array = npt.NDArray[np.float32]
TOPICS = len(NAMES)
TEXT_SPREAD = 1.35
"""Standard deviation of K · (topics_u · topics_i) over random pairs (measured)."""
TITLE_WORDS = 3
DESCRIPTION_WORDS = 18


@dataclass(frozen=True)
class World:
    """Everything that was drawn before the first list was shown."""

    settings: WorldSettings
    item_topics: Array
    """float32[N, K]: shares of topics, adding up to 1; what the text tells of."""
    item_topic: npt.NDArray[np.int16]
    """int16[N]: the strongest topic."""
    item_hidden: Array
    """float32[N, H]"""
    quality: Array
    """float32[N]: added to every user's affinity."""
    price: Array
    """float32[N]"""
    created_at: Longs
    """int64[N] µs."""
    user_topics: Array
    """float32[U, K]: interest, adding up to 1."""
    user_hidden: Array
    """float32[U, H]"""
    activity: Array
    """float32[U]: relative rate of lists, mean 1."""
    joined: Ints
    """int32[U]: first day on which the user is there."""
    topic_popularity: Array
    """float32[D, K]: log popularity of each topic, a random walk."""

    @cached_property
    def item_ids(self) -> pa.Array:
        return identifiers("i", self.settings.items)

    @cached_property
    def user_ids(self) -> pa.Array:
        return identifiers("u", self.settings.users)

    def affinity(self, user: Ints, item: Ints) -> Array:
        """float32[n]: how much each user likes each item; mean about 0, deviation about 1."""
        text, hidden = self.settings.text_share**0.5, (1 - self.settings.text_share) ** 0.5
        interest = np.einsum("nk,nk->n", self.user_topics[user], self.item_topics[item])
        taste = np.einsum("nh,nh->n", self.user_hidden[user], self.item_hidden[item])
        matched = (interest * TOPICS - 1) / TEXT_SPREAD
        liking: Array = text * matched + hidden * taste + self.quality[item]
        return liking.astype(np.float32, copy=False)


def make_world(settings: WorldSettings) -> World:
    """Draw the truth of a seed."""
    draw = np.random.default_rng([settings.seed, 0])
    n, u = settings.items, settings.users
    item_topics = _shares(draw, n, concentration=0.08)
    activity = draw.lognormal(0.0, 0.8, u).astype(np.float32)
    walk = draw.normal(0.0, settings.drift, (settings.days, TOPICS)).cumsum(axis=0)
    return World(
        settings=settings,
        item_topics=item_topics,
        item_topic=item_topics.argmax(axis=1).astype(np.int16),
        item_hidden=_unit(draw, n, settings.hidden_factors),
        quality=draw.normal(0.0, 0.5, n).astype(np.float32),
        price=draw.lognormal(3.0, 0.6, n).astype(np.float32).round(2),
        created_at=_arrivals(draw, n, settings),
        user_topics=_shares(draw, u, concentration=0.15),
        user_hidden=_unit(draw, u, settings.hidden_factors) * settings.hidden_factors**0.5,
        activity=activity / activity.mean(),
        joined=_days(draw, u, settings.early_users, settings.days),
        topic_popularity=walk.astype(np.float32),
    )


def identifiers(prefix: str, count: int) -> pa.Array:
    """`i000000`, `i000001`, …: strings of one width."""
    width = len(str(max(count - 1, 1)))
    numbers = pc.utf8_lpad(pa.array(np.arange(count)).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, numbers, "")


def _shares(draw: np.random.Generator, count: int, concentration: float) -> Array:
    """float32[count, K] rows of a symmetric Dirichlet distribution."""
    raw = draw.standard_gamma(concentration, (count, TOPICS)).astype(np.float32) + 1e-6
    shares: Array = raw / raw.sum(axis=1, keepdims=True)
    return shares


def _unit(draw: np.random.Generator, count: int, width: int) -> Array:
    """float32[count, width] of unit length."""
    raw = draw.standard_normal((count, width)).astype(np.float32)
    unit: Array = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


def _days(draw: np.random.Generator, count: int, early: float, days: int) -> Ints:
    """int32[count]: day 0 for a share, evenly spread days for the others."""
    later = draw.random(count) >= early
    later[0] = False
    return np.where(later, draw.integers(0, days, count), 0).astype(np.int32)


def _arrivals(draw: np.random.Generator, count: int, settings: WorldSettings) -> Longs:
    """int64[count] µs: before the first day for a share, evenly spread for the others."""
    later = draw.random(count) >= settings.early_items
    later[: min(2, count)] = False
    within = (draw.random(count) * settings.days * DAY).astype(np.int64)
    before = (draw.random(count) * 90 * DAY).astype(np.int64)
    return np.where(later, settings.start + within, settings.start - before)


def item_texts(world: World, low: int, high: int) -> dict[str, pa.Array]:
    """Title, description, tags and category of items low..high, told by their topics."""
    draw = np.random.default_rng([world.settings.seed, 1, low])
    shares = world.item_topics[low:high]
    title = _words(draw, shares, TITLE_WORDS, filler=0.15)
    description = _words(draw, shares, DESCRIPTION_WORDS, filler=0.4)
    topic = world.item_topic[low:high]
    second = np.argsort(-shares, axis=1)[:, 1]
    names, departments = pa.array(NAMES), pa.array(DEPARTMENTS)
    spelled = names.take(pa.array(np.stack([topic, second], axis=1).ravel().astype(np.int32)))
    offsets = np.arange(0, 2 * (high - low) + 1, 2, dtype=np.int32)
    return {
        "title": _join(title),
        "description": _join(description),
        "tags": pa.ListArray.from_arrays(pa.array(offsets), spelled),
        "category": departments.take(pa.array(topic % len(DEPARTMENTS))),
    }


_ALL_WORDS = tuple(word for words in WORDS for word in words) + tuple(FILLER)
_FIRST = np.cumsum([0, *(len(words) for words in WORDS)])


def _words(draw: np.random.Generator, shares: Array, length: int, filler: float) -> Ints:
    """int32[n, length] places in `_ALL_WORDS`, each word's topic drawn by the item's shares."""
    n = len(shares)
    cumulated = shares.cumsum(axis=1)
    cumulated /= cumulated[:, -1:]
    at = draw.random((n, length), np.float32)
    topic = np.stack([(at[:, [j]] > cumulated[:, :-1]).sum(axis=1) for j in range(length)], axis=1)
    size = np.diff(_FIRST)[topic]
    word = _FIRST[topic] + (draw.random((n, length)) * size).astype(np.int64)
    plain = _FIRST[-1] + draw.integers(0, len(FILLER), (n, length))
    chosen: Ints = np.where(draw.random((n, length)) < filler, plain, word).astype(np.int32)
    return chosen


def _join(words: Ints) -> pa.Array:
    """Texts of n × length words."""
    vocabulary = pa.array(_ALL_WORDS)
    columns = [vocabulary.take(pa.array(words[:, j])) for j in range(words.shape[1])]
    return pc.binary_join_element_wise(*columns, " ")
