"""Masked cold items: how well lists find items on which nobody has acted.

Real items without any event are few among what people go on to act on, so a night also asks: had a
tenth of the catalogue been new, would the lists have found them? These items lose their events in the
fits, the histories and the counters before the first tested cut; whoever acted on one of them
afterwards is asked for. This is where an item's text has to earn its place.

The encoder was tuned without their events (`hidden_items`), as it would have been had they been new.

Shapes: M moments, N items, K places of a list.
"""

from dataclasses import dataclass
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
from recsys.storage.files import hash_json
from recsys.storage.stages import Stage, StageResult
from recsys.training.compared_lists import FROZEN, LIST_LENGTH, TEXT, TEXT_ONLY
from recsys.training.groups import history_reader, source_lists
from recsys.training.night import ranking_data
from recsys.training.night.baseline_lists import frozen_files
from recsys.training.night.fit_sources import fit_as_of
from recsys.training.night.hidden_items import TESTED_SHARE, hidden
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.products import CutSources, Fitted, RankingData, Recipe
from recsys.training.night.test_lists import CODE, Lists, caps_of, ranked
from recsys.training.sources.fit_source import SourceFailed
from recsys.training.windows import moments_at

WORDS = "bm25"
LISTS = "lists.npz"

Masked = tuple[Truth, list[RankedLists]]


def make_masked_lists(night: Night) -> StageResult[Masked]:
    """Lists of the whole, without text, and of text, words and fusion alone, over masked items.

    Asked at the first tested cut, with what was acted on until the end of the data.
    """
    data = night.data
    test = _Test.of(data)
    fitted = fit_as_of(night, test.view, test.cut, masked=test.key)
    words = _words(night, test)
    return night.runner.run(
        Stage(
            "masked-items",
            {
                "known": data.key_before(data.windows.end),
                "cut": test.cut,
                "masked": test.key,
                "sources": fitted.key,
                "words": None if words is None else words.key,
                "encoder": night.encoded.vectors_stage.key,
                "recipe": night.recipe.identity(),
                "ranker": night.rankers.key,
                "limit": night.config.evaluation.max_users,
                "caps": night.config.serving.caps,
                "settings": [night.section("sources"), night.section("features")],
            },
            lambda out: _make(night, test, fitted, words, out),
            read_masked,
            code=("recsys.training.night.test_lists", *CODE),
        )
    )


@dataclass(frozen=True)
class _Test:
    """Which items are taken for new, and what is known without their events."""

    masked: npt.NDArray[np.bool_]
    """bool[N]"""
    cut: int
    view: Interactions
    key: str

    @classmethod
    def of(cls, data: Inputs) -> "_Test":
        masked = hidden(data, TESTED_SHARE)
        view = data.interactions.where(~masked[data.interactions.item])
        key = hash_json(np.flatnonzero(masked).tolist())
        return cls(masked, data.windows.test[0], view, key)


def _make(
    night: Night, test: _Test, fitted: Fitted, words: Fitted | None, out: Path
) -> dict[str, Any]:
    cut_sources = CutSources(fitted, night.encoded)
    ranking = _ranked_data(out, night, test, cut_sources)
    sources = cut_sources.opened
    without = {WITHOUT_TEXT} & set(night.rankers.facts["ablations"])
    systems = ranked(night, ranking, without)
    singles = {TEXT_ONLY: sources[TEXT], **({} if words is None else words.load(night.encoded))}
    singles.pop(TEXT, None)
    if night.config.encoder.fine_tune:
        singles[FROZEN] = frozen_files(night).open()
    for name in (TEXT_ONLY, WORDS, FROZEN):
        if name in singles:
            systems[name] = _single(night, test.view, ranking.moments, singles[name])
    truth = ranking.moments.restricted(test.masked[ranking.moments.items])
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
        "items": int(test.masked.sum()),
        "cut": test.cut,
        "until": night.data.windows.end,
        "lists": truth.n_groups,
        "positives": len(truth.items),
    }


def _moments(night: Night, test: _Test) -> Truth:
    """Users who acted on a masked item after the cut, at most as many as are tested."""
    data = night.data
    moments = moments_at(data.interactions, test.cut, data.windows.end)
    moments = moments.take(np.flatnonzero(moments.any_of(test.masked[moments.items])))
    chances = data.chances(moments, "masked moments")
    return moments.sample(night.config.evaluation.max_users, chances)


def _words(night: Night, test: _Test) -> Fitted | None:
    """BM25 over the texts, whether the recipe keeps it or not; None where it does not apply or could
    not be fitted."""
    recipe = night.recipe
    if not night.data.texts or WORDS in recipe.failed:
        return None
    plain = recipe if WORDS in recipe.params else Recipe({WORDS: {}}, {}, {})
    only = Recipe({WORDS: plain.params[WORDS]}, {}, plain.facts)
    try:
        return fit_as_of(night.beside(recipe=only), test.view, test.cut, masked=test.key)
    except SourceFailed:
        if plain is recipe:
            raise
        return None  # a baseline alone: the lists of the test say that it failed


def _ranked_data(out: Path, night: Night, test: _Test, sources: CutSources) -> RankingData:
    """Candidates and features of the moments, as of the cut, without the masked items' past."""
    moments = _moments(night, test)
    with night.asking(out) as asking:
        part = ranking_data.collect_cut(night, test.view, moments, sources, asking)
    known = ranking_data.batch_inputs(night, test.view)
    known = ranking_data.without_items(known, test.masked)
    ranking_data.write_ranking_data(out, night, known, [part])
    return RankingData.read(out)


def _single(night: Night, view: Interactions, moments: Truth, source: RecallSource) -> Lists:
    """One source's own lists."""
    read = history_reader(view.histories(), moments)
    unavailable, caps = night.data.tables.catalogue.blocked.copy(), caps_of(night)
    depth = caps.depth(LIST_LENGTH)
    lists = source_lists(source, moments.time, read, unavailable, k=depth, workers=night.workers)
    return caps.cut(*lists, LIST_LENGTH)


def read_masked(stage: StageResult[Any]) -> Masked:
    """The truth and every system's lists, the main one first."""
    held = np.load(stage.folder / LISTS)
    truth = Truth(held["offsets"], held["relevant"], held["grade"], held["user"], held["time"])
    names = stage.facts["systems"]
    return truth, [RankedLists(n, held[f"items/{n}"], held[f"scores/{n}"]) for n in names]


def masked_facts(night: Night) -> MaskedItems | None:
    """What the report's first screen says of masked items; None where nobody acted on one."""
    found, facts = evaluate_masked(night), night.masked.facts
    if found is None:
        return None
    metrics = (f"ndcg@{min(found.ks)}", f"recall@{max(found.ks)}")
    return MaskedItems(
        items=facts["items"],
        lists=facts["lists"],
        positives=facts["positives"],
        since=facts["cut"],
        metrics=metrics,
        systems={n: {m: means[m] for m in metrics} for n, means in found.systems.items()},
        ahead={n: {m: gaps[m].interval for m in metrics} for n, gaps in found.differences.items()},
    )


def evaluate_masked(night: Night) -> Evaluation | None:
    """All metrics on masked items; None where nobody acted on one."""
    truth, systems = night.masked.product
    if not truth.n_groups:
        return None
    config = night.config.evaluation
    asked = AskedMoments.plain(truth, night.data.n_items)
    return evaluate_moments(asked, systems, main=MAIN, config=config, seed=night.config.seed)
