"""OpenTelemetry traces, where the extra `[otel]` is installed and an endpoint is configured.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) turns it on; the standard
`OTEL_*` variables apply. A request is a span that continues the caller's `traceparent`; the steps of
ranking are its children. No ids of users or items are recorded.
"""

import importlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from starlette.responses import Response

from recsys.data_schemas.distribution import install_extra
from recsys.serving.asgi import Request

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
OTLP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_span: ContextVar[Any] = ContextVar("recsys_span", default=None)
_tracer: Any = None


def configure(exporter: Any = None) -> bool:
    """Turn tracing on if it is configured, or with a given span exporter; whether it is on."""
    global _tracer
    if exporter is None and not any(os.environ.get(name) for name in ENDPOINTS):
        return _tracer is not None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            exporter = importlib.import_module(OTLP).OTLPSpanExporter()
    except ImportError:
        from recsys.serving.logs import log

        log("warning", "tracing_not_installed", fix=install_extra("otel"))
        return False
    provider = TracerProvider(resource=Resource.create({"service.name": "recsys"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("recsys")
    return True


def shutdown() -> None:
    """Send what waits and turn tracing off."""
    global _tracer
    if _tracer is not None:
        _tracer.span_processor.shutdown()
        _tracer = None


async def traced(
    route: str, handler: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    """Run a handler within a span, if tracing is on."""
    if _tracer is None:
        return await handler(request)
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = request.headers.get("traceparent", "")
    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    with _tracer.start_as_current_span(route, context=context, kind=SpanKind.SERVER) as span:
        token = _span.set(span)
        try:
            response = await handler(request)
        finally:
            _span.reset(token)
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", response.status_code)
        return response


def ranked(version: str, count: int, degraded: list[str], steps_ms: Mapping[str, float]) -> None:
    """Tell the current span about a ranked list; its steps end now and become children."""
    span = _span.get()
    if span is None or _tracer is None:
        return
    span.set_attributes({"recsys.version": version, "recsys.items": count})
    if degraded:
        span.set_attribute("recsys.degraded", degraded)
    at = time.time_ns() - int(sum(steps_ms.values()) * 1e6)
    for step, milliseconds in steps_ms.items():
        child = _tracer.start_span(step, start_time=at)
        at += int(milliseconds * 1e6)
        child.end(at)
