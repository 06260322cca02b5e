"""Shown lists whose order tells what was acted on.

Shapes: L lists, n shown items.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.evaluation.data_leaks.findings import Finding
from recsys.evaluation.data_leaks.logged_data import LoggedData
from recsys.evaluation.data_leaks.numbers import slices_of
from recsys.evaluation.report_context import REFUSE, WARN
from recsys.evaluation.shown_lists import acted_on
from recsys.features.draws import chance, least
from recsys.features.future_check import group_auc
from recsys.features.impressions import Impressions
from recsys.features.interactions import Bools, Longs

NAME: Final = "the order of shown lists does not tell what was acted on"
MOST_LISTS: Final = 20_000
LEAST_LENGTH: Final = 3
ONE, SEVERAL = 0.95, 0.8
"""Share of the lists whose one item acted on stands first (last), and of those whose k > 1 items fill the
first (last) k places, from which the order was made of what was acted on. Sound: 0.30 and 0.12 where a tenth
place is looked at a fifth as often as the first (generated logs; measured)."""
RISE: Final = 0.4
"""Rise of the share in a fifth of the log against the lowest of the others."""
KNOWN: Final = 0.95
"""AUC of the propensities within lists (a policy that follows interests: 0.75; generated logs, measured)."""
PARTS: Final = 5
ENOUGH: Final = 50
"""Lists from which a share is judged."""


def order_of_lists(log: LoggedData) -> list[Finding]:
    """Whether what was acted on stands first, or last, in the lists, all along or in a part of the log."""
    if log.shown is None:
        return [Finding.passed(NAME, "no lists are recorded")]
    lists = log.shown.take(least(chance(log.shown.time, "data leaks: lists", 0), MOST_LISTS))
    acted = acted_on(lists, log.events.where(log.positive)) > 0
    found = []
    for where, place in (("first", lists.place), ("last", _from_the_end(lists))):
        said = _tells(lists, acted, place, where)
        if said is not None:
            found.append(Finding.failed(NAME, said, REFUSE))
    known = _propensities(lists, acted)
    if known is not None:
        found.append(Finding.failed("propensities do not tell what was acted on", known, WARN))
    return found or [Finding.passed(NAME, f"{len(lists):,} lists")]


def _propensities(lists: Impressions, acted: Bools) -> str | None:
    """Propensities that put what was acted on above all else of its list, in words."""
    given = np.isfinite(lists.propensity)
    if acted[given].sum() < ENOUGH:
        return None
    told = group_auc(lists.propensity[given], acted[given], lists.owner[given])
    if told < KNOWN:
        return None
    return (
        f"within a list, they tell it with an AUC of {told:.3f}: off-policy estimates mean nothing"
    )


def _from_the_end(lists: Impressions) -> Longs:
    return lists.per_row(lists.lengths) - 1 - lists.place


def _tells(lists: Impressions, acted: Bools, place: Longs, where: str) -> str | None:
    sizes, row = lists.lengths, lists.owner
    hits = np.bincount(row, acted, len(lists)).astype(np.int64)
    ahead = np.bincount(row, acted & (place < hits[row]), len(lists)) == hits
    judged = (hits > 0) & (hits < sizes) & (sizes >= LEAST_LENGTH)
    part = np.zeros(len(lists), np.int64)
    order = np.argsort(lists.time, kind="stable")
    part[order] = slices_of(lists.time[order], PARTS)
    for few, limit in ((hits == 1, ONE), (hits > 1, SEVERAL)):
        chosen = judged & few
        if chosen.sum() < ENOUGH:
            continue
        share = float(ahead[chosen].mean())
        parts = _by_part(ahead[chosen], part[chosen])
        if share >= limit:
            return _in_words(share, int(chosen.sum()), where, "")
        if len(parts) > 2 and max(parts) - min(parts) >= RISE and max(parts) >= 0.6:
            return _in_words(
                max(parts),
                int(chosen.sum()),
                where,
                f" in a fifth of the log, {min(parts):.0%} in another",
            )
    return None


def _by_part(ahead: Bools, part: npt.NDArray[np.integer]) -> list[float]:
    sides = [ahead[part == p] for p in range(PARTS)]
    return [float(side.mean()) for side in sides if len(side) >= ENOUGH]


def _in_words(share: float, count: int, where: str, when: str) -> str:
    return (
        f"what was acted on fills the {where} places of {share:.0%} of {count:,} lists{when}: were lists "
        "sorted after the fact?"
    )
