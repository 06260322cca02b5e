"""Masked cold items: how well lists find items on which nobody has acted.

Real items without any event are few among what people go on to act on, so a night also asks: had a
tenth of the catalogue been new, would the lists have found them? These items lose their events in the
fits, the histories and the counters before the first tested cut; whoever acted on one of them
afterwards is asked for. This is where an item's text has to earn its place.

The encoder was tuned without their events (`hidden_items`), as it would have been had they been new.

Shapes: M moments, N items, K places of a list.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.evaluation.asked_moments import AskedMoments, evaluate_moments
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.report_context import WITHOUT_TEXT, MaskedItems
from recsys.evaluation.saved_lists import MAIN
from recsys.features.interactions import Interactions
from recsys.features.protocols import RecallSource
from recsys.rules import ListCaps
from recsys.storage.files import hash_json
from recsys.storage.stages import StageResult
from recsys.training.compared_lists import FROZEN, LIST_LENGTH, TEXT, TEXT_ONLY
from recsys.training.groups import history_reader, source_lists
from recsys.training.night import fit_ranker, ranking_data
from recsys.training.night.baseline_lists import frozen_text
from recsys.training.night.fit_sources import Fitted, Recipe, fit_as_of
from recsys.training.night.hidden_items import TESTED_SHARE, hidden
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded
from recsys.training.night.test_lists import (
    FUSION,
    best_of,
    caps_of,
)
from recsys.training.sources.fit_source import SourceFailed
from recsys.training.windows import moments_at

WORDS = "bm25"
LISTS = "lists.npz"

Lists = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def make_masked_lists(
    night: Night, inputs: Inputs, encoded: Encoded, recipe: Recipe, rankers: StageResult
) -> StageResult:
    """Lists of the whole, without text, and of text, words and fusion alone, over masked items.

    Asked at the first tested cut, with what was acted on until the end of the data.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        recipe: the sources, their params and fusion weights.
        rankers: stage output of the rankers, with their ablations.
    """
    masked = hidden(inputs, TESTED_SHARE)
    cut = inputs.windows.test[0]
    view = inputs.interactions.where(~masked[inputs.interactions.item])
    key = hash_json(np.flatnonzero(masked).tolist())
    fitted = fit_as_of(night, inputs, encoded, recipe, view, cut, masked=key)
    words = _words(night, inputs, encoded, recipe, view, cut, key)

    def action(out: Path) -> dict[str, Any]:
        moments = _moments(night, inputs, masked, cut)
        sources = fitted.load(encoded)
        ranking = _ranked_data(out, night, inputs, recipe, view, masked, moments, sources)
        systems = _by_ranker(ranking, rankers, caps_of(night, inputs))
        singles = {TEXT_ONLY: sources[TEXT], **({} if words is None else words.load(encoded))}
        singles.pop(TEXT, None)
        if night.config.encoder.fine_tune:
            singles[FROZEN] = frozen_text(night, inputs)
        for name in (TEXT_ONLY, WORDS, FROZEN):
            if name in singles:
                systems[name] = _single(night, inputs, view, moments, singles[name])
        truth = ranking.moments.restricted(masked[ranking.moments.items])
        lists: dict[str, Any] = {f"items/{n}": items for n, (items, _) in systems.items()}
        lists |= {f"scores/{n}": scores for n, (_, scores) in systems.items()}
        np.savez(
            out / LISTS,
            **lists,
            offsets=truth.offsets,
            relevant=truth.items,
            grade=truth.grades,
            user=truth.user,
            time=truth.time,
        )
        return {
            "systems": list(systems),
            "items": int(masked.sum()),
            "cut": cut,
            "until": inputs.windows.end,
            "lists": truth.n_groups,
            "positives": len(truth.items),
        }

    return night.runner.run(
        "masked-items",
        {
            "known": inputs.key_before(inputs.windows.end),
            "cut": cut,
            "masked": key,
            "sources": fitted.key,
            "words": None if words is None else words.key,
            "encoder": encoded.vectors_stage.key,
            "recipe": recipe.identity(),
            "ranker": rankers.key,
            "limit": night.config.evaluation.max_users,
            "caps": night.config.serving.caps,
            "settings": [night.section("sources"), night.section("features")],
        },
        action,
        code=(
            "recsys.training.night.masked_items",
            "recsys.training.night.hidden_items",
            "recsys.training.night.ranking_data",
            "recsys.training.groups",
            "recsys.features",
            "recsys.retrieval",
            "recsys.rules",
        ),
    )


def _moments(night: Night, inputs: Inputs, masked: npt.NDArray[np.bool_], cut: int) -> Truth:
    """Users who acted on a masked item after the cut, at most as many as are tested."""
    moments = moments_at(inputs.interactions, cut, inputs.windows.end)
    moments = moments.take(np.flatnonzero(moments.any_of(masked[moments.items])))
    return moments.sample(
        night.config.evaluation.max_users, inputs.chances(moments, "masked moments")
    )


def _words(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    view: Interactions,
    cut: int,
    key: str,
) -> Fitted | None:
    """BM25 over the texts, whether the recipe keeps it or not; None where it does not apply or could
    not be fitted."""
    if not inputs.texts or WORDS in recipe.failed:
        return None
    plain = recipe if WORDS in recipe.params else Recipe({WORDS: {}}, {}, {})
    only = Recipe({WORDS: plain.params[WORDS]}, {}, plain.facts)
    try:
        return fit_as_of(night, inputs, encoded, only, view, cut, masked=key)
    except SourceFailed:
        if plain is recipe:
            raise
        return None  # a baseline alone: the lists of the test say that it failed


def _ranked_data(
    out: Path,
    night: Night,
    inputs: Inputs,
    recipe: Recipe,
    view: Interactions,
    masked: npt.NDArray[np.bool_],
    moments: Truth,
    sources: Mapping[str, RecallSource],
) -> RankingData:
    """Candidates and features of the moments, as of the cut, without the masked items' past."""
    part = ranking_data.collect_cut(night, inputs, recipe, view, moments, sources)
    known = ranking_data.batch_inputs(night, inputs, view)
    known = ranking_data.without_items(known, masked)
    ranking_data.write_ranking_data(out, night, inputs, known, [part])
    return ranking_data.read(out)


def _by_ranker(ranking: RankingData, rankers: StageResult, caps: ListCaps) -> dict[str, Lists]:
    """The ranker's lists, those without text, and those of the fusion that it starts from."""
    scores = {MAIN: fit_ranker.score(rankers.path, "full", ranking)}
    if WITHOUT_TEXT in rankers.facts["ablations"]:
        scores[WITHOUT_TEXT] = fit_ranker.score(rankers.path, WITHOUT_TEXT, ranking)
    fused = ranking.table.signals["fused.score"].astype(np.float64)
    scores[FUSION] = np.nan_to_num(fused, nan=-1.0)
    return {name: best_of(score, ranking, caps) for name, score in scores.items()}


def _single(
    night: Night, inputs: Inputs, view: Interactions, moments: Truth, source: RecallSource
) -> Lists:
    """One source's own lists."""
    read = history_reader(view.histories(), moments)
    unavailable, caps = inputs.tables.catalogue.blocked.copy(), caps_of(night, inputs)
    depth = caps.depth(LIST_LENGTH)
    lists = source_lists(source, moments.time, read, unavailable, k=depth, workers=night.workers)
    return caps.cut(*lists, LIST_LENGTH)


def read_masked(stage: StageResult) -> tuple[Truth, list[RankedLists]]:
    """The truth and every system's lists, the main one first."""
    held = np.load(stage.open() / LISTS)
    truth = Truth(held["offsets"], held["relevant"], held["grade"], held["user"], held["time"])
    names = stage.facts["systems"]
    return truth, [RankedLists(n, held[f"items/{n}"], held[f"scores/{n}"]) for n in names]


def masked_facts(night: Night, inputs: Inputs, stage: StageResult) -> MaskedItems | None:
    """What the report's first screen says of masked items; None where nobody acted on one."""
    found = evaluate_masked(night, inputs, stage)
    if found is None:
        return None
    metrics = (f"ndcg@{min(found.ks)}", f"recall@{max(found.ks)}")
    return MaskedItems(
        items=stage.facts["items"],
        lists=stage.facts["lists"],
        positives=stage.facts["positives"],
        since=stage.facts["cut"],
        metrics=metrics,
        systems={n: {m: means[m] for m in metrics} for n, means in found.systems.items()},
        ahead={n: {m: gaps[m].interval for m in metrics} for n, gaps in found.differences.items()},
    )


def evaluate_masked(night: Night, inputs: Inputs, stage: StageResult) -> Evaluation | None:
    """All metrics on masked items; None where nobody acted on one."""
    truth, systems = read_masked(stage)
    if not truth.n_groups:
        return None
    config = night.config.evaluation
    asked = AskedMoments.plain(truth, inputs.n_items)
    return evaluate_moments(asked, systems, main=MAIN, config=config, seed=night.config.seed)
