"""The ranker that is released: the judged one, or the same recipe fitted on the tested window too.

What was tested is the latest that people did, as they will be asked, with nothing hidden for practice. Once everything
is judged it is there to be learned from, beside earlier groups. Where few new items came since, it would teach that
an item without events is never acted on: so of those candidates there are no more for each one acted on than in the
earlier groups, where some items were hidden.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys.features.draws import chance, least
from recsys.ranker import Ranker
from recsys.storage.stages import Stage, StageResult, folder
from recsys.training.night import fit_ranker, ranking_data
from recsys.training.night.fit_ranker import only, save_ranker
from recsys.training.night.night_context import Night
from recsys.training.night.position_weights import place_weights
from recsys.training.night.products import FULL, LEARNABLE, RankingData
from recsys.training.ranker import EVENTS, refitted, without_events
from recsys.training.ranking_groups import Groups, matched
from recsys.training.windows import moments_at

CODE = (
    *fit_ranker.CODE,
    "recsys.training.night.fit_ranker",
)
WORTH_IT: Final = 0.2
"""Groups of the tested windows, over those the ranker learned from, from which on it is worth fitting again
(measured: .07 more on films gave nothing beyond noise, .23 more on games +1 %, .53 more on office +2 %)."""
SURELY: Final = 2.0
"""Standard errors by which a ranker that was fitted again may find less (assumed)."""
LATER_SHARE: Final = 2 / 3
"""Largest share of the tested windows' groups among as many as were learned from before, so that fitting again takes
no more memory (measured on games, items with events and without: nDCG@10 .0876 and .0210; with more groups in
all, nearly all of them later and with the items that nobody acted on, .0886 and .0150)."""


def for_release(night: Night) -> StageResult[Path]:
    """The judged one, or what `ranker.refit_all` says."""
    judged = night.rankers
    there = _moments_there(night)
    if not _learns_more(night, there):
        return judged
    later = _later_groups(night, there)
    return night.runner.run(
        Stage(
            "ranker-released",
            {
                "judged": judged.key,
                "tested": night.tested.key,
                "later": later.key,
                "ranker": night.section("ranker"),
            },
            lambda out: _refit(night, later, out),
            folder,
            code=CODE,
            personal=False,
        )
    )


def _learns_more(night: Night, there: int) -> bool:
    """Whether the released ranker learns from the tested windows too, with so many moments there."""
    judged, wanted = night.rankers.facts["ranker"], night.config.ranker.refit_all
    if "penalty" not in judged:
        return False
    if wanted != "auto":
        return bool(wanted)
    facts = night.tested.facts
    share = there / max(1, facts["moments"])
    return bool(facts[LEARNABLE] * share >= WORTH_IT * judged["train_groups"])


def _moments_there(night: Night) -> int:
    """Moments of the tested windows, tested or not."""
    events, windows = night.data.interactions, night.data.windows
    return sum(len(moments_at(events, cut, windows.label_end(cut))) for cut in windows.test)


def _later_groups(night: Night, there: int) -> StageResult[RankingData]:
    """The tested groups, or, where only some moments were tested, as many as the ranker may learn from."""
    if there <= night.tested.facts["moments"]:
        return night.tested
    return ranking_data.build_ranking_data(night, "released")


def _refit(night: Night, later: StageResult[RankingData], out: Path) -> dict[str, Any]:
    """Fit it again. It has learned the tested groups, so that one which surely finds less there than the
    judged one went wrong, and is not kept."""
    facts = night.rankers.facts["ranker"]
    judged = replace(Ranker.load(night.rankers.folder / FULL), facts=facts)
    columns, seed = judged.features, night.config.seed
    allowed = max(night.config.ranker.max_groups, facts["train_groups"])
    # Drawn before their columns are copied: all of them would be as large as the fit.
    more = _some(later.product.groups(), round(LATER_SHARE * allowed), "later groups", seed)
    more = only(more, later.product, columns)
    before = _some(_earlier_groups(night), allowed - len(more), "earlier groups", seed)
    before = only(before, night.learned.product, columns)
    more = _as_practised(more, before, columns, seed)
    whole, count = before.joined(more), len(more.with_positive())
    # Each is as large as the fit's own copy.
    del before, more
    found = refitted(judged, whole, count, night.config.ranker, seed=seed, workers=night.workers)
    del whole
    tested = only(night.tested.product.groups(), night.tested.product, columns)
    was, now = (matched(tested, one.score(tested.x), 10) for one in (judged, found))
    lost = (was - now)[np.isfinite(was)]
    if lost.mean() > SURELY * lost.std() / len(lost) ** 0.5:
        night.reporter.warn(
            "ranker: fitted on the tested window too it finds less there, nDCG@10 "
            f"{np.nanmean(now):.4f} instead of {np.nanmean(was):.4f}; the judged one is released"
        )
        found = judged
    save_ranker(out / FULL, found)
    return {"ranker": found.facts}


def _some(groups: Groups, most: int, purpose: str, seed: int) -> Groups:
    """At most so many of the groups that hold a positive, drawn by who they are from."""
    told = groups.with_positive()
    return groups.take(told[least(chance(groups.user[told], purpose, seed), most)])


def _as_practised(later: Groups, before: Groups, columns: Sequence[str], seed: int) -> Groups:
    """The later groups with as many candidates without events for each one acted on as the earlier groups have,
    or all of theirs where these are fewer; the others are left out by chance."""
    if EVENTS not in columns:
        return later
    place = list(columns).index(EVENTS)
    new, acted = without_events(later, place), later.grade > 0
    practised = without_events(before, place)
    found = int((practised & (before.grade > 0)).sum())
    if not found:
        return later
    wanted = int((new & acted).sum()) * (int(practised.sum()) / found - 1)
    share = wanted / max(1, int((new & ~acted).sum()))
    drawn = chance(np.arange(len(new)), "items without events", seed)
    return later.keeping(~new | acted | (drawn < share))


def _earlier_groups(night: Night) -> Groups:
    """What the judged ranker learned from."""
    groups = replace(night.learned.product.groups(), weight=place_weights(night).weight)
    if night.rankers.facts["ranker"].get("shown lists kept", True):
        return groups
    return groups.of_recall()
