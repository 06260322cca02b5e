"""The last rung of the ladder: an answer when the engine fails or the time is spent before it began.

The list a new user would get is kept from the warm-up. It is popularity without personalisation,
but it obeys what must hold for every list: exclusions, filters, availability.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

from recsys.data_schemas import columns as c
from recsys.filters import columns_of, parse
from recsys.query import RankingQuery, RankingResult
from recsys.serving.released_model import ReleasedModel

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
    rows = ((item, engine.item(item)) for item in cold if item not in taken)
    met = parse(ask.filters, columns_of(engine.attribute_kinds))
    allowed = (item for item, row in rows if _free(row) and met.holds(row))
    chosen = [item for item, _ in zip(allowed, range(ask.k), strict=False)]
    return RankingResult(chosen, [float("nan")] * len(chosen), [], [reason])


def _acted_on(engine: ReleasedModel, ask: RankingQuery) -> set[str]:
    seen = {str(event[c.ITEM_ID]) for event in ask.history or ()}
    for user in filter(None, (ask.user_id, ask.session)):
        stored = engine.user(user) or {}
        seen |= {str(event[c.ITEM_ID]) for event in stored.get("events", ())}
    return seen


def _free(row: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether an item is there and may be recommended."""
    return row is not None and bool(row.get(c.AVAILABLE, True))
