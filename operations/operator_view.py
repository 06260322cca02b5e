"""What an operator looks at, out of what a workspace holds already: registry, reports, experiments, logs.

Nothing here is computed anew and nothing names a person. A part that cannot be read is left out and named.
"""

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

from recsys.data_schemas.config import RecsysConfig
from recsys.data_schemas.errors import RecsysError
from recsys.storage.eventlog import log_address
from recsys.storage.experiment_records import read_experiments
from recsys.storage.files import folder_bytes
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import GATE_TAG, Version
from recsys.storage.workspace import Holder, Workspace

NIGHTS: Final = 10
"""Nights and changes of champion shown, the latest."""
DRIFTS: Final = 12
SAID: Final = 240
"""Characters of a change's reason; the registry has all."""
REASONS: Final = 3
"""Reasons of the gate that are shown of a night; the report has all."""


def operator_view(config: RecsysConfig, registry: Registry) -> dict[str, Any]:
    """Champion and history, last nights, the last night's stages, drift and parity, live lists,
    experiments, sizes; `missing` names parts that could not be read."""
    workspace = Workspace(config.workspace_path)
    parts: dict[str, Callable[[], Any]] = {
        "name": lambda: config.name,
        "champion": registry.champion,
        "history": lambda: _history(registry),
        "nights": lambda: [_night(v) for v in registry.list()[:NIGHTS]],
        "last_night": lambda: _last_night(workspace),
        "live": lambda: _read(workspace.live),
        "experiments": lambda: _experiments(workspace),
        "at_work": lambda: _at_work(workspace),
        "bytes": lambda: _sizes(config, workspace),
    }
    view: dict[str, Any] = {}
    missing = []
    for name, part in parts.items():
        try:
            view[name] = part()
        except (RecsysError, OSError, ValueError, KeyError, TypeError) as error:
            said = error.what if isinstance(error, RecsysError) else type(error).__name__
            missing.append(f"{name}: {said}")
            view[name] = None
    view["missing"] = missing
    return view


def _read(file: Path) -> Any:
    """A JSON file; None where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _history(registry: Registry) -> list[dict[str, Any]]:
    return [
        {"at": c.at, "action": c.action, "version": c.version, "before": c.before,
         "reason": shorten(c.reason, SAID, placeholder=" …")}
        for c in reversed(registry.history()[-NIGHTS:])
    ]  # fmt: skip


def _night(version: Version) -> dict[str, Any]:
    reasons = version.tags.get("reasons", "").splitlines()
    failed = [line for line in reasons if not line.startswith("passed")]
    return {
        "version": version.version,
        "at": version.created_at,
        "outcome": version.tags.get(GATE_TAG),
        "aliases": list(version.aliases),
        "reasons": (failed or reasons)[:REASONS],
        "ndcg@10": version.metrics.get("ndcg@10"),
    }


def _last_night(workspace: Workspace) -> dict[str, Any] | None:
    """Stages, drift, parity and alarms of the newest report that is whole."""
    reports = sorted((workspace.path / "reports").glob("[0-9]*T*/report.json"))
    if not reports:
        return None
    tree = json.loads(reports[-1].read_text(encoding="utf-8"))
    context = tree["context"]
    drift = context.get("drift") or []
    moved = sorted(drift, key=lambda row: -float(row["value"]) / (float(row["limit"]) or 1.0))
    return {
        "report": reports[-1].parent.name,
        "verdict": tree["verdict"],
        "alarms": tree["alarms"],
        "warnings": context.get("warnings") or [],
        "seconds": context.get("elapsed"),
        "stages": [
            {key: stage.get(key) for key in ("name", "seconds", "peak_mb", "skipped")}
            for stage in context.get("stages") or []
        ],
        "drift": moved[:DRIFTS],
        "parity": context.get("parity") or [],
    }


def _experiments(workspace: Workspace) -> list[dict[str, Any]]:
    """The latest first, each with what its last report said."""
    found = []
    for one in reversed(read_experiments(workspace)):
        result = _read(workspace.path / "reports" / "experiments" / one.name / "experiment.json")
        found.append(
            {
                "name": one.name,
                "kind": one.kind,
                "challenger": one.challenger,
                "control": one.control or "champion",
                "share": one.share,
                "started": one.started,
                "stopped": one.stopped,
                "reason": one.reason,
                "decision": result and result["decision"],
                "units": result and result["units"],
            }
        )
    return found


def _at_work(workspace: Workspace) -> dict[str, Any] | None:
    """Who holds the workspace now; None for nobody."""
    holder = Holder.read(workspace.lock_file)
    return None if holder is None else {"command": holder.command, "since": holder.since}


def _sizes(config: RecsysConfig, workspace: Workspace) -> dict[str, int]:
    """Bytes of the online state's snapshots and, where it is a file, of the log."""
    sizes = {"state": folder_bytes(workspace.path / "state")}
    address = log_address(config)
    if "://" not in address:
        log = Path(address)
        files = [log, *log.parent.glob(f"{log.name}-*")]
        sizes["log"] = sum(f.stat().st_size for f in files if f.is_file())
    return sizes
