"""A ranking question and its answer, as the service, batch lists and the bundle's own reader ask it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.api import Rule

BLEND, BY_TEXT, BOUGHT_TOGETHER = "blend", "text", "bought_together"
"""Ways to ask for similar items: all sources together, text alone, behaviour alone."""


@dataclass(frozen=True)
class RankingQuery:
    """One ranking question."""

    user_id: str
    now: int
    """The moment asked for, µs UTC; only what was known strictly before it counts."""
    session: str = ""
    """A second user whose stored events count as this one's: the visit before the log-in."""
    items: Sequence[str] | None = None
    """Ids to rank, each once; None asks for recommendations from the whole catalogue."""
    new_items: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Items given with text: id → columns and attributes."""
    history: Sequence[dict[str, Any]] | None = None
    """Events sent along (item_id, event_type, timestamp µs, value); they extend the stored ones."""
    k: int = 10
    filters: Mapping[str, object] = field(default_factory=dict)
    """What the items must meet, as `recsys.filters` reads it."""
    exclude: Sequence[str] = ()
    diversity: float = 0.0
    """0..1, how much likeness to items above is held against an item."""
    caps: Mapping[str, int] = field(default_factory=dict)
    """Column → items of one value at most in a recommended list: category or a text attribute."""
    rules: Sequence[Rule] = ()
    """Wishes about a recommended list; of two about one place the first holds."""
    explain: int = 0
    """How many of the first items to explain."""
    keep_seen: bool = False
    context: Mapping[str, object] = field(default_factory=dict)
    deadline: float | None = None
    """`time.monotonic()` seconds after which optional parts are dropped."""


@dataclass
class RankingResult:
    """A ranked list, best first; `item_ids` and `scores` have equal length."""

    item_ids: list[str]
    scores: list[float]
    unknown: list[str] = field(default_factory=list)
    """Ids asked for that nobody knows and that came without text."""
    degraded: list[str] = field(default_factory=list)
    """What was missing or late, e.g. "text_encoder_missing"."""
    reasons: list[dict[str, Any]] | None = None
    """For the first items: {"families", "similar", "sentence"}."""
    features: npt.NDArray[np.float32] | None = None
    """float32[n, F] in the order of item_ids, for the parity sample."""
    steps_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by named step."""
    rules: list[str] = field(default_factory=list)
    """For each item the rule that moved it, or ""; empty where no rule was given."""
    snapshot: str = ""
    """Name of the state snapshot that the answer's state was folded from."""
    waiting: int = 0
    """New items whose texts had not been encoded yet; recall did not see them by text."""
    kept: bool | None = None
    """Whether what recall says of the history was kept from an earlier answer; None where it may not be."""


@dataclass(frozen=True)
class SimilarQuery:
    """Which items are like these?"""

    items: Sequence[str]
    """Ids; of several, the last weighs most."""
    now: int
    """The moment asked for, µs UTC; an item that came later is in no list."""
    k: int = 10
    by: str = BLEND
    filters: Mapping[str, object] = field(default_factory=dict)
    exclude: Sequence[str] = ()


@dataclass
class SimilarResult:
    """Items like the ones asked about, best first."""

    item_ids: list[str]
    scores: list[float]
    unknown: list[str] = field(default_factory=list)
    """Ids asked about that nobody knows."""
    degraded: list[str] = field(default_factory=list)
    """What was missing or late."""
