"""What is generated, and the numbers behind it. All of them are assumed, none measured."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime

from recsys.features.interactions import DAY

END = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""End of the last day (µs), so that no generated event lies in the future."""
MOST_DAYS = 10_000


@dataclass(frozen=True)
class Behaviour:
    """One thing a user may do: P = sigmoid(base + slope · affinity), given what it follows."""

    name: str
    follows: str
    """`examined` (the user looked at the place in the list) or another behaviour."""
    base: float
    slope: float
    delay: float
    """Mean seconds after what it follows."""


BEHAVIOURS = (
    Behaviour("view", "examined", -1.1, 0.6, 3.0),
    Behaviour("click", "view", -2.2, 1.2, 2.0),
    Behaviour("comment", "click", -4.2, 0.8, 180.0),
    Behaviour("share", "click", -4.2, 0.6, 90.0),
    Behaviour("purchase", "click", -3.9, 0.9, 420.0),
)


@dataclass(frozen=True)
class WorldSettings:
    """Size and character of a generated log."""

    users: int
    items: int
    days: int
    seed: int = 7
    lists_per_user: float = 0.5
    """Lists shown to a user per day, on average."""
    list_length: int = 10
    examine_decay: float = 0.7
    """Place j (from 0) is looked at with probability (1 + j) ** -decay."""
    hidden_factors: int = 4
    """Dimensions of taste that no text tells of."""
    text_share: float = 0.7
    """Share of the affinity's variance that comes from topics, which text tells of."""
    early_items: float = 0.6
    """Share of items that are there on the first day; the others arrive evenly."""
    early_users: float = 0.7
    """Share of users who are there on the first day."""
    drift: float = 0.08
    """Standard deviation of a topic's daily step in log popularity."""
    explore: float = 0.3
    """Share of shown places whose topic the policy draws evenly, not by the user's interest."""

    @property
    def start(self) -> int:
        """First moment (µs)."""
        return END - self.days * DAY

    def as_dict(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
