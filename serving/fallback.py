"""The last rung of the ladder: an answer when the engine fails or the time is spent before it began.

The list a new user would get is kept from the warm-up. It is popularity without personalisation,
but it obeys what must hold for every list: exclusions, filters, availability.
"""

from collections.abc import Mapping
from typing import Any

from recsys.data_schemas import columns as c
from recsys.serving.released_model import RankingQuery, RankingResult, ReleasedModel

COLD_LENGTH = 1000
"""Items of the list kept (assumed: enough for the longest answer after filters of usual width)."""


def cold_answer(
    engine: ReleasedModel, cold: list[str], ask: RankingQuery, reason: str
) -> RankingResult:
    """An answer out of the list of a new user, with `reason` in `degraded`.

    Items to rank come in the order of that list, those that are not in it after them as given;
    scores are NaN, written as null.
    """
    if ask.items is not None:
        known = [i for i in ask.items if i in ask.new_items or engine.item(i) is not None]
        given = set(known)
        place = {item: n for n, item in enumerate(cold)}
        order = sorted(known, key=lambda item: place.get(item, len(place)))
        unknown = [item for item in ask.items if item not in given]
        return RankingResult(order, [float("nan")] * len(order), unknown, [reason])
    taken = set(ask.exclude) | (set() if ask.keep_seen else _acted_on(engine, ask))
    allowed = (item for item in cold if item not in taken and _allowed(engine.item(item), ask))
    chosen = [item for item, _ in zip(allowed, range(ask.k), strict=False)]
    return RankingResult(chosen, [float("nan")] * len(chosen), [], [reason])


def _acted_on(engine: ReleasedModel, ask: RankingQuery) -> set[str]:
    stored = engine.user(ask.user_id) or {}
    sent = {str(event[c.ITEM_ID]) for event in ask.history or ()}
    return sent | {str(event[c.ITEM_ID]) for event in stored.get("events", ())}


def _allowed(row: Mapping[str, Any] | None, ask: RankingQuery) -> bool:
    """Whether an item may be recommended: available, and matched by every filter."""
    if row is None or not row.get(c.AVAILABLE, True):
        return False
    for name, wanted in ask.filters.items():
        has = row.get(name)
        values = set(has) if isinstance(has, list | tuple) else {has}
        if not values & set(wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True
