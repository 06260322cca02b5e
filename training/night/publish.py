"""The end of a night: evaluate, report, gate, register, promote, collect what is no longer needed."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.asking import Ask
from recsys.bundle import open_bundle
from recsys.evaluation.evaluation import Evaluation
from recsys.evaluation.lists import RankedLists
from recsys.evaluation.page import write_report
from recsys.files import atomic_write, hash_json
from recsys.registry import Registry
from recsys.stages import StageResult
from training.night import evaluate, leakage, report
from training.night.context import Night
from training.night.encoder import Encoded
from training.night.gate import Decision, decide
from training.night.inputs import Inputs
from training.night.measure import Measured
from training.night.release import publish_state
from training.night.sources import Recipe

if TYPE_CHECKING:
    from training.nightly import NightResult

LATENCY_CALLS = 30
"""Ranking calls timed for the gate's latency rule; their median counts."""
OVERLAP_USERS = 200
REGISTERED = "registered.json"


def planned(night: Night, why: str | None) -> "NightResult":
    """The result of a dry run, as far as it can be foreseen."""
    from training.nightly import NightResult

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
    rows: Measured | None,
    tested: Measured,
    rankers: StageResult,
    lists: StageResult,
    rival: tuple[int, RankedLists] | None,
    bundle: StageResult,
    state: StageResult,
    registry: Registry,
) -> "NightResult":
    """Report and gate, then register the bundle and promote it if the gate allows."""
    from training.nightly import NightResult

    known = _registered(night, registry, bundle, state)
    if known is not None:
        publish_state(night, state)
        return known
    systems = evaluate.read_lists(lists)
    evaluation = evaluate.measure_lists(
        night,
        inputs,
        encoded,
        [*systems, *([rival[1]] if rival else [])],
        tested.moments,
        lists.facts["variants"],
    )
    checks = leakage.leak_checks(night, inputs, encoded, rows, tested, lists)
    truth = evaluate.truth_of(tested.moments)
    latency, shift = _try_release(night, inputs, tested, bundle, state, systems[0])
    decision = decide(
        night.config.gate,
        truth,
        systems[0],
        rival,
        evaluate.segments_of(inputs, truth, tested.moments, ()),
        guardrails=_guardrails(night, evaluation, latency),
        leaks=[f"{check.name}: {check.detail}" for check in checks if not check.passed],
        resamples=night.config.evaluation.bootstrap,
        seed=night.config.seed,
    )
    page = _report(
        night, inputs, encoded, recipe, rows, tested, rankers, lists, systems[0], evaluation,
        [*checks, *leakage.leak_hints(rows, tested)],
        shift, decision,
    )  # fmt: skip
    version = _register(registry, bundle, evaluation, decision, page)
    publish_state(night, state)
    if decision.promoted and registry.champion() != version:
        registry.promote(version, "; ".join(decision.reasons)[:4000])
    _remember(night, bundle, state, version, decision, page, evaluation)
    registry.collect()
    night.workspace.collect(pinned=_pinned(registry), digests=registry.digests_in_use())
    metrics = {
        name: {m: list(i[:3]) for m, i in found.items()}
        for name, found in evaluation.systems.items()
    }
    return NightResult(version, decision, page, metrics, False, [])


def _guardrails(
    night: Night, evaluation: Evaluation, latency: float
) -> dict[str, tuple[float, float, bool]]:
    gate = night.config.gate
    found = evaluation.systems[evaluate.MAIN]
    coverage = found.get(f"coverage@{max(evaluation.ks)}")
    rules = {"latency of a ranking call, ms": (latency, gate.max_latency_ms, False)}
    if coverage is not None and coverage.value is not None:
        rules["catalogue coverage"] = (coverage.value, gate.min_coverage, True)
    return rules


def _try_release(
    night: Night,
    inputs: Inputs,
    tested: Measured,
    bundle: StageResult,
    state: StageResult,
    evaluated: RankedLists,
) -> tuple[float, dict[str, object]]:
    """Ask the release as a service would: median milliseconds, and how far its lists moved from
    the evaluated ones at the same moments."""
    from recsys.ranking import Runtime

    runtime = Runtime.open(bundle.path / "bundle", state.path / "state", version="")
    rng = np.random.default_rng(night.config.seed)
    chosen = rng.permutation(len(tested.moments))[:OVERLAP_USERS]
    times, overlaps = [], []
    for moment in chosen:
        user = inputs.interactions.user_ids[tested.moments.user[moment]]
        ask = Ask(str(user), int(tested.moments.now[moment]), k=10)
        began = time.perf_counter()
        answer = runtime.answer(ask)
        times.append((time.perf_counter() - began) * 1000)
        before = evaluated.items[moment][:10]
        now = set(inputs.tables.catalogue.indices_of(answer.item_ids).tolist())
        overlaps.append(len(now & set(before[before >= 0].tolist())) / max(1, len(now)))
    median = float(np.median(times[1 : LATENCY_CALLS + 1])) if len(times) > 1 else 0.0
    return median, {
        "evaluated models fitted on events before": "each test cut",
        "released models fitted on events before": report._day(inputs.windows.end),
        "overlap of the released top 10 with the evaluated": f"{np.mean(overlaps):.0%}"
        if overlaps
        else "–",
        "median time of one recommendation, ms": f"{median:.1f}",
    }


def _report(
    night: Night,
    inputs: Inputs,
    encoded: Encoded,
    recipe: Recipe,
    rows: Measured | None,
    tested: Measured,
    rankers: StageResult,
    made: StageResult,
    lists: RankedLists,
    evaluation: Evaluation,
    checks: Any,
    shift: Mapping[str, object],
    decision: Decision,
) -> Path:
    context = report.context(
        night, inputs, encoded, recipe, rows, tested, rankers, made, lists, evaluation, checks,
        shift, decision,
    )  # fmt: skip
    folder = night.workspace.reports / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return write_report(evaluation, context, folder)


def _register(
    registry: Registry,
    bundle: StageResult,
    evaluation: Evaluation,
    decision: Decision,
    page: Path,
) -> int:
    return registry.register(
        bundle.path / "bundle",
        tags={"gate": decision.action, "reasons": "\n".join(decision.reasons)[:4000]},
        metrics=dict(evaluate.metrics_of(evaluation)),
        report_dir=page.parent,
    )


def _identity(bundle: StageResult, state: StageResult, night: Night) -> str:
    return hash_json([bundle.key, state.key, night.section("gate"), night.section("evaluation")])


def _remember(
    night: Night,
    bundle: StageResult,
    state: StageResult,
    version: int,
    decision: Decision,
    page: Path,
    evaluation: Evaluation,
) -> None:
    record = {
        "identity": _identity(bundle, state, night),
        "version": version,
        "decision": decision.as_json(),
        "report": str(page),
        "metrics": {
            name: {m: list(i[:3]) for m, i in found.items()}
            for name, found in evaluation.systems.items()
        },
    }
    atomic_write(night.workspace.cache / REGISTERED, json.dumps(record))


def _registered(
    night: Night, registry: Registry, bundle: StageResult, state: StageResult
) -> "NightResult | None":
    """The result of the night that already registered exactly this, if one did."""
    from training.night.gate import Rule
    from training.nightly import NightResult

    try:
        record = json.loads((night.workspace.cache / REGISTERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = open_bundle(bundle.path / "bundle", verify=False).digest
    known = {v.version: v.digest for v in registry.list()}
    if (
        record["identity"] != _identity(bundle, state, night)
        or known.get(record["version"]) != digest
    ):
        return None
    kept = record["decision"]
    decision = Decision(kept["action"], kept["champion"], [Rule(**rule) for rule in kept["rules"]])
    night.reporter.say(f"register: unchanged, version {record['version']}")
    unchanged = all(r.skipped for r in night.runner.results)
    return NightResult(
        record["version"], decision, Path(record["report"]), record["metrics"], unchanged, []
    )


def _pinned(registry: Registry) -> set[tuple[str, str]]:
    """Stage outputs that champion and previous were made from."""
    pinned: set[tuple[str, str]] = set()
    for alias in ("champion", "previous"):
        version = registry.alias(alias)
        if version is None:
            continue
        stages = open_bundle(registry.local_path(version), verify=False).facts["stages"]
        pinned |= {(str(name), str(key)) for name, key in stages.items()}
    return pinned
