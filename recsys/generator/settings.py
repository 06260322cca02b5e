"""What is generated, and the numbers behind it. All of them are assumed, none measured."""

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Self

from data_schemas.errors import UsageError
from features.interactions import DAY

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
class Settings:
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

    @classmethod
    def of(
        cls,
        users: int,
        items: int,
        days: int,
        seed: int = 7,
        lists_per_user: float | None = None,
        events_per_user: float | None = None,
    ) -> Self:
        """Checked settings; `events_per_user` (over all days) sets `lists_per_user`.

        Raises:
            UsageError: a number is out of its range, or both rates are given.
        """
        for name, value, least, most in (
            ("--users", users, 1, 10**9),
            ("--items", items, 2, 10**8),
            ("--days", days, 1, MOST_DAYS),
            ("--seed", seed, 0, 2**63),
        ):
            if not least <= value <= most:
                raise UsageError(
                    "a number is out of range",
                    where=name,
                    found=value,
                    expected=f"{least:,} to {most:,}",
                )
        if lists_per_user is not None and events_per_user is not None:
            raise UsageError(
                "two settings say the same thing",
                where="--lists-per-user and --events-per-user",
                fix="give one of them",
            )
        for name, rate in (
            ("--lists-per-user", lists_per_user),
            ("--events-per-user", events_per_user),
        ):
            if rate is not None and not 0 < rate < 10**6:
                raise UsageError("a number is out of range", where=name, found=rate, expected="> 0")
        if events_per_user is not None:
            lists_per_user = events_per_user / days / cls._events_per_list(seed)
        settings = cls(users, items, days, seed)
        return (
            settings if lists_per_user is None else replace(settings, lists_per_user=lists_per_user)
        )

    @classmethod
    def _events_per_list(cls, seed: int) -> float:
        """Events that a list leads to on average, by a pilot of a small world."""
        from recsys.generator.simulate import pilot

        return pilot(cls(users=2000, items=2000, days=1, seed=seed))

    @property
    def start(self) -> int:
        """First moment (µs)."""
        return END - self.days * DAY

    def as_dict(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
