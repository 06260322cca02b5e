"""What a release answers at some moments, as a service would.

Shapes: G moments, K places of a list.
"""

from collections.abc import Callable, Mapping, Sequence

from recsys.evaluation.lists import RankedLists
from recsys.features.interactions import Longs
from recsys.query import RankingQuery
from recsys.recommender import LoadedRelease


def lists_of_release(
    loaded: LoadedRelease,
    users: Sequence[str],
    now: Longs,
    length: int,
    *,
    name: str,
    caps: Mapping[str, int],
    items_of: Callable[[int], list[str] | None] = lambda _: None,
    context_of: Callable[[int], Mapping[str, str | float]] = lambda _: {},
    on_answer: Callable[[], None] = lambda: None,
) -> RankedLists:
    """A release's own lists.

    Args:
        loaded: the release over its state.
        users: G user ids.
        now: int64[G], the moment of each, µs UTC.
        length: K, places of a list.
        name: of the system.
        caps: column → items of one value in a list at most.
        items_of: moment → items to rank; None for the whole catalogue.
        context_of: moment → what the request says.
        on_answer: called after each, for progress.
    """
    scored = []
    for moment, (user, at) in enumerate(zip(users, now.tolist(), strict=True)):
        ask = RankingQuery(
            str(user),
            at,
            k=length,
            items=items_of(moment),
            caps=caps,
            context=dict(context_of(moment)),
        )
        answer = loaded.answer(ask)
        scored.append((loaded.state.catalogue.indices_of(answer.item_ids), answer.scores))
        on_answer()
    return RankedLists.of(name, scored, length)
