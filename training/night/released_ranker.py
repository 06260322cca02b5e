"""The ranker that is released: the judged one, or the same recipe fitted on the tested window too.

What was tested is the latest that people did, as they will be asked, with nothing hidden for practice. Once everything
is judged it is there to be learned from: as many of the tested windows' groups as the ranker may have, and of the
earlier ones a few, first those whose positive was hidden, so that new items are still known to be found.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.features.draws import chance, least
from recsys.ranker import Ranker
from recsys.storage.stages import Stage, StageResult, folder
from recsys.training.night import fit_ranker, ranking_data
from recsys.training.night.fit_ranker import only, save_ranker
from recsys.training.night.night_context import Night
from recsys.training.night.position_weights import place_weights
from recsys.training.night.products import FULL, LEARNABLE, RankingData
from recsys.training.ranker import EVENTS, refitted
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
EARLIER_SHARE: Final = 0.25
"""Earlier groups beside as many later ones as there may be at most: what more of them costs in memory brings
nothing (measured on games: 20,532 later and 5,000 earlier groups found more than 4,685 and 20,635)."""


def for_release(night: Night) -> StageResult[Path]:
    """The judged one, or what `ranker.refit_all` says."""
    judged = night.rankers
    if not _learns_more(night):
        return judged
    later = _later_groups(night)
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


def _learns_more(night: Night) -> bool:
    """Whether the released ranker learns from the tested windows too."""
    judged, wanted = night.rankers.facts["ranker"], night.config.ranker.refit_all
    if "penalty" not in judged:
        return False
    if wanted != "auto":
        return bool(wanted)
    facts = night.tested.facts
    share = _moments_there(night) / max(1, facts["moments"])
    return bool(facts[LEARNABLE] * share >= WORTH_IT * judged["train_groups"])


def _moments_there(night: Night) -> int:
    """Moments of the tested windows, tested or not."""
    events, windows = night.data.interactions, night.data.windows
    return sum(len(moments_at(events, cut, windows.label_end(cut))) for cut in windows.test)


def _later_groups(night: Night) -> StageResult[RankingData]:
    """The tested groups, or, where only some moments were tested, as many as the ranker may learn from."""
    if _moments_there(night) <= night.tested.facts["moments"]:
        return night.tested
    return ranking_data.build_ranking_data(night, "released")


def _refit(night: Night, later: StageResult[RankingData], out: Path) -> dict[str, Any]:
    """Fit it again. It has learned the tested groups, so that one which surely finds less there than the
    judged one went wrong, and is not kept."""
    facts = night.rankers.facts["ranker"]
    judged = replace(Ranker.load(night.rankers.folder / FULL), facts=facts)
    columns, seed = judged.features, night.config.seed
    more = only(later.product.groups(), later.product, columns)
    more = more.take(more.with_positive())
    allowed = max(night.config.ranker.max_groups, facts["train_groups"])
    before = _earlier_groups(night, columns, round((1 + EARLIER_SHARE) * allowed) - len(more))
    found = refitted(judged, before, more, night.config.ranker, seed=seed, workers=night.workers)
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


def _earlier_groups(night: Night, columns: Sequence[str], most: int) -> Groups:
    """Of what the judged ranker learned from at most so many groups: first what was hidden for practice and
    found, which the tested windows do not have."""
    learned, facts = night.learned.product, night.rankers.facts["ranker"]
    groups = replace(learned.groups(), weight=place_weights(night).weight)
    if not facts.get("shown lists kept", True):
        groups = groups.of_recall()
    told = groups.with_positive()
    if len(told) > most:
        hidden = _finds_hidden(groups, learned.features.columns)[told]
        drawn = chance(groups.user[told], "earlier groups", night.config.seed)
        told = told[least(drawn - hidden, most)]
    return only(groups.take(told), learned, columns)


def _finds_hidden(groups: Groups, columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    """bool[G]: groups in which somebody acted on an item without events."""
    if EVENTS not in columns:
        return np.zeros(len(groups), bool)
    events = np.nan_to_num(groups.x[:, list(columns).index(EVENTS)])
    return groups.any_of((groups.grade > 0) & (events == 0))
