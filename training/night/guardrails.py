"""Numbers with limits that a candidate has to keep besides being as good as the champion."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recsys.data_schemas.config import GateConfig
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.report_context import Check
from recsys.evaluation.uncertainty import Interval
from recsys.features.parity import LIMIT
from recsys.training.night.gate import Guardrail
from recsys.training.night.release_findings import ReleaseCheck

KEPT = ("coverage", "text_diversity", "category_diversity")
"""Metrics of lists that may not fall far below the champion's."""


def guardrails(
    gate: GateConfig,
    evaluation: Evaluation,
    release_check: ReleaseCheck,
    champion: str | None,
    bundle_bytes: int,
    champion_bytes: int | None,
    served: Sequence[Check],
) -> list[Guardrail]:
    """All guardrails that tonight's figures allow.

    Args:
        gate: limits.
        evaluation: of all systems on the test moments.
        release_check: what asking the release found.
        champion: name of the champion's system in the evaluation; None where it has no lists.
        bundle_bytes: size of the release; `champion_bytes` of the champion's, where it can be read.
        served: what recomputing served rows found; empty where nothing was served.
    """
    main = evaluation.systems[evaluation.main]
    found = [*_of_release(gate, release_check, served), *_of_lists(gate, evaluation)]
    if champion_bytes:
        growth = bundle_bytes / champion_bytes
        found.append(
            Guardrail("bundle size, × the champion's", growth, gate.max_bundle_growth, False)
        )
    if champion is not None:
        found += _against(main, evaluation.systems[champion], gate.guardrail_margin)
    return found


def _of_release(
    gate: GateConfig, found: ReleaseCheck, served: Sequence[Check]
) -> Iterator[Guardrail]:
    """How fast the release is, whether features are what they were, how far it is from what was judged."""
    differs = max(found.differences.values(), default=0.0)
    yield Guardrail("latency of a ranking call, ms", found.latency_ms, gate.max_latency_ms, False)
    yield Guardrail("online features equal batch", differs, LIMIT, False)
    yield Guardrail("known events that counters see when asked", found.counted, 0.999, True)
    if found.lost:
        name, rise = found.most_lost
        yield Guardrail(f"{name} unknown when asked", rise, gate.max_unknown_rise, False)
    if served:
        broken = sum(not check.passed for check in served)
        yield Guardrail("served features that differ in batch", broken, 0, False)
    if found.overlap is not None:
        name = "overlap of released and evaluated"
        yield Guardrail(name, found.overlap, gate.min_overlap, True)
    if found.shift is not None:
        yield Guardrail("score shift of the release", found.shift, gate.max_score_shift, False)


def _of_lists(gate: GateConfig, evaluation: Evaluation) -> Iterator[Guardrail]:
    """What the lists are besides being right."""
    coverage = _value(evaluation.systems[evaluation.main], f"coverage@{max(evaluation.ks)}")
    if coverage is not None:
        yield Guardrail("catalogue coverage", coverage, gate.min_coverage, True)
    if (error := evaluation.calibration_error) is not None:
        yield Guardrail("calibration error", error, gate.max_calibration_error, False)


def ranker_parts(tonight: Mapping[str, Any], champion: Mapping[str, Any] | None) -> list[Guardrail]:
    """A night without a fitted ranker does not take the place of a champion with one, nor one that had
    too few groups to try trees that of a champion with trees: its lists may pass for as good where
    few are tested, and nobody meant to go without. Trees that were tried and did no better for
    held-out users are no fault: the linear part alone was chosen.

    Args:
        tonight, champion: what their fits say of the rankers (`Ranker.facts`); None where there is no
            champion, or none that can be read.
    """
    if champion is None or not _is_fitted(champion):
        return []
    found = [
        Guardrail("the ranker is fitted, as the champion's (1: yes)", _is_fitted(tonight), 1, True)
    ]
    if _trees(champion):
        name = "trees of the ranker were tried (1: yes); the champion's has some"
        found.append(Guardrail(name, bool(_trees(tonight)) or _tried_trees(tonight), 1, True))
    return found


def sources_lost(failed: Mapping[str, str], champion: Mapping[str, Any] | None) -> list[Guardrail]:
    """A night whose source could not be fitted does not take the place of a champion that has it.

    Args:
        failed: tonight's sources that could not be fitted → why.
        champion: params by source of its recipe; None where there is no champion, or none that can be
            read.
    """
    lost = sorted(failed.keys() & (champion or {}).keys())
    if not lost:
        return []
    name = f"sources of the champion that could not be fitted ({', '.join(lost)})"
    return [Guardrail(name, len(lost), 0, False)]


def missing_parts(
    ranker: Mapping[str, Any], has_window: bool, failed: Mapping[str, str]
) -> list[str]:
    """What a night goes without although it should not, in words for the first screen and the terminal.

    Args:
        ranker: what its fit says of it.
        has_window: whether the plan left the ranker a window.
        failed: sources and baselines that could not be fitted → why.
    """
    said = [f"“{name}” could not be fitted: {why}" for name, why in failed.items()]
    if not _is_fitted(ranker):
        why = ranker.get("why", "no group has a positive") if has_window else "it has no window"
        said.append(f"the ranker is not fitted, the fused recall ranks alone: {why}")
    return said


def without_trees(ranker: Mapping[str, Any]) -> str | None:
    """That a fitted ranker has no trees, and why: no alarm, but nothing to be silent about. None where it
    has some."""
    if not _is_fitted(ranker) or _trees(ranker):
        return None
    few = f"{ranker.get('train_groups', 0):,} groups to learn from are too few to try them"
    why = "held-out users did no better with them" if _tried_trees(ranker) else few
    return f"the ranker has no trees, its linear part ranks alone: {why}"


def _is_fitted(ranker: Mapping[str, Any]) -> bool:
    return int(ranker.get("groups", 0)) > 0


def _trees(ranker: Mapping[str, Any]) -> int:
    return sum(int(count) for count in ranker.get("trees", ()))


def _tried_trees(ranker: Mapping[str, Any]) -> bool:
    """Whether held-out users decided about them."""
    return "linear+trees" in ranker.get("validation_ndcg@10", {})


def _against(
    ours: Mapping[str, Interval], theirs: Mapping[str, Interval], margin: float
) -> Iterator[Guardrail]:
    """Coverage and diversity at every k against the champion's on the same moments."""
    for metric in ours:
        value, base = _value(ours, metric), _value(theirs, metric)
        if metric.split("@")[0] in KEPT and value is not None and base is not None:
            yield Guardrail(f"{metric} against the champion's", value, (1 - margin) * base, True)


def _value(system: Mapping[str, Interval], metric: str) -> float | None:
    found = system.get(metric)
    return None if found is None else found.value
