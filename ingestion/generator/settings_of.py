"""Settings of a world from what a caller knows: checked, with the rates worked out."""

from dataclasses import replace

from recsys.data_schemas.errors import UsageError
from recsys.ingestion.generator.simulate import pilot
from recsys.ingestion.generator.world_settings import MOST_DAYS, WorldSettings


def settings_of(
    users: int,
    items: int,
    days: int,
    seed: int = 7,
    lists_per_user: float | None = None,
    events_per_user: float | None = None,
) -> WorldSettings:
    """Checked settings of a generated world.

    Args:
        users: number of users.
        items: number of items.
        days: days of the log.
        seed: of all draws.
        lists_per_user: lists shown to a user over all days, on average; the default of the settings
            when None.
        events_per_user: events of a user over all days, on average; sets `lists_per_user`.

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
        lists_per_user = events_per_user / days / _events_per_list(seed)
    settings = WorldSettings(users, items, days, seed)
    return settings if lists_per_user is None else replace(settings, lists_per_user=lists_per_user)


def _events_per_list(seed: int) -> float:
    """Events that a list leads to on average, by a pilot of a small world."""
    return pilot(WorldSettings(users=2000, items=2000, days=1, seed=seed))
