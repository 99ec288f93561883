"""Requests as an instrumented application would send them, made from numbers."""

from __future__ import annotations

import hashlib
import json
import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

GOOD = "Refunds are paid within five working days after the parcel reaches our warehouse."
BAD = "I'm sorry, but I can't help with that request."
DOCUMENT = GOOD + " The refund goes to the payment method that was used for the order."


def hexid(*parts: object, size: int) -> bytes:
    """Return a deterministic id."""
    return hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=size).digest()


def attribute(key: str, value: str | int | float) -> KeyValue:
    """Return one attribute."""
    if isinstance(value, str):
        return KeyValue(key=key, value=AnyValue(string_value=value))
    if isinstance(value, int):
        return KeyValue(key=key, value=AnyValue(int_value=value))
    return KeyValue(key=key, value=AnyValue(double_value=value))


def messages(role: str, text: str) -> str:
    """Return GenAI messages (1.37 and later) as the JSON text that instrumentations write."""
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


def trace(
    number: object,
    *,
    route: str = "support",
    version: str = "v1",
    answer: str = GOOD,
    question: str = "How long does a refund take?",
    start_ns: int | None = None,
    seconds: float = 0.2,
    **root_attributes: str,
) -> list[Span]:
    """Return root, retrieval and LLM span of one conversation; ids derive from ``number``."""
    start = start_ns if start_ns is not None else time.time_ns() - int(seconds * 1e9)
    end = start + int(seconds * 1e9)
    trace_id = hexid("trace", number, size=16)
    ids = [hexid("span", number, index, size=8) for index in range(3)]
    root = Span(trace_id=trace_id, span_id=ids[0], name="POST /ask", kind=Span.SPAN_KIND_SERVER)
    root.attributes.append(attribute("driftgate.route", route))
    root.attributes.extend(attribute(key.replace("__", "."), value) for key, value in root_attributes.items())
    retrieval = Span(trace_id=trace_id, span_id=ids[1], parent_span_id=ids[0], name="retrieval")
    retrieval.attributes.extend(
        [
            attribute("gen_ai.operation.name", "retrieval"),
            attribute("retrieval.documents.0.document.content", DOCUMENT),
        ]
    )
    model = Span(
        trace_id=trace_id, span_id=ids[2], parent_span_id=ids[0], name="chat", kind=Span.SPAN_KIND_CLIENT
    )
    model.attributes.extend(
        [
            attribute("gen_ai.operation.name", "chat"),
            attribute("gen_ai.provider.name", "openai"),
            attribute("gen_ai.request.model", "scripted"),
            attribute("gen_ai.prompt.name", "support"),
            attribute("gen_ai.prompt.version", version),
            attribute("gen_ai.input.messages", messages("user", question)),
            attribute("gen_ai.output.messages", messages("assistant", answer)),
        ]
    )
    for span in (root, retrieval, model):
        span.start_time_unix_nano, span.end_time_unix_nano = start, end
    return [root, retrieval, model]


def extra_span(number: object, name: str) -> Span:
    """Return one more span of conversation ``number``, without any GenAI attribute."""
    now = time.time_ns()
    return Span(
        trace_id=hexid("trace", number, size=16),
        span_id=hexid("extra", number, name, size=8),
        parent_span_id=hexid("span", number, 0, size=8),
        name=name,
        start_time_unix_nano=now - 1_000_000,
        end_time_unix_nano=now,
    )


def request(spans: list[Span], service: str = "app") -> ExportTraceServiceRequest:
    """Return one export request with ``spans``."""
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", service))
    resource.scope_spans.add().spans.extend(spans)
    return made
