"""Every system's lists on a night's test moments, and those moments as the evaluation wants them.

Shapes: M test moments, K places of a list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.evaluation.asked_moments import AskedMoments
from recsys.evaluation.evaluation import Evaluation, PastItems
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.saved_lists import MAIN
from recsys.evaluation.segments import by_event_type
from recsys.features.interactions import Interactions
from recsys.rules import ListCaps
from recsys.storage.stages import StageResult
from recsys.training.compared_lists import LIST_LENGTH, KnownAtMoments
from recsys.training.groups import history_reader, top_k
from recsys.training.night import fit_ranker
from recsys.training.night.baseline_lists import baselines_as_of
from recsys.training.night.fit_sources import Recipe, fit_as_of
from recsys.training.night.inputs import Inputs, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded

FUSION = "fusion of sources"

Lists = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def make_lists(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    groups: StageResult,
    ranking: RankingData | None,
    rankers: StageResult,
) -> StageResult:
    """Every system's top lists, kept as arrays so that the page can be made again at no cost.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        recipe: the sources, their params and fusion weights.
        groups: stage output of the test groups.
        ranking: what it holds; None in a dry run.
        rankers: stage output of the rankers, with their ablations.
    """

    def action(out: Path) -> dict[str, Any]:
        assert ranking is not None
        systems = _ranked(ranking, rankers, caps_of(night, inputs))
        singles = _single_source(night, inputs, encoded, recipe, ranking)
        systems |= singles.lists
        _save(out / "items.npz", {name: items for name, (items, _) in systems.items()})
        _save(out / "scores.npz", {name: scores for name, (_, scores) in systems.items()})
        return {
            "systems": list(systems),
            "variants": fit_ranker.bases(rankers.facts["ablations"], MAIN),
            "absent": singles.absent,
            "failed": singles.failed,
            "last_seen": singles.last_seen,
        }

    return night.runner.run(
        "lists",
        {"groups": groups.key, "ranker": rankers.key, "caps": night.config.serving.caps},
        action,
        code=(
            "recsys.rules",
            "recsys.training.night.test_lists",
            "recsys.training.night.baseline_lists",
            "recsys.training.compared_lists",
            "recsys.evaluation.baselines",
            "recsys.training.groups",
        ),
    )


def _save(file: Path, arrays: dict[str, Any]) -> None:
    np.savez(file, **arrays)


def read_lists(stage: StageResult) -> list[RankedLists]:
    """The lists of all systems, the main one first."""
    items, scores = np.load(stage.path / "items.npz"), np.load(stage.path / "scores.npz")
    return [RankedLists(name, items[name], scores[name]) for name in stage.facts["systems"]]


def caps_of(night: Night, inputs: Inputs) -> ListCaps:
    """The caps that a service of this config puts on every list."""
    catalogue, config = inputs.tables.catalogue, night.config
    return ListCaps(catalogue, config.serving.caps, config.sources.candidates)


def best_of(score: npt.NDArray[np.float64], ranking: RankingData, caps: ListCaps) -> Lists:
    """The lists that scores of all rows (float64[R]) make, as they would be served."""
    table = ranking.table
    return caps.cut(*top_k(score, table.items, table.offsets, caps.depth(LIST_LENGTH)), LIST_LENGTH)


def _ranked(ranking: RankingData, rankers: StageResult, caps: ListCaps) -> dict[str, Lists]:
    """The ranker's lists, its ablations', and those of the fused recall it starts from."""
    scores = {MAIN: fit_ranker.score(rankers.path, "full", ranking)}
    for name in rankers.facts["ablations"]:
        scores[name] = fit_ranker.score(rankers.path, name, ranking)
    fused = ranking.table.signals["fused.score"].astype(np.float64)
    scores[FUSION] = np.nan_to_num(fused, nan=-1.0)
    return {name: best_of(score, ranking, caps) for name, score in scores.items()}


@dataclass(frozen=True)
class _SingleSources:
    """Lists of single sources and baselines, with those that could not be had."""

    lists: dict[str, Lists]
    absent: dict[str, str]
    failed: dict[str, str]
    last_seen: dict[str, dict[str, int]]
    """Cut → source → time of the last event its fit saw."""


def _single_source(
    night: Night, inputs: Inputs, encoded: Encoded, recipe: Recipe, ranking: RankingData
) -> _SingleSources:
    """Lists of each source alone and of the simple baselines, as of each cut."""
    found = _SingleSources({}, {}, {}, {})
    parts: dict[str, list[RankedLists]] = {}
    caps = caps_of(night, inputs)
    for cut in inputs.windows.test:
        moments = ranking.moments.take(np.flatnonzero(ranking.moments.time == cut))
        if not len(moments):
            continue
        own = fit_as_of(night, inputs, encoded, recipe, inputs.interactions, cut).load(encoded)
        more = baselines_as_of(night, inputs, encoded, recipe, own, cut)
        sources = own | more.sources
        more.add_lists(_known(inputs, moments, cut), sources, caps, night.workers)
        found.absent.update(more.absent)
        found.failed.update(more.failed)
        found.last_seen[str(cut)] = {name: int(s.fit_until) for name, s in sources.items()}
        for one in more.lists:
            parts.setdefault(one.name, []).append(one)
    # One that failed at some cut only would be evaluated on other moments than the rest.
    for name, made in parts.items():
        if name not in {*found.failed, *found.absent}:
            items, scores = [m.items for m in made], [m.scores for m in made]
            found.lists[name] = (np.concatenate(items), np.concatenate(scores))
    return found


def _known(inputs: Inputs, moments: Truth, cut: int) -> KnownAtMoments:
    """What may be known at the moments of a cut."""
    return KnownAtMoments(
        inputs.interactions.before(cut),
        past_items(inputs.interactions, moments),
        moments.time,
        history_reader(inputs.interactions.histories(), moments),
        inputs.tables.catalogue,
        inputs.windows.scheme == "ordinal",
    )


def past_items(interactions: Interactions, moments: Truth) -> PastItems:
    """Items each moment's user had acted on before it."""
    read = history_reader(interactions.histories(), moments)
    return PastItems.of(read(m) for m in range(len(moments)))


def asked_moments(night: Night, inputs: Inputs, encoded: Encoded, moments: Truth) -> AskedMoments:
    """The test moments with all that lists at them are measured by.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        moments: M test moments.
    """
    events, users = inputs.interactions, user_table(inputs.tables)

    def of_users(column: str) -> list[object] | None:
        if users is None or column not in users.categorical:
            return None
        return [users.attributes(str(u)).get(column) for u in events.user_ids[moments.user]]

    window = events.where(events.time >= inputs.windows.test[0])
    return AskedMoments.of(
        moments,
        past_items(events, moments),
        events,
        inputs.tables.catalogue,
        vectors=encoded.vectors(),
        own=night.config.evaluation.segments,
        of_users=of_users,
        more={"event type": by_event_type(moments, window)},
    )


def metrics_of(evaluation: Evaluation, name: str = MAIN) -> Mapping[str, float]:
    """One system's means, for the registry."""
    return {
        metric: interval.value
        for metric, interval in evaluation.systems[name].items()
        if interval.value is not None
    }
