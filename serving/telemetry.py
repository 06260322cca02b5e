"""Counters for Prometheus. With several workers they live in files and are added up when read.

The directory for that is `PROMETHEUS_MULTIPROC_DIR`, which the parent process sets before a worker
imports this module.
"""

import os
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
LIVE_FALL = Gauge(
    "recsys_live_fall",
    "1 where the champion surely earns less than the version before it",
    multiprocess_mode="livemax",
    registry=_registry,
)


def render() -> bytes:
    """All counters in the text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return bytes(generate_latest(_registry))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return bytes(generate_latest(registry))
