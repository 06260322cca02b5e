"""The end of a night: evaluate, report, gate, register, promote, collect what is no longer needed."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.evaluation.asked_moments import AskedMoments, evaluate_moments
from recsys.evaluation.drift import Drift
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.lists import RankedLists
from recsys.evaluation.page import verdict, write_report
from recsys.evaluation.report_context import CAPS, Check, MaskedItems, to_the_minute
from recsys.evaluation.saved_lists import MAIN, SavedLists, write_lists
from recsys.storage.bundle import open_bundle
from recsys.storage.files import (
    atomic_write,
    folder_bytes,
    hash_json,
    human_bytes,
    human_seconds,
)
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import AGAINST_TAG, CAPS_TAG, GATE_TAG, RECIPE_TAG
from recsys.storage.stages import StageResult
from recsys.storage.workspace import Workspace, as_stage_ids
from recsys.training.night import (
    at_rest,
    health,
    leakage,
    masked_items,
    own_parts,
    read_data,
    report_parts,
    test_lists,
)
from recsys.training.night.champion import ChampionResult, recipe_key
from recsys.training.night.fit_sources import Recipe, warm_start_facts
from recsys.training.night.gate import REJECT, ChampionEvidence, Decision, Evidence, decide, veto
from recsys.training.night.gate_evidence import (
    MASKED,
    EarlierNights,
    caps_tag,
    champion_evidence,
    floor,
    paired,
)
from recsys.training.night.guardrails import (
    guardrails,
    missing_parts,
    ranker_parts,
    sources_lost,
    without_trees,
)
from recsys.training.night.inputs import Inputs
from recsys.training.night.night_context import Night
from recsys.training.night.ranking_data import RankingData
from recsys.training.night.refresh_encoder import Encoded
from recsys.training.night.release import publish_state
from recsys.training.night.release_check import try_release
from recsys.training.night.usage import system_metrics, used

if TYPE_CHECKING:
    from recsys.training.night.night_result import NightResult

WITH_ROWS = ("drain", "tables")
"""Stages whose outputs of earlier nights hold rows that tonight may be too old to be kept."""
VETO = "hooks.before_promote:"
"""Beginning of the gate's rule for a hook that spoke against a promotion."""
DECIDING = ("gate", "drift", "evaluation", "hooks")
"""Config sections that decide about a release besides what it was made of."""


def dry_run_result(night: Night, why: str | None) -> "NightResult":
    """The result of a dry run, as far as it can be foreseen."""
    from recsys.training.night.night_result import NightResult

    lines = [
        f"{r.name}: {'unchanged' if r.skipped else 'would run because ' + r.reason}"
        for r in night.runner.results
    ]
    if why:
        lines.append(f"… {why}")
    unchanged = all(r.skipped for r in night.runner.results)
    return NightResult(None, None, None, {}, unchanged, lines)


def decide_and_register(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    rows: RankingData | None,
    tested: RankingData,
    rankers: StageResult,
    served: StageResult,
    lists: StageResult,
    masked: StageResult,
    champion_result: ChampionResult | None,
    bundle: StageResult,
    state: StageResult,
    registry: Registry,
) -> "NightResult":
    """Report and gate, then register the bundle and promote it if the gate allows.

    Args:
        night: tonight's run: config, workspace, runner, reporter.
        inputs: tonight's tables, events and windows.
        encoded: tonight's encoder and item vectors.
        recipe: the sources, their params and fusion weights.
        rows: ranking data of the ranker's windows; None where there are none.
        tested: ranking data of the test windows.
        rankers: stage output of the rankers, with their ablations.
        served: stage output with the ranker that is released.
        lists: stage output of every system's lists.
        masked: stage output of the lists over masked cold items.
        champion_result: the champion on the same test moments; None without one.
        bundle: stage output of the release.
        state: stage output of the online state's snapshot.
        registry: of the workspace.
    """
    from recsys.training.night.night_result import NightResult

    known = _registered(night, registry, bundle, state)
    if known is not None:
        publish_state(night, state)
        return known
    systems = test_lists.read_lists(lists)
    asked = test_lists.asked_moments(night, inputs, encoded, tested.moments)
    evaluation = evaluate_moments(
        asked,
        [*systems, *([champion_result.lists] if champion_result and champion_result.lists else [])],
        main=MAIN,
        config=night.config.evaluation,
        seed=night.config.seed,
        variants=lists.facts["variants"],
    )
    checks = [
        *night.data_checks,
        *leakage.leak_checks(night, inputs, encoded, rows, tested, lists),
        *leakage.leak_hints(rows, tested),
    ]
    checked = try_release(night, inputs, tested, bundle.path / "bundle", state, systems[0])
    drifted = health.examine(night, inputs, tested, rows)
    drifted += health.of_scores(checked.evaluated, checked.released, night.config.drift)
    for warning in health.warnings(drifted):
        night.alarm(warning)
    own_ranker = rankers.facts["ranker"]
    _say_what_is_missing(night, own_ranker, bool(inputs.windows.ranker), lists.facts["failed"])
    tonight = _tonights_lists(inputs, asked, systems[0], champion_result)
    made_by = recipe_key(night.config, recipe, encoded.stage.key)
    rails = guardrails(
        night.config.gate,
        evaluation,
        checked,
        champion_result.lists.name if champion_result and champion_result.lists else None,
        folder_bytes(bundle.path / "bundle"),
        _bytes_of(registry, champion_result),
        night.served_parity,
    )
    theirs = _facts_of(registry, champion_result)
    rails += ranker_parts(own_ranker, None if theirs is None else theirs.get("ranker", {}))
    rails += sources_lost(recipe.failed, None if theirs is None else theirs["recipe"]["dials"])
    decision = decide(
        night.config.gate,
        Evidence(
            _of_champion(night, asked, tonight, champion_result, registry, made_by, masked),
            floor(tonight, systems, lists.facts["variants"], night.config.gate.metric),
            rails,
            [f"{check.name}: {check.detail}" for check in checks if check.refuses],
            [*health.stops(drifted), *_missing(lists)],
        ),
    )
    _ask_hooks(night, decision, evaluation)
    for warning in decision.alarms:
        night.alarm(warning)
    shift = {
        "evaluated models fitted on events before": "each test cut",
        "released models fitted on events before": to_the_minute(inputs.windows.end),
        CAPS: test_lists.caps_of(night, inputs).in_words(),
        **checked.facts(),
        **warm_start_facts(night, inputs, encoded, recipe, tested.moments),
    }
    page = _report(
        night, inputs, encoded, recipe, rows, tested, rankers, served, lists, systems[0], evaluation,
        checks, shift, drifted, checked.parity, decision, masked_items.masked_facts(night, inputs, masked),
    )  # fmt: skip
    _keep_lists(tonight, page)
    own_parts.tell_report(night.config, page, night.reporter)
    version = _register(night, registry, bundle, evaluation, decision, made_by, page)
    publish_state(night, state)
    if decision.promoted and registry.champion() != version:
        registry.promote(version, "; ".join(decision.reasons)[:4000])
    _remember(night, inputs.windows.end, bundle, state, version, decision, page, evaluation)
    _collect(night, registry)
    _say_what_it_took(night)
    return NightResult(version, decision, page, _numbers(evaluation), False, [])


def _ask_hooks(night: Night, decision: Decision, evaluation: Evaluation) -> None:
    """Let the user's own hooks speak against a promotion."""
    if not (decision.promoted and night.config.hooks.before_promote):
        return
    candidate = own_parts.PromotionCandidate(
        night.config.name, decision.champion, _numbers(evaluation), tuple(decision.reasons)
    )
    for name, reason in own_parts.vetoes(night.config, candidate, night.reporter):
        veto(decision, f"{VETO} {name}", reason)


def _numbers(evaluation: Evaluation) -> dict[str, dict[str, list[Any]]]:
    """System → metric → value, low, high."""
    return {
        name: {m: list(i[:3]) for m, i in found.items()}
        for name, found in evaluation.systems.items()
    }


def _missing(lists: StageResult) -> list[str]:
    """Baselines that could not be fitted: a comparison with holes takes nobody's place."""
    failed: Mapping[str, str] = lists.facts["failed"]
    return [f"the baseline “{name}” could not be fitted: {why}" for name, why in failed.items()]


def _tonights_lists(
    inputs: Inputs, asked: AskedMoments, own: RankedLists, champion_result: ChampionResult | None
) -> SavedLists:
    """Tonight's lists and the champion's: what this and later nights are compared by."""
    champion = champion_result.lists if champion_result else None
    assert asked.past is not None
    return SavedLists(
        inputs.interactions.user_ids,
        asked.truth,
        asked.past,
        {lists.name: lists for lists in (own, champion) if lists is not None},
    )


def _of_champion(
    night: Night,
    asked: AskedMoments,
    tonight: SavedLists,
    champion_result: ChampionResult | None,
    registry: Registry,
    made_by: str,
    masked: StageResult,
) -> ChampionEvidence | None:
    """The champion's part of the evidence."""
    config = night.config
    nights = EarlierNights.of(registry, config.gate.best_of_nights, config.serving.caps)
    found = champion_evidence(
        config.gate, tonight, champion_result, asked.segments, nights, made_by
    )
    if found is None or champion_result is None or champion_result.masked is None:
        return found
    if MASKED not in config.gate.protected or found.overall is None:
        return found
    truth, own = masked_items.read_masked(masked)
    _, theirs = masked_items.read_masked(champion_result.masked)
    if not truth.n_groups or own[0].items.shape != theirs[0].items.shape:
        return found
    pairs = paired(truth, own[0], theirs[0], tonight.user_ids, config.gate.metric)
    return replace(found, segments={**found.segments, MASKED: pairs})


def _keep_lists(tonight: SavedLists, page: Path) -> None:
    """Leave them beside the page."""
    systems = list(tonight.systems.values())
    write_lists(page.parent, tonight.truth, tonight.past, systems, tonight.user_ids)


def _bytes_of(registry: Registry, champion_result: ChampionResult | None) -> int | None:
    """Size of the champion's bundle; None where there is none that can be read."""
    if champion_result is None or champion_result.lost:
        return None
    try:
        return folder_bytes(registry.local_path(champion_result.version))
    except RecsysError:
        return None


def _say_what_is_missing(
    night: Night, ranker: Mapping[str, Any], has_window: bool, failed: Mapping[str, str]
) -> None:
    """On the terminal and on the report's first screen."""
    for missing in missing_parts(ranker, has_window, failed):
        night.alarm(missing)
    if (no_trees := without_trees(ranker)) is not None:
        night.reporter.warn(no_trees)


def _facts_of(
    registry: Registry, champion_result: ChampionResult | None
) -> Mapping[str, Any] | None:
    """What the champion's bundle says of itself; None where there is none that can be read."""
    if champion_result is None or champion_result.lost:
        return None
    try:
        bundle = open_bundle(registry.local_path(champion_result.version), verify=False)
    except RecsysError:
        return None
    facts: Mapping[str, Any] = bundle.facts
    return facts


def _collect(night: Night, registry: Registry) -> None:
    """Remove what nothing needs, and say what the disk holds."""
    for line in registry.repair():
        night.reporter.warn(line)
    registry.collect()
    freed = night.workspace.collect(
        pinned=_pinned(registry),
        digests=registry.digests_in_use(),
        reports=registry.reports_in_use(),
    )
    freed += registry.share_stage_outputs() + at_rest.rest_until_tomorrow(night)
    if read_data.retention(night):
        used = {(result.name, result.key) for result in night.runner.results}
        freed += night.workspace.keep_only(WITH_ROWS, used)
    usage = night.workspace.usage()
    total = usage.pop("total")
    largest = ", ".join(f"{name} {human_bytes(size)}" for name, size in list(usage.items())[:4])
    night.reporter.say(
        f"disk: the workspace holds {human_bytes(total)} ({largest}); {human_bytes(freed)} freed"
    )


def _say_what_it_took(night: Night) -> None:
    spent, kept = night.runner.spent
    whole = human_seconds(time.monotonic() - night.began)
    night.reporter.say(
        f"time: {whole} in all, {human_seconds(spent)} of them in stages; outputs of earlier nights that "
        f"took {human_seconds(kept)} were used again"
    )


def _report(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    rows: RankingData | None,
    tested: RankingData,
    rankers: StageResult,
    served: StageResult,
    made: StageResult,
    lists: RankedLists,
    evaluation: Evaluation,
    checks: Any,
    shift: Mapping[str, object],
    drifted: Sequence[Drift],
    parity: Sequence[Check],
    decision: Decision,
    masked: MaskedItems | None,
) -> Path:
    context = report_parts.context(
        night, inputs, encoded, recipe, rows, tested, rankers, served, made, lists, evaluation, checks,
        shift, drifted, parity, decision, masked,
    )  # fmt: skip
    folder = night.workspace.reports / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return write_report(evaluation, context, folder)


def _register(
    night: Night,
    registry: Registry,
    bundle: StageResult,
    evaluation: Evaluation,
    decision: Decision,
    made_by: str,
    page: Path,
) -> int:
    return registry.register(
        bundle.path / "bundle",
        tags={
            GATE_TAG: decision.action,
            "reasons": "\n".join(decision.reasons)[:4000],
            RECIPE_TAG: made_by,
            AGAINST_TAG: decision.champion or "",
            CAPS_TAG: caps_tag(night.config.serving.caps),
        },
        metrics=dict(test_lists.metrics_of(evaluation)),
        report_dir=page.parent,
        costs=costs(night.runner.results) | system_metrics(used(night)),
        challenger=decision.action != REJECT,
        run_name=f"night {datetime.now(UTC):%Y-%m-%d}",
        description=f"{verdict(evaluation)}\n\n{decision.headline}",
    )


def costs(results: Sequence[StageResult]) -> dict[str, float]:
    """What each stage cost this night: seconds and bytes in all, peak memory of its largest run."""
    found: dict[str, float] = {}
    for result in results:
        for name, value in result.cost.items():
            key = f"cost/{result.name}/{name}"
            before = found.get(key, 0.0)
            found[key] = max(before, value) if name == "peak_mb" else before + value
    found["cost/all/seconds"] = sum(v for k, v in found.items() if k.endswith("/seconds"))
    return found


def _identity(bundle: StageResult, state: StageResult, night: Night) -> str:
    return hash_json([bundle.key, state.key, *map(night.section, DECIDING)])


def last_end(config: RecsysConfig) -> int | None:
    """End of the data of the last night that finished here, µs; None before the first."""
    try:
        text = Workspace(config.workspace_path).registered.read_text(encoding="utf-8")
        return int(json.loads(text)["end"])
    except (OSError, ValueError, KeyError):
        return None


def _remember(
    night: Night,
    end: int,
    bundle: StageResult,
    state: StageResult,
    version: int,
    decision: Decision,
    page: Path,
    evaluation: Evaluation,
) -> None:
    record = {
        "identity": _identity(bundle, state, night),
        "end": end,
        "version": version,
        "decision": decision.as_json(),
        "report": str(page),
        "metrics": _numbers(evaluation),
    }
    atomic_write(night.workspace.registered, json.dumps(record))


def _registered(
    night: Night, registry: Registry, bundle: StageResult, state: StageResult
) -> "NightResult | None":
    """The result of the night that already registered exactly this, if one did."""
    from recsys.training.night.night_result import NightResult

    try:
        record = json.loads((night.workspace.registered).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = open_bundle(bundle.path / "bundle", verify=False).digest
    known = {v.version: v.digest for v in registry.list()}
    if (
        record["identity"] != _identity(bundle, state, night)
        or known.get(record["version"]) != digest
    ):
        return None
    decision = Decision.parse(record["decision"])
    night.reporter.say(f"register: unchanged, version {record['version']}")
    unchanged = all(r.skipped for r in night.runner.results)
    return NightResult(
        record["version"], decision, Path(record["report"]), record["metrics"], unchanged, []
    )


def _pinned(registry: Registry) -> set[tuple[str, str]]:
    """Stage outputs that champion and previous were made from; a lost bundle names none."""
    pinned: set[tuple[str, str]] = set()
    for alias in ("champion", "previous"):
        version = registry.alias(alias)
        if version is None:
            continue
        with contextlib.suppress(RecsysError):
            bundle = open_bundle(registry.local_path(version), verify=False)
            pinned |= as_stage_ids(bundle.facts["stages"])
    return pinned
