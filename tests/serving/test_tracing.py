"""Spans of requests and of the steps of ranking."""

import asyncio

import pytest

from recsys.serving import tracing

sdk = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


def test_a_request_continues_the_callers_trace_and_shows_its_steps(serve):
    exporter = sdk.InMemorySpanExporter()

    async def scenario():
        async with serve() as (client, _):
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            assert tracing.configure(exporter)
            ask = {"user_id": "secret-user", "items": ["1", "2"]}
            await client.post("/v1/rank", json=ask, headers={"traceparent": parent})

    asyncio.run(scenario())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"/v1/rank", "ranker"}
    assert f"{spans['/v1/rank'].context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert spans["ranker"].parent.span_id == spans["/v1/rank"].context.span_id
    assert spans["/v1/rank"].attributes["recsys.items"] == 2
    assert "secret-user" not in str([span.to_json() for span in spans.values()])


def test_without_configuration_nothing_is_traced(monkeypatch):
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert not tracing.configure()
