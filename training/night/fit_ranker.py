"""Fitting the ranker on the measured groups, and the ablations the report shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.features.draws import chance, least
from recsys.ranker import Ranker
from recsys.storage.stages import Stage, StageResult, folder
from recsys.training.night.inputs import BASIS, SHOWN, Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.position_weights import place_weights
from recsys.training.night.products import FULL, RankingData
from recsys.training.ranker import fit_like, fit_ranker
from recsys.training.ranking_groups import Groups

CODE = (
    *BASIS,
    *SHOWN,
    "recsys.ranker",
    "recsys.training.night.position_weights",
    "recsys.training.ranker",
    "recsys.training.ranker_trees",
    "recsys.training.ranking_groups",
)
ABLATIONS = {
    "without text": ("text",),
    "without collaborative": ("collaborative",),
    "without counters": ("counters", "recency"),
}
"""Name on the page → feature families left out. Candidates stay the same; the ranker is refitted with
the penalty, the trees and the share of the fusion that were chosen for the full one."""
ABLATION_GROUPS = 2000
"""Groups with a positive that an ablation is fitted on at most. Where the full ranker learnt from more, one with all
features on the same groups stands beside them, so that a part is not praised for the groups."""
WHOLE = "all features, fewer groups"
HISTORY = "user.events.all"
LENGTHS = (1, 2, 3, 4, 6, 9, 16, 32)
"""Lengths of a history between which people are taken to be alike (assumed)."""
LEAST_SHARE = 0.01
"""Share of the groups below which those of one length stand for no more people (assumed)."""


def fit(night: Night) -> StageResult[Path]:
    """The ranker, and one more per ablation, each in its own folder."""
    lengths = _lengths_asked(night.data)
    return night.runner.run(
        Stage(
            "ranker",
            {
                "groups": night.learned.key,
                "ranker": _choosing(night),
                "lengths asked": lengths,
                "seed": night.config.seed,
            },
            lambda out: _fit_all(night, lengths, out),
            folder,
            code=CODE,
            personal=False,
        )
    )


def _fit_all(night: Night, lengths: list[float], out: Path) -> dict[str, Any]:
    ranking = night.learned.product
    unbiased = place_weights(night)
    groups = replace(
        ranking.groups(), weight=unbiased.weight, stands_for=_stands_for(ranking, lengths)
    )
    learned = learned_from(ranking)
    night.reporter.say(f"ranker: {learned}")
    ranker = _fit_into(out / FULL, night, groups, ranking.features.columns)
    if "shown lists" in ranker.facts:
        uses_lists = ranker.facts["shown lists kept"]
        note = f"impressions {'kept' if uses_lists else 'not kept'}"
        night.reporter.say(f"ranker: {note}: {ranker.facts['shown lists']}")
        # What an ablation is held against learnt from no more than it does.
        groups = groups if uses_lists else groups.of_recall()
    return {
        "ranker": ranker.facts,
        "gain": ranker.gain(),
        "ablations": _fit_ablations(night, ranker, groups, out),
        "learned from": learned,
        "position": unbiased.facts(),
    }


def _fit_ablations(night: Night, ranker: Ranker, groups: Groups, out: Path) -> dict[str, list[str]]:
    """Fit them like the full ranker; name → columns."""
    ranking = night.learned.product
    columns, families = ranking.features.columns, ranking.features.families
    few = len(groups.with_positive()) <= ABLATION_GROUPS
    small = groups if few else _sample(groups, night.config.seed)
    kept: dict[str, list[str]] = {}
    if len(small) < len(groups):
        kept[WHOLE] = list(columns)
    for name, left_out in ABLATIONS.items():
        rest = [column for column in columns if families[column] not in left_out]
        if 0 < len(rest) < len(columns):
            kept[name] = rest
    config, seed = night.config.ranker, night.config.seed
    for name, rest in kept.items():
        part = small if name == WHOLE else only(small, ranking, rest)
        found = fit_like(ranker, part, rest, config, seed=seed, workers=night.workers)
        save_ranker(_folder(out, name), found)
    return kept


def _lengths_asked(inputs: Inputs) -> list[float]:
    """Share of the people who will be asked about by the length of their history, between `LENGTHS`: of
    everybody at the first tested cut, so that it stays while the windows do."""
    known = np.bincount(inputs.interactions.before(inputs.windows.test[0]).user)
    people = np.digitize(known[known > 0], LENGTHS)
    shares = np.bincount(people, minlength=len(LENGTHS) + 1) / max(1, len(people))
    return [float(share) for share in shares]


def _stands_for(
    ranking: RankingData, lengths_asked: Sequence[float]
) -> npt.NDArray[np.float64] | None:
    """float64[M]: how much more often people with as long a history will be asked about than are
    among the groups; None without the feature, or where no group has a row."""
    if HISTORY not in ranking.features.columns or not len(ranking.x):
        return None
    offsets = ranking.table.offsets
    first = np.minimum(offsets[:-1], len(ranking.x) - 1)
    seen = np.nan_to_num(ranking.x[first, ranking.features.columns.index(HISTORY)])
    groups, told = np.digitize(seen, LENGTHS), offsets[1:] > offsets[:-1]
    of_groups = np.bincount(groups[told], minlength=len(LENGTHS) + 1) / max(1, told.sum())
    return np.asarray((np.array(lengths_asked) / np.maximum(of_groups, LEAST_SHARE))[groups])


def _choosing(night: Night) -> dict[str, Any]:
    """Settings that decide what is judged."""
    return {name: value for name, value in night.section("ranker").items() if name != "refit_all"}


def learned_from(ranking: RankingData) -> str:
    """How many groups with a positive there are, and how many of them are impressions, in words."""
    groups = ranking.groups().with_positive()
    note = f"{len(groups):,} groups"
    shown = int(ranking.shown[groups].sum())
    return f"{note}, {shown:,} of them impressions" if ranking.shown.any() else note


def _folder(place: Path, name: str) -> Path:
    return place / name.replace(", ", "-").replace(" ", "-")


def bases(ablations: Mapping[str, Any], main: str) -> dict[str, str]:
    """Each ablation → what it is held against: all features on the same groups."""
    whole = WHOLE if WHOLE in ablations else main
    return {name: main if name == WHOLE else whole for name in ablations}


def _fit_into(place: Path, night: Night, groups: Groups, columns: Sequence[str]) -> Ranker:
    ranker = fit_ranker(
        groups,
        columns,
        night.config.ranker,
        seed=night.config.seed,
        workers=night.workers,
        seconds=night.budget("ranker"),
    )
    if "ended by time" in ranker.facts:
        night.reporter.warn(
            f"ranker: {ranker.facts['ended by time']}; budget_minutes gives it more"
        )
    save_ranker(place, ranker)
    return ranker


def save_ranker(place: Path, ranker: Ranker) -> None:
    """Write it into a new folder, with what its fit found."""
    place.mkdir()
    ranker.save(place)
    (place / "facts.json").write_text(json.dumps(ranker.facts), encoding="utf-8")


def only(groups: Groups, ranking: RankingData, columns: Sequence[str]) -> Groups:
    """The same groups with some of their features."""
    place = [ranking.features.columns.index(c) for c in columns]
    return replace(groups, x=np.ascontiguousarray(groups.x[:, place]))


def _sample(groups: Groups, seed: int) -> Groups:
    share = len(groups.with_positive()) / len(groups)
    count = round(ABLATION_GROUPS / max(share, 1e-9))
    return groups.take(least(chance(groups.user, "ablations", seed), count))


def score(rankers: Path, name: str, ranking: RankingData) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64[R]: scores of all rows by the full ranker (`full`) or an ablation's."""
    return scored(Ranker.load(_folder(rankers, name)), ranking)


def scored(ranker: Ranker, ranking: RankingData) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64[R]: scores of all rows, whose features are found by name."""
    place = [ranking.features.columns.index(c) for c in ranker.features]
    out = np.empty(len(ranking.x))
    for low in range(0, len(out), 500_000):
        part = np.ascontiguousarray(ranking.x[low : low + 500_000][:, place])
        out[low : low + 500_000] = ranker.score(part)
    return out
