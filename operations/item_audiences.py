"""Whom to tell about an item: the users for whom it stands highest.

Scores of a ranker compare items for one user, not users for one item. So each user is asked about
the items and the same well-known ones beside them, and an item counts by how far it stands above
those, in their standard deviations. Shapes: u users, m items asked about, r reference items.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import UsageError
from recsys.query import RankingQuery

if TYPE_CHECKING:
    from recsys.recommender import LoadedRelease

REFERENCES: Final = 50
"""Most popular items that everybody is asked about (assumed: a mean of them is good to a seventh of
their deviation)."""
OPTION: Final = "--for-items"


def audiences(
    loaded: "LoadedRelease", items: Sequence[str], users: Sequence[str], k: int, keep_seen: bool
) -> Iterator[list[dict[str, Any]]]:
    """Rows (item_id, user_id, rank, score), item after item, best users first, k at most for each.

    Args:
        loaded: the release, with every item encoded.
        items: ids, each once.
        users: ids of those who may be told.
        k: users of an item.
        keep_seen: also users who already acted on the item.

    Raises:
        UsageError: an item is unknown, or nothing is popular.
    """
    for item in items:
        if loaded.state.catalogue.index_of(item) < 0:
            raise UsageError("there is no such item", where=OPTION, found=item)
    moment = loaded.moment
    popular = loaded.popular(REFERENCES + len(items), moment, "all", {})
    reference = [item for item, _ in popular if item not in items][:REFERENCES]
    if len(reference) < 2:
        raise UsageError(
            "nothing is known that items could be held against",
            where=OPTION,
            found=f"{len(reference)} items with events",
            expected="two at least",
        )
    scores = np.full((len(items), len(users)), -np.inf)
    for column, user in enumerate(users):
        scores[:, column] = _lifts(loaded, user, items, reference, moment, keep_seen)
    for item, of_item in zip(items, scores, strict=True):
        order = np.argsort(-of_item, kind="stable")[:k]
        yield [
            {c.ITEM_ID: item, c.USER_ID: users[at], c.RANK: n, c.SCORE: float(of_item[at])}
            for n, at in enumerate(order[np.isfinite(of_item[order])].tolist(), 1)
        ]


def _lifts(
    loaded: "LoadedRelease",
    user: str,
    items: Sequence[str],
    reference: Sequence[str],
    moment: int,
    keep_seen: bool,
) -> list[float]:
    """How far each item stands above the reference for one user; -inf for what they know already."""
    answer = loaded.answer(RankingQuery(user, moment, items=[*items, *reference]))
    score = dict(zip(answer.item_ids, answer.scores, strict=True))
    known = np.array([score[item] for item in reference])
    spread = max(float(known.std()), 1e-9)
    seen: set[str] = set()
    if not keep_seen:
        at = loaded.state.history(user, moment).item
        seen = {loaded.state.catalogue.id_of(int(item)) for item in np.unique(at)}
    return [
        -np.inf if item in seen else (score[item] - float(known.mean())) / spread for item in items
    ]
