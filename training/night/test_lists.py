"""The evaluation of a night: every system's lists on the test moments, and what they measure.

Shapes: M test moments, K places of a list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.evaluation import baselines
from recsys.evaluation.evaluation import Evaluation, PastItems, evaluate_lists
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.own_metrics import own_metrics_of
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.saved_lists import MAIN
from recsys.evaluation.segments import (
    BY_HISTORY,
    SegmentLabels,
    by_activity,
    by_day,
    by_event_type,
    by_history,
    by_item_popularity,
    from_column,
)
from recsys.features.interactions import Interactions
from recsys.rules import ListCaps
from recsys.storage.stages import StageResult
from recsys.training.groups import history_reader, source_lists, top_k
from recsys.training.night import fit_ranker
from recsys.training.night.baseline_lists import baselines_as_of
from recsys.training.night.fit_sources import TEXT, Recipe, fit_as_of
from recsys.training.night.inputs import Inputs, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded
from recsys.training.windows import Moments

FUSION = "fusion of sources"
TEXT_ONLY = "text alone"
LIST_LENGTH = 100

Lists = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def truth_of(moments: Moments) -> Truth:
    """What the users of some moments did next."""
    return Truth(moments.offsets, moments.relevant, moments.grade, moments.user, moments.now)


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
    parts: dict[str, list[Lists]] = {}
    absent: dict[str, str] = dict(_absent(inputs))
    failed: dict[str, str] = {}
    last_seen: dict[str, dict[str, int]] = {}
    histories = inputs.interactions.histories()
    unavailable = inputs.tables.catalogue.blocked.copy()
    caps = caps_of(night, inputs)
    depth = caps.depth(LIST_LENGTH)
    for cut in inputs.windows.test:
        moments = ranking.moments.take(np.flatnonzero(ranking.moments.now == cut))
        if not len(moments):
            continue
        read = history_reader(histories, moments)
        simple = _simple_baselines(inputs, moments, cut, depth)
        own = fit_as_of(night, inputs, encoded, recipe, inputs.interactions, cut).load(encoded)
        more = baselines_as_of(night, inputs, encoded, recipe, own, cut)
        absent |= more.absent
        failed |= more.failed
        last_seen[str(cut)] = {n: int(s.fit_until) for n, s in (own | more.sources).items()}
        for name, source in (own | more.sources).items():
            items, scores = source_lists(
                source, moments, read, unavailable, k=depth, workers=night.workers
            )
            listed = caps.cut(fill_up(items, simple[0].items), scores, LIST_LENGTH)
            parts.setdefault(TEXT_ONLY if name == TEXT else name, []).append(listed)
        for made in simple:
            listed = caps.cut(made.items, made.scores, LIST_LENGTH)
            parts.setdefault(made.name, []).append(listed)
    # One that failed at some cut only would be evaluated on other moments than the rest.
    whole = {name: lists for name, lists in parts.items() if name not in {*failed, *absent}}
    return _SingleSources(
        {
            name: (np.concatenate([i for i, _ in lists]), np.concatenate([s for _, s in lists]))
            for name, lists in whole.items()
        },
        absent,
        failed,
        last_seen,
    )


def _absent(inputs: Inputs) -> dict[str, str]:
    """Simple baselines that mean nothing on this data, with the reason."""
    if inputs.windows.scheme != "ordinal":
        return {}
    why = "timestamps carry order only, so nothing is recent"
    return {"recent popularity": why, "most recent": why}


def fill_up(items: npt.NDArray[np.int32], popular: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Short lists filled up with popular items they do not hold, int32[M,K].

    A source alone has nothing for a new user; comparing with an empty list would flatter us.
    """
    out = items.copy()
    for row in np.flatnonzero((items < 0).any(axis=1)):
        held = out[row][out[row] >= 0]
        more = popular[row][(popular[row] >= 0) & ~np.isin(popular[row], held)]
        whole = np.concatenate([held, more])[: out.shape[1]]
        out[row, : len(whole)] = whole
    return out


def _simple_baselines(inputs: Inputs, moments: Moments, cut: int, length: int) -> list[RankedLists]:
    """Popularity, recent popularity and most recent, as of a cut."""
    past, n = inputs.interactions.before(cut), inputs.n_items
    seen = past_items(inputs.interactions, moments)
    catalogue = inputs.tables.catalogue
    offered = catalogue.available
    made = [baselines.popular(past, seen, length, n_items=n, offered=offered)]
    if inputs.windows.scheme != "ordinal":
        made += [
            baselines.recently_popular(past, seen, length, n_items=n, now=cut, offered=offered),
            baselines.newest(
                past,
                seen,
                length,
                n_items=n,
                now=cut,
                created_at=catalogue.created_at,
                offered=offered,
            ),
        ]
    return made


def past_items(interactions: Interactions, moments: Moments) -> PastItems:
    """Items each moment's user had acted on before it."""
    read = history_reader(interactions.histories(), moments)
    items = [np.unique(read(m).item) for m in range(len(moments))]
    sizes = [len(part) for part in items]
    flat = np.concatenate(items) if items else np.empty(0, np.int32)
    return PastItems(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), flat.astype(np.int32)
    )


def popularity_of(inputs: Inputs, truth: Truth) -> PopularityAt:
    """Past events of each item as of each test moment."""
    return PopularityAt.of(inputs.interactions, truth.time, inputs.n_items)


def segments_of(
    inputs: Inputs,
    truth: Truth,
    moments: Moments,
    own: tuple[str, ...],
) -> dict[str, SegmentLabels]:
    """Who is looked at apart: by the user's history, the item's popularity, category, day."""
    past = past_items(inputs.interactions, moments)
    catalogue = inputs.tables.catalogue
    found = {
        BY_HISTORY: by_history(np.diff(past.offsets)),
        "users": by_activity(np.diff(past.offsets)),
        "items": by_item_popularity(truth, popularity_of(inputs, truth)),
        "day": by_day(truth.time),
    }
    if len(catalogue.category_names) > 1:
        names = np.array([*catalogue.category_names, None], dtype=object)
        found["category"] = from_column(
            list(names[catalogue.category_codes[truth.items]]), "relevant"
        )
    window = inputs.interactions.where(inputs.interactions.time >= inputs.windows.test[0])
    if (types := by_event_type(truth, window)) is not None:
        found["event type"] = types
    users = user_table(inputs.tables)
    for column in own:
        if column in catalogue.categorical_names:
            names = np.array([*catalogue.values_of(column), None], dtype=object)
            values = list(names[catalogue.categorical(column)[truth.items]])
            found[column] = from_column(values, "relevant")
        elif users is not None and column in users.categorical:
            ids = inputs.interactions.user_ids[truth.user]
            found[column] = from_column([users.attributes(str(u)).get(column) for u in ids])
    return found


def measure_lists(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    systems: list[RankedLists],
    moments: Moments,
    variants: Mapping[str, str],
) -> Evaluation:
    """All metrics of all systems with their intervals.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        systems: lists of every system, one per moment; the main one first.
        moments: M test moments.
        variants: systems that are the main one without something → the system they are held
            against.
    """
    config = night.config.evaluation
    truth = truth_of(moments)
    catalogue = inputs.tables.catalogue
    return evaluate_lists(
        truth,
        systems,
        main=MAIN,
        ks=config.k,
        segments=segments_of(inputs, truth, moments, config.segments),
        catalogue_size=inputs.n_items,
        item_popularity=popularity_of(inputs, truth),
        item_vectors=np.asarray(encoded.vectors()),
        item_category=catalogue.category_codes if len(catalogue.category_names) > 1 else None,
        past_items=past_items(inputs.interactions, moments),
        variants=variants,
        own=own_metrics_of(config),
        seed=night.config.seed,
        resamples=config.bootstrap,
    )


def metrics_of(evaluation: Evaluation, name: str = MAIN) -> Mapping[str, float]:
    """One system's means, for the registry."""
    return {
        metric: interval.value
        for metric, interval in evaluation.systems[name].items()
        if interval.value is not None
    }
