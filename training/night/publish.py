"""The end of a night: its page, the registry, the champion, and what nobody needs any more."""

import contextlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.evaluation.page import verdict, write_report
from recsys.evaluation.saved_lists import write_lists
from recsys.storage.bundle import open_bundle
from recsys.storage.files import atomic_write, hash_json, human_bytes, human_seconds
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import AGAINST_TAG, CAPS_TAG, GATE_TAG, RECIPE_TAG
from recsys.storage.stages import StageResult
from recsys.storage.workspace import Workspace, as_stage_ids
from recsys.training.night import at_rest, own_parts, read_data, report_parts, test_lists
from recsys.training.night.champion import recipe_of
from recsys.training.night.gate import REJECT, Decision
from recsys.training.night.gate_evidence import caps_tag
from recsys.training.night.judge import saved_lists
from recsys.training.night.night_context import Night
from recsys.training.night.night_result import NightResult
from recsys.training.night.usage import system_metrics, used

WITH_ROWS = ("drain", "tables")
"""Stages whose outputs of earlier nights hold rows that tonight may be too old to be kept."""
DECIDING = ("gate", "drift", "evaluation", "hooks")
"""Config sections that decide about a release besides what it was made of."""


def report(night: Night) -> Path:
    """Write the night's page, with its lists beside it."""
    folder = night.workspace.reports / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    page = write_report(night.evaluation, report_parts.context(night), folder)
    kept = saved_lists(night)
    write_lists(page.parent, kept.truth, kept.past, list(kept.systems.values()), kept.user_ids)
    own_parts.tell_report(night.config, page, night.reporter)
    return page


def register(night: Night) -> int:
    """The bundle as a version, with what was found of it."""
    decision, evaluation = night.decision, night.evaluation
    return night.registry.register(
        night.bundle.product,
        tags={
            GATE_TAG: decision.action,
            "reasons": "\n".join(decision.reasons)[:4000],
            RECIPE_TAG: recipe_of(night),
            AGAINST_TAG: decision.champion or "",
            CAPS_TAG: caps_tag(night.config.serving.caps),
        },
        metrics=dict(test_lists.metrics_of(evaluation)),
        report_dir=night.page.parent,
        costs=costs(night.runner.results) | system_metrics(used(night)),
        challenger=decision.action != REJECT,
        run_name=f"night {datetime.now(UTC):%Y-%m-%d}",
        description=f"{verdict(evaluation)}\n\n{decision.headline}",
    )


def promote(night: Night) -> None:
    """Make the version the champion, where the gate says so, and remember that the night is done."""
    decision, registry = night.decision, night.registry
    if decision.promoted and registry.champion() != night.version:
        registry.promote(night.version, "; ".join(decision.reasons)[:4000])
    record = {
        "identity": _identity(night),
        "end": night.data.windows.end,
        "version": night.version,
        "decision": decision.as_json(),
        "report": str(night.page),
        "metrics": night.evaluation.numbers(),
    }
    atomic_write(night.workspace.registered, json.dumps(record))


def costs(results: Sequence[StageResult[Any]]) -> dict[str, float]:
    """What each stage cost this night: seconds and bytes in all, peak memory of its largest run."""
    found: dict[str, float] = {}
    for result in results:
        for name, value in result.cost.items():
            key = f"cost/{result.name}/{name}"
            before = found.get(key, 0.0)
            found[key] = max(before, value) if name == "peak_mb" else before + value
    found["cost/all/seconds"] = sum(v for k, v in found.items() if k.endswith("/seconds"))
    return found


def _identity(night: Night) -> str:
    return hash_json([night.bundle.key, night.state.key, *map(night.section, DECIDING)])


def last_end(config: RecsysConfig) -> int | None:
    """End of the data of the last night that finished here, µs; None before the first."""
    try:
        text = Workspace(config.workspace_path).registered.read_text(encoding="utf-8")
        return int(json.loads(text)["end"])
    except (OSError, ValueError, KeyError):
        return None


def registered_already(night: Night) -> NightResult | None:
    """The result of the night that already registered exactly this, if one did."""
    try:
        record = json.loads((night.workspace.registered).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = open_bundle(night.bundle.product, verify=False).digest
    known = {v.version: v.digest for v in night.registry.list()}
    if record["identity"] != _identity(night) or known.get(record["version"]) != digest:
        return None
    decision = Decision.parse(record["decision"])
    night.reporter.say(f"register: unchanged, version {record['version']}")
    unchanged = all(r.skipped for r in night.runner.results)
    return NightResult(
        record["version"], decision, Path(record["report"]), record["metrics"], unchanged, []
    )


def collect(night: Night) -> None:
    """Remove what nothing needs, and say what the disk holds and what the night took."""
    registry = night.registry
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
    spent, kept = night.runner.spent
    whole = human_seconds(time.monotonic() - night.began)
    night.reporter.say(
        f"time: {whole} in all, {human_seconds(spent)} of them in stages; outputs of earlier nights that "
        f"took {human_seconds(kept)} were used again"
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
