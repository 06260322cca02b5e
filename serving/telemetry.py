"""Counters for Prometheus. With several workers they live in files and are added up when read.

The directory for that is `PROMETHEUS_MULTIPROC_DIR`, which the parent process sets before a worker
imports this module.
"""

import os
from collections.abc import Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

_FINE = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_registry = CollectorRegistry()

REQUESTS = Counter(
    "recsys_requests", "Answers by route and status", ["route", "status"], registry=_registry
)
LATENCY = Histogram(
    "recsys_request_seconds", "Whole call", ["route"], buckets=_FINE, registry=_registry
)
STEP = Histogram(
    "recsys_step_seconds", "One step of ranking", ["step"], buckets=_FINE, registry=_registry
)
CANDIDATES = Histogram(
    "recsys_candidates",
    "Items of a ranked list",
    buckets=(1, 10, 50, 100, 200, 500, 1000, 2000, 5000),
    registry=_registry,
)
DEGRADED = Counter("recsys_degraded", "Answers made without a part", ["reason"], registry=_registry)
RECALLS = Counter(
    "recsys_recalls",
    "Histories that recall answered from what it kept of them, or read anew to keep it",
    ["outcome"],
    registry=_registry,
)
UNKNOWN = Counter("recsys_unknown_items", "Candidates nobody knows", registry=_registry)
EVENTS = Counter("recsys_events", "Events by outcome", ["outcome"], registry=_registry)
OVERLOAD = Counter("recsys_overload", "Requests refused early", registry=_registry)
ARRIVALS_REFUSED = Counter(
    "recsys_arrivals_refused",
    "Connections, heads, bodies and unread answers given up",
    ["reason"],
    registry=_registry,
)
SHADOW = Histogram(
    "recsys_shadow_overlap",
    "Share of the first ten items the shadow agrees on",
    buckets=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    registry=_registry,
)
SHADOW_SECONDS = Histogram(
    "recsys_shadow_seconds", "One list of the shadow", buckets=_FINE, registry=_registry
)
LIVE: dict[str, Any] = {"multiprocess_mode": "livesum", "registry": _registry}
IN_FLIGHT = Gauge("recsys_in_flight", "Requests being answered", **LIVE)
IMPRESSIONS_WAITING = Gauge("recsys_impressions_waiting", "Not yet in the log", **LIVE)
IMPRESSIONS_LOST = Gauge("recsys_impressions_lost", "Dropped since the start", **LIVE)
STATE_LAG = Gauge(
    "recsys_state_lag_records",
    "Records of the log not yet folded in",
    multiprocess_mode="livemax",
    registry=_registry,
)
LOG_REFUSED = Gauge(
    "recsys_log_refused",
    "1 while nothing is accepted: the log was replaced, is damaged, or its clock is wrong",
    multiprocess_mode="livemax",
    registry=_registry,
)
LOG_ERRORS = Counter("recsys_log_errors", "Failed reads or writes of the log", registry=_registry)
KEYS_REFUSED = Gauge(
    "recsys_keys_refused",
    "Entries of the key file that are not understood; 1 where it cannot be read at all",
    multiprocess_mode="livemax",
    registry=_registry,
)
VERSIONS_OPEN = Gauge("recsys_versions_open", "Versions in memory", **LIVE)
VERSIONS_REFUSED = Counter(
    "recsys_versions_refused",
    "Versions asked for by name and not opened",
    ["reason"],
    registry=_registry,
)
SWAPS = Counter("recsys_swaps", "Champions put into service", registry=_registry)
MODEL = Gauge(
    "recsys_model_info",
    "1 for the version in service",
    ["version"],
    multiprocess_mode="livemax",
    registry=_registry,
)

LIVE_RATE = Gauge(
    "recsys_live_rate",
    "Share of shown lists, as the last night joined them with what followed",
    ["version", "rate"],
    multiprocess_mode="livemax",
    registry=_registry,
)
_shown: set[tuple[str, str]] = set()
"""Labels of LIVE_RATE that this worker has set."""
LIVE_FALL = Gauge(
    "recsys_live_fall",
    "1 where the champion surely earns less than the version before it",
    multiprocess_mode="livemax",
    registry=_registry,
)


def render() -> bytes:
    """All counters in the text format."""
    return bytes(generate_latest(_whole()))


def _whole() -> Any:
    """The counters of this worker, or of all of them where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return _registry
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return registry


def keep_live(found: Mapping[str, Any] | None) -> None:
    """Show what the last night found of live lists; a version without lists has no number."""
    for version, name in _shown:
        LIVE_RATE.labels(version=version, rate=name).set(float("nan"))
    for version in (found or {}).get("versions", []):
        for name, (value, *_) in version["rates"].items():
            if value is not None:
                LIVE_RATE.labels(version=version["version"], rate=name).set(value)
                _shown.add((version["version"], name))
    LIVE_FALL.set(bool(found and found["fall"]))


def summary() -> dict[str, Any]:
    """The counters an operator looks at: latency by route (ms), refusals, degraded answers, the log."""
    latency: dict[str, dict[str, float]] = {}
    named: dict[str, dict[str, float]] = {"degraded": {}, "statuses": {}, "events": {}}
    single: dict[str, float] = {}
    labels = {
        "recsys_degraded_total": ("degraded", "reason"),
        "recsys_requests_total": ("statuses", "status"),
        "recsys_events_total": ("events", "outcome"),
    }
    for family in _whole().collect():
        for sample in family.samples:
            if sample.name == "recsys_request_seconds_bucket":
                edges = latency.setdefault(sample.labels["route"], {})
                edges[sample.labels["le"]] = sample.value
            elif sample.name in labels:
                group, label = labels[sample.name]
                key = sample.labels[label]
                named[group][key] = named[group].get(key, 0.0) + sample.value
            elif not sample.labels:
                single[sample.name] = sample.value
    routes = {route: _quantiles(edges) for route, edges in sorted(latency.items())}
    return {
        "routes": {route: found for route, found in routes.items() if found},
        **{group: {k: int(v) for k, v in values.items() if v} for group, values in named.items()},
        "overload": int(single.get("recsys_overload_total", 0)),
        "impressions_lost": int(single.get("recsys_impressions_lost", 0)),
        "log_errors": int(single.get("recsys_log_errors_total", 0)),
        "versions_open": int(single.get("recsys_versions_open", 0)),
    }


def _quantiles(edges: Mapping[str, float]) -> dict[str, float] | None:
    """Calls, and upper edges (ms) of the buckets that hold the median and the 99th percentile."""
    bounds = sorted((float(edge), count) for edge, count in edges.items())
    calls = bounds[-1][1] if bounds else 0.0
    if not calls:
        return None
    most = 2 * max(edge for edge, _ in bounds if edge != float("inf"))

    def at(share: float) -> float:
        edge = next(edge for edge, count in bounds if count >= share * calls)
        return 1000.0 * min(edge, most)

    return {"calls": int(calls), "p50_ms": at(0.5), "p99_ms": at(0.99)}
