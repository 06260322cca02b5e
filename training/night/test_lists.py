"""Every system's lists on a night's test moments, and those moments as the evaluation wants them.

Shapes: M test moments, K places of a list.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.evaluation.asked_moments import AskedMoments, evaluate_moments
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.lists import PastItems, RankedLists, Truth
from recsys.evaluation.saved_lists import MAIN
from recsys.evaluation.segments import by_event_type
from recsys.features.interactions import Interactions
from recsys.rules import ListCaps
from recsys.storage.stages import Stage, StageResult
from recsys.training.compared_lists import LIST_LENGTH, Compared, KnownAtMoments, label_of
from recsys.training.groups import history_reader, top_k
from recsys.training.lists_alone import alone_elsewhere
from recsys.training.moment_parts import MomentParts, Moments
from recsys.training.night import fit_ranker, ranking_data, tune_encoder
from recsys.training.night.baseline_lists import baselines_as_of
from recsys.training.night.fit_sources import fit_as_of
from recsys.training.night.inputs import Inputs, user_table
from recsys.training.night.night_context import Night
from recsys.training.night.products import FULL, CutSources, RankingData
from recsys.training.source_files import SourceFiles

FUSION = "fusion of sources"
CODE = (
    "recsys.evaluation.baselines",
    "recsys.rules",
    "recsys.training.compared_lists",
    "recsys.training.lists_alone",
    "recsys.training.night.baseline_lists",
    "recsys.training.night.fit_ranker",
    "recsys.training.night.ranking_data",
    "recsys.training.night.tune_encoder",
    *fit_ranker.CODE,
    *ranking_data.CODE,
    *tune_encoder.CODE,
)
"""Most of it is in the keys that are read too; the lists of baselines are made here alone."""

Lists = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def make_lists(night: Night) -> StageResult[list[RankedLists]]:
    """Every system's top lists, kept as arrays so that the page can be made again at no cost."""
    return night.runner.run(
        Stage(
            "lists",
            {
                "groups": night.tested.key,
                "ranker": night.rankers.key,
                "caps": night.config.serving.caps,
            },
            lambda out: _make(night, out),
            read_lists,
            code=CODE,
        )
    )


def _make(night: Night, out: Path) -> dict[str, Any]:
    ablations = night.rankers.facts["ablations"]
    systems = ranked(night, night.tested.product, ablations)
    with night.asking(out) as asking:
        singles = _single_source(night, asking)
    systems |= singles.lists
    _save(out / "items.npz", {name: items for name, (items, _) in systems.items()})
    _save(out / "scores.npz", {name: scores for name, (_, scores) in systems.items()})
    return {
        "systems": list(systems),
        "variants": fit_ranker.bases(ablations, MAIN),
        "absent": singles.absent,
        "failed": singles.failed,
        "last_seen": singles.last_seen,
    }


def _save(file: Path, arrays: dict[str, Any]) -> None:
    np.savez(file, **arrays)


def read_lists(stage: StageResult[Any]) -> list[RankedLists]:
    """The lists of all systems, the main one first."""
    folder = stage.folder
    items, scores = np.load(folder / "items.npz"), np.load(folder / "scores.npz")
    return [RankedLists(name, items[name], scores[name]) for name in stage.facts["systems"]]


def caps_of(night: Night) -> ListCaps:
    """The caps that a service of this config puts on every list."""
    catalogue, config = night.data.tables.catalogue, night.config
    return ListCaps(catalogue, config.serving.caps, config.sources.candidates)


def best_of(score: npt.NDArray[np.float64], ranking: RankingData, caps: ListCaps) -> Lists:
    """The lists that scores of all rows (float64[R]) make, as they would be served."""
    table = ranking.table
    return caps.cut(*top_k(score, table.items, table.offsets, caps.depth(LIST_LENGTH)), LIST_LENGTH)


def ranked(night: Night, ranking: RankingData, ablations: Iterable[str]) -> dict[str, Lists]:
    """The ranker's lists, its ablations', and those of the fused recall it starts from."""
    rankers, caps = night.rankers.product, caps_of(night)
    scores = {MAIN: fit_ranker.score(rankers, FULL, ranking)}
    for name in ablations:
        scores[name] = fit_ranker.score(rankers, name, ranking)
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


def _single_source(night: Night, asking: MomentParts | None) -> _SingleSources:
    """Lists of each source alone and of the simple baselines, as of each cut."""
    found = _SingleSources({}, {}, {}, {})
    parts: dict[str, list[RankedLists]] = {}
    data, caps, tested = night.data, caps_of(night), night.tested.product.moments
    for cut in data.windows.test:
        moments = tested.take(np.flatnonzero(tested.time == cut))
        if not len(moments):
            continue
        own = CutSources(fit_as_of(night, data.interactions, cut), night.encoded)
        more, files = baselines_as_of(night, own.opened, cut)
        sources, known = own.opened | more.sources, _known(data, moments, cut)
        if asking is None:
            labelled = {label_of(name): source for name, source in sources.items()}
            alone = more.each_alone(known, labelled, caps.depth(LIST_LENGTH), night.workers)
        else:
            there = own.files | {name: files[name] for name in more.sources}
            alone = _asked_alone(asking, there, known, moments, caps.depth(LIST_LENGTH), more)
        more.add_lists(known, alone, caps)
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


def _asked_alone(
    asking: MomentParts,
    sources: Mapping[str, SourceFiles],
    known: KnownAtMoments,
    moments: Truth,
    depth: int,
    found: Compared,
) -> Iterator[RankedLists]:
    """What each source alone lists, as `Compared.each_alone` has it, asked elsewhere."""
    labelled = {label_of(name): files for name, files in sources.items()}
    unavailable = known.catalogue.blocked.copy()
    asked = Moments(moments, known.history_of)
    made = alone_elsewhere(asking, labelled, asked, unavailable, depth)
    found.failed |= made.failed
    yield from made.lists.values()


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


def asked_moments(night: Night) -> AskedMoments:
    """The M test moments with all that lists at them are measured by."""
    inputs, moments = night.data, night.tested.product.moments
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
        vectors=night.encoded.vectors(),
        own=night.config.evaluation.segments,
        of_users=of_users,
        more={"event type": by_event_type(moments, window)},
    )


def evaluate(night: Night) -> Evaluation:
    """All systems' lists and the champion's at the test moments."""
    theirs = night.champion.lists if night.champion else None
    return evaluate_moments(
        night.asked,
        [*night.lists.product, *([theirs] if theirs else [])],
        main=MAIN,
        config=night.config.evaluation,
        seed=night.config.seed,
        variants=night.lists.facts["variants"],
    )


def metrics_of(evaluation: Evaluation, name: str = MAIN) -> Mapping[str, float]:
    """One system's means, for the registry."""
    return {
        metric: interval.value
        for metric, interval in evaluation.systems[name].items()
        if interval.value is not None
    }
