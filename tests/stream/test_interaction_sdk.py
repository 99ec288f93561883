"""Spans of the real OpenTelemetry SDK, through its real OTLP encoder."""

from __future__ import annotations

import contextlib
import json

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stream.interaction import interactions, trace_interaction


def test_a_trace_of_the_sdk() -> None:
    """A request, a retrieval and a chat that fails with a recorded exception."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(
        resource=Resource.create({"service.name": "shop", "deployment.environment.name": "prod"})
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("shop")
    with tracer.start_as_current_span("POST /ask") as root:
        root.set_attribute("http.route", "/ask")
        root.set_attribute("session.id", "s1")
        with tracer.start_as_current_span("retrieval docs") as span:
            span.set_attribute("gen_ai.operation.name", "retrieval")
            span.set_attribute("retrieval.documents.0.document.content", "Paris is in France.")
        with contextlib.suppress(ValueError), tracer.start_as_current_span("chat m") as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.request.model", "m")
            span.set_attribute("gen_ai.response.finish_reasons", ["stop"])
            span.set_attribute(
                "gen_ai.input.messages",
                json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Where is Paris?"}]}]),
            )
            span.add_event("gen_ai.choice", {"message": json.dumps({"content": "In France."}), "index": 0})
            raise ValueError("late")
    raw = encode_spans(exporter.get_finished_spans()).SerializeToString()
    traces = TracesData.FromString(raw)
    found = trace_interaction(traces)
    assert found is not None
    assert found.input_text == "Where is Paris?"
    assert found.output_text == "In France."
    assert found.finish_reasons == ["stop"]
    assert found.documents[0].content == "Paris is in France."
    assert (found.status, found.error_type) == ("error", "ValueError")
    assert found.unit_id == "s1"
    assert found.cohort() == {"route": "/ask", "model": "m", "service": "shop", "environment": "prod"}
    assert found.latency_s is not None
    assert found.latency_s > 0
    assert [one.kind for one in interactions(traces)] == ["retriever", "llm"]
